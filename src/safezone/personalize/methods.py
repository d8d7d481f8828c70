"""Textual inversion, LoRA, Custom Diffusion; where each starts, and goes on from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from safezone.arrays import stream
from safezone.concepts import Concept
from safezone.concepts.prompts import Templates
from safezone.errors import UserError
from safezone.fields import Count, Positive, Rate
from safezone.models.base import Model
from safezone.models.deltas import Delta, Full, LowRank
from safezone.personalize.adapters import VECTORS
from safezone.personalize.files import check_placeholder, load_adapter
from safezone.personalize.personalization import Personalization, PreparedRun


def _started_vectors(
    path: Path, model: Model, count: int, *, layers: bool
) -> Float[Tensor, "vectors width"]:
    """The vectors in the file; UserError unless there are ``count`` of the model's width.

    ``layers``: whether the file may change layers too.
    """
    adapter = load_adapter(path, model)
    vectors = adapter.vectors
    if len(vectors) and adapter.deltas and not layers:
        raise UserError(
            f"{path} changes {len(adapter.deltas)} layers beside its token vectors, which would be "
            "lost; go on from it with the method that made it."
        )
    if not len(vectors):
        raise UserError(
            f"{path} holds no token vectors but changes of layers; start from an embedding, or "
            "choose the method that made it."
        )
    if vectors.shape != (count, model.embedding_width):
        raise UserError(
            f"{path} holds {len(vectors)} vectors of {vectors.shape[1]} numbers, and {count} of "
            f"{model.embedding_width} are wanted; give vectors {len(vectors)} and the kind of "
            "model it was trained on."
        )
    return vectors.clone()


def _started_low_rank(
    path: Path, model: Model, layers: Sequence[str], rank: int, scale: float
) -> Mapping[str, Tensor]:
    """Down and up matrices from the file, for just these layers and this rank.

    A scale other than ``scale`` is taken into the up matrix. Raises UserError when the file has
    other layers or ranks.
    """
    deltas = load_adapter(path, model).deltas
    if others := set(deltas) ^ set(layers):
        raise UserError(
            f"{path} changes {len(deltas)} layers and the training {len(layers)}, for example not "
            f"both {min(others)}; give the targets, text_encoder and text_targets that the file "
            "was trained with."
        )
    parameters = {}
    for name in layers:
        delta = deltas[name]
        if not isinstance(delta, LowRank) or len(delta.down) != rank:
            kind = f"rank {len(delta.down)}" if isinstance(delta, LowRank) else "full changes"
            raise UserError(f"{path} has {kind} and the training rank {rank}; give its own rank.")
        parameters[f"{name}.down"] = delta.down.clone()
        parameters[f"{name}.up"] = delta.up * (delta.scale / scale)
    return parameters


@dataclass(frozen=True)
class TextualInversion(Personalization):
    """Settings of textual inversion; the defaults are the paper's (Sec. 5.1).

    ``vectors``: how many one placeholder stands for. ``initializer``: the text whose token vectors
    start the learned ones; None is the concept's class word. ``initializer_token``: start all at
    that token of it (from 0); None: the k-th vector at the k-th token when there are as many, else
    all at the tokens' mean. ``random_rows``: start at random rows of the lookup instead, one for
    each vector, other ones for other seeds. Words, random rows and ``start`` exclude each other.
    ``norm_anchor``: after each step scale every vector back to the norm it started with.
    ``weight_decay``: diffusers' script uses 1e-2, which also shrinks the learned vector. The rest
    as in ``Personalization``.

    Raises UserError for a value out of its range.
    """

    name: ClassVar[str] = "textual inversion"

    vectors: Count = 1  # type: ignore[misc]
    initializer: str | None = None
    initializer_token: int | None = None
    random_rows: bool = False
    norm_anchor: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        words = self.initializer is not None or self.initializer_token is not None
        given = {"start": self.start is not None, "random_rows": self.random_rows}
        chosen = [name for name, is_given in {**given, "initializer": words}.items() if is_given]
        if len(chosen) > 1:
            raise UserError(
                f"{' and '.join(chosen)} are given, and each says where the vectors start; choose "
                "one of them."
            )

    def begin(self, model: Model, run: PreparedRun) -> Mapping[str, Tensor]:
        """The vectors at their start.

        Raises UserError for a placeholder that is already a token, and for an initializer without
        tokens, or without the chosen one.
        """
        check_placeholder(model, run.concept.placeholder)
        if self.start is not None:
            layers = type(self).deltas is not Personalization.deltas
            return {VECTORS: _started_vectors(self.start, model, self.vectors, layers=layers)}
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


@dataclass(frozen=True)
class LoRA(Personalization):
    """Settings of LoRA; the defaults are the paper's (Appendix P) and diffusers' script's.

    ``rank``; ``alpha``: the change is scaled by alpha / rank; None is the rank. ``targets``: ends
    of the names of the U-Net's layers that change. ``text_encoder``: change layers of the text
    encoder too, those whose names end in ``text_targets``. ``token``: the dummy word that signifies
    the LoRA; with the class word it stands for the concept in prompts, as in "a photo of a * dog".
    Down matrices start normal with deviation 1 / rank, up matrices at zero. The rest as in
    ``Personalization``.

    Raises UserError for a value out of its range.
    """

    name: ClassVar[str] = "lora"

    steps: Count = 1000
    learning_rate: Rate = 1e-4
    templates: Templates | tuple[str, ...] = ("a photo of a {}",)
    rank: Count = 4
    alpha: Positive | None = None
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    text_encoder: bool = False
    text_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "out_proj")
    token: str = "*"

    def trigger(self, concept: Concept) -> str:
        """The dummy word and the class word."""
        return f"{self.token} {concept.class_word}".strip()

    def layers(self, model: Model) -> list[str]:
        """The names of the layers that change; UserError when a target names none."""
        parts = [("unet", "targets", self.targets, "to_q or ff.net.2")]
        if self.text_encoder:
            parts.append(("text_encoder", "text_targets", self.text_targets, "q_proj or mlp.fc1"))
        chosen = set()
        for part, option, targets, example in parts:
            for target in targets:
                # text_encoder_2 is a text encoder too
                of_part = [name for name in model.layers if name.startswith(part)]
                ending = {name for name in of_part if name.endswith(f".{target}")}
                if not ending:
                    raise UserError(
                        f"The model {model.name} has no layer of the {part} that ends in "
                        f"{target!r}; give {option} such as {example}."
                    )
                chosen |= ending
        if not chosen:
            raise UserError("targets is an empty list; give at least one, such as to_q.")
        return [name for name in model.layers if name in chosen]

    def begin(self, model: Model, run: PreparedRun) -> Mapping[str, Tensor]:
        """Down and up matrix of every layer, which change nothing yet."""
        layers = self.layers(model)
        most = max(min(model.layers[name]) for name in layers)
        if self.rank > most:
            raise UserError(f"rank is {self.rank}, but the largest layer has {most}; give less.")
        if self.start is not None:
            return _started_low_rank(self.start, model, layers, self.rank, self._scale)
        parameters: dict[str, Tensor] = {}
        for name in layers:
            outputs, inputs = model.layers[name]
            generator = stream(run.seed, run.concept.name, "lora", name)
            down = torch.randn(self.rank, inputs, generator=generator) / self.rank
            parameters |= {f"{name}.down": down, f"{name}.up": torch.zeros(outputs, self.rank)}
        return parameters

    @property
    def _scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def deltas(self, parameters: Mapping[str, Tensor]) -> dict[str, Delta]:
        """The low-rank changes that the parameters make."""
        names = [key.removesuffix(".down") for key in parameters if key.endswith(".down")]
        return {
            name: LowRank(parameters[f"{name}.down"], parameters[f"{name}.up"], self._scale)
            for name in names
        }


_TARGETS = (".attn2.to_k", ".attn2.to_v")


@dataclass(frozen=True)
class CustomDiffusion(TextualInversion):
    """Settings of Custom Diffusion; the steps are the paper's (Appendix P), the rate diffusers'.

    The token's vectors start and learn as in ``TextualInversion``; the placeholder and the class
    word together stand for the concept in prompts, as in "a photo of a <toy> dog". The weights of
    keys and values learn from where they are; the start token's are left out of the learning, as in
    the released code. ``crop_rescale``: the augmentation of ``safezone.personalize.draws``.

    Raises UserError for a value out of its range.
    """

    name: ClassVar[str] = "custom diffusion"

    steps: Count = 1000
    learning_rate: Rate = 1e-5
    crop_rescale: bool = False  # type: ignore[misc]

    def trigger(self, concept: Concept) -> str:
        """The placeholder and the class word."""
        return f"{concept.placeholder} {concept.class_word}".strip()

    def begin(self, model: Model, run: PreparedRun) -> Mapping[str, Tensor]:
        """The token's vectors, and no change of any key or value yet; UserError as the parent."""
        layers = [
            name for name in model.layers if name.startswith("unet.") and name.endswith(_TARGETS)
        ]
        if not layers:
            raise UserError(
                f"The model {model.name} has no cross-attention; Custom Diffusion needs some."
            )
        changes = {f"{name}.change": torch.zeros(model.layers[name]) for name in layers}
        if self.start is not None:
            deltas = load_adapter(self.start, model).deltas
            if unknown := set(deltas) - set(layers):
                raise UserError(
                    f"{self.start} changes {min(unknown)}, which this method leaves alone; go on "
                    "from it with the method that made it."
                )
            changes |= {f"{name}.change": each.weight().clone() for name, each in deltas.items()}
        return {**super().begin(model, run), **changes}

    def deltas(self, parameters: Mapping[str, Tensor]) -> dict[str, Delta]:
        """The changes of keys and values."""
        return {
            name.removesuffix(".change"): Full(value, frozen_start=True)
            for name, value in parameters.items()
            if name != VECTORS
        }
