"""Textual inversion (Gal et al., 2022): a few token vectors are all that is learned."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from safezone.arrays import stream
from safezone.errors import UserError
from safezone.models.base import Model
from safezone.personalize.embedding_files import check_placeholder
from safezone.personalize.history import VECTORS
from safezone.personalize.personalization import Personalization
from safezone.personalize.runs import PreparedRun
from safezone.personalize.starting import started_vectors


@dataclass(frozen=True)
class TextualInversion(Personalization):
    """Settings of textual inversion; the defaults are the paper's (Sec. 5.1).

    ``vectors``: how many one placeholder stands for. ``initializer``: the text whose token vectors
    start the learned ones; None is the concept's class word. ``initializer_token``: start all at
    that token of it (from 0); None: the k-th vector at the k-th token when there are as many, else
    all at the tokens' mean. ``random_rows``: start at random rows of the lookup instead, one for
    each vector, other ones for other seeds. ``norm_anchor``: after each step scale every vector
    back to the norm it started with. ``weight_decay``: diffusers' script uses 1e-2, which also
    shrinks the learned vector. The rest as in ``Personalization``.

    Raises UserError for a value out of its range.
    """

    name: ClassVar[str] = "textual inversion"

    vectors: int = 1  # type: ignore[misc]
    initializer: str | None = None
    initializer_token: int | None = None
    random_rows: bool = False
    norm_anchor: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vectors < 1:
            raise UserError(f"vectors is {self.vectors}; give at least 1.")
        if self.random_rows and self.initializer is not None:
            raise UserError("random_rows and initializer are both given; choose one of them.")

    def begin(self, model: Model, run: PreparedRun) -> Mapping[str, Tensor]:
        """The vectors at their start.

        Raises UserError for a placeholder that is already a token, and for an initializer without
        tokens, or without the chosen one.
        """
        check_placeholder(model, run.concept.placeholder)
        if self.start is not None:
            return {VECTORS: started_vectors(self.start, model, self.vectors)}
        if self.random_rows:
            generator = stream(run.seed, run.concept.name, "rows")
            words = model.ordinary_tokens()
            chosen = torch.randint(len(words), (self.vectors,), generator=generator)
            return {VECTORS: model.token_vectors(words[chosen]).float()}
        return {VECTORS: self._words(model, self.initializer or run.concept.class_word)}

    def _words(self, model: Model, text: str) -> Float[Tensor, "vectors width"]:
        rows = model.word_vectors(text).float()
        if not len(rows):
            raise UserError(
                f"The initializer {text!r} has no tokens; set initializer to a word for "
                "the concept."
            )
        if self.initializer_token is not None:
            if not 0 <= self.initializer_token < len(rows):
                raise UserError(
                    f"initializer_token is {self.initializer_token}, but {text!r} has "
                    f"{len(rows)} tokens; give 0 to {len(rows) - 1}."
                )
            return rows[self.initializer_token].repeat(self.vectors, 1)
        if len(rows) == self.vectors:
            return rows
        return rows.mean(dim=0).repeat(self.vectors, 1)

    def constrain(self, parameters: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> None:
        """Scales the vectors back to the norms they started with, if so asked."""
        if self.norm_anchor:
            vectors = parameters[VECTORS]
            norms = torch.linalg.vector_norm(start[VECTORS], dim=-1, keepdim=True)
            vectors.mul_(norms / vectors.norm(dim=-1, keepdim=True))
