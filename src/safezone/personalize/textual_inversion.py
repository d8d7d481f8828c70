"""Textual inversion (Gal et al., 2022): a few token vectors are all that is learned."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from safezone.arrays import Latents
from safezone.errors import UserError
from safezone.models.base import Conditioning, Model, Tokens
from safezone.personalize.adapters import Adapter
from safezone.personalize.engine import fit
from safezone.personalize.exports import check_placeholder
from safezone.personalize.method import Batch, Network, Outcome, Schedule
from safezone.personalize.posteriors import TrainingRun
from safezone.prompts import OBJECT_TEMPLATES, STYLE_TEMPLATES

AdapterPreview: TypeAlias = Callable[[int, list[Adapter]], None]

_SLOT = "<learned>"
"""Stands for every run's placeholder in the templates: only the slots matter."""


@dataclass(frozen=True)
class TextualInversion:
    """Settings of textual inversion; the defaults are the paper's (Sec. 5.1).

    ``steps``: optimiser steps. ``batch_size``: images a run sees in each step. ``learning_rate``:
    AdamW's, never scaled by the batch. ``schedule``: of the rate, over the steps, without warmup.
    ``vectors``: how many one placeholder stands for. ``initializer``: the text whose token vectors
    start the learned ones; None is the concept's class word. ``initializer_token``: start all at
    that token of it (from 0); None: the k-th vector at the k-th token when there are as many, else
    all at the tokens' mean. ``templates``: the training prompts, with ``{}`` for the placeholder.
    ``flip``: mirror each drawn image with probability 1/2; turn it off for things with writing.
    ``weight_decay``: AdamW's; diffusers' script uses 1e-2, which also shrinks the learned vector.
    ``norm_anchor``: after each step scale every vector back to the norm it started with.
    ``log_every``, ``checkpoint_every``, ``preview_every``: in steps; 0 makes no checkpoints but
    the last, and no previews. ``preview_prompts``: for ``safezone.generate.preview_writer``.

    Raises UserError for a value out of its range.
    """

    steps: int = 5000
    batch_size: int = 1
    learning_rate: float = 5e-4
    schedule: Schedule = "constant"
    vectors: int = 1
    initializer: str | None = None
    initializer_token: int | None = None
    templates: Literal["object", "style"] | tuple[str, ...] = "object"
    flip: bool = True
    weight_decay: float = 0.0
    norm_anchor: bool = False
    log_every: int = 10
    checkpoint_every: int = 500
    preview_every: int = 0
    preview_prompts: tuple[str, ...] = ("a photo of a {}",)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "vectors", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; give at least 1.")
        for name in ("checkpoint_every", "preview_every", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} is {getattr(self, name)}; give 0 or more.")
        if not 0 < self.learning_rate < float("inf"):
            raise UserError(f"learning_rate is {self.learning_rate}; give a positive number.")
        if self.schedule not in ("constant", "linear", "cosine"):
            raise UserError(f"schedule is {self.schedule!r}; choose constant, linear or cosine.")
        if isinstance(self.templates, str) and self.templates not in ("object", "style"):
            raise UserError(
                f"templates is {self.templates!r}; choose object, style or a list of prompts."
            )
        if not self.prompts:
            raise UserError("templates is an empty list; give at least one prompt with {}.")
        for prompt in self.prompts:
            if prompt.count("{}") != 1:
                raise UserError(f"The template {prompt!r} needs {{}} once, for the placeholder.")

    @property
    def prompts(self) -> tuple[str, ...]:
        """The training prompts, each with one ``{}``."""
        if isinstance(self.templates, str):
            return OBJECT_TEMPLATES if self.templates == "object" else STYLE_TEMPLATES
        return self.templates

    def content(self) -> Mapping[str, Any]:
        """The settings that the result depends on."""
        settings = asdict(self) | {"templates": list(self.prompts)}
        for name in ("log_every", "checkpoint_every", "preview_every", "preview_prompts"):
            del settings[name]
        return settings

    def inject(self, model: Model, runs: Sequence[TrainingRun]) -> "TokenVectors":
        """The vectors of all runs, at their start.

        Raises UserError for a placeholder that is already a token, and for an initializer without
        tokens, or without the chosen one.
        """
        for placeholder in {run.concept.placeholder for run in runs}:
            check_placeholder(model, placeholder)
        starts = [self._start(model, run.concept.class_word) for run in runs]
        tokens = model.tokenize(
            [prompt.replace("{}", _SLOT) for prompt in self.prompts], _SLOT, self.vectors
        )
        return TokenVectors(
            model,
            Tokens(tokens.ids.to(model.device), tokens.slots.to(model.device)),
            torch.stack(starts),
            self.norm_anchor,
        )

    def _start(self, model: Model, class_word: str) -> Float[Tensor, "vectors width"]:
        text = class_word if self.initializer is None else self.initializer
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


class TokenVectors:
    """[runs, vectors, width], put into the frozen lookup by ``model.embed_text``."""

    def __init__(
        self,
        model: Model,
        tokens: Tokens,
        start: Float[Tensor, "runs vectors width"],
        norm_anchor: bool,
    ) -> None:
        self._model, self._tokens = model, tokens
        self._norms = start.norm(dim=-1, keepdim=True) if norm_anchor else None
        self.initial: Mapping[str, Tensor] = {"vectors": start}
        self.templates = len(tokens.ids)

    def predict(self, network: Network, parameters: Mapping[str, Tensor], batch: Batch) -> Latents:
        """The text encoder sees each (run, template) pair of the batch once."""
        pairs, pair_of = torch.unique(
            batch.runs * self.templates + batch.templates, return_inverse=True
        )
        device = self._model.device
        runs = (pairs // self.templates).to(device)
        templates = (pairs % self.templates).to(device)
        conditioning = self._model.embed_text(self._tokens[templates], parameters["vectors"][runs])
        return network(batch.noisy, batch.timesteps, take(conditioning, pair_of.to(device)))

    def constrain(self, parameters: Mapping[str, Tensor]) -> None:
        """Scales the vectors back to the norms they started with, if so asked."""
        if self._norms is not None:
            vectors = parameters["vectors"]
            vectors.mul_(self._norms / vectors.norm(dim=-1, keepdim=True))


def take(conditioning: Conditioning, rows: Tensor) -> Conditioning:
    """The given rows, repeated as often as they are named; differentiable."""
    added = conditioning.added
    return Conditioning(
        conditioning.encoder_hidden_states[rows],
        None if added is None else {name: value[rows] for name, value in added.items()},
    )


def train(
    model: Model,
    runs: Sequence[TrainingRun],
    settings: TextualInversion,
    folder: Path | None = None,
    *,
    progress: bool = True,
    preview: AdapterPreview | None = None,
    max_batch: int = 64,
    compile: bool = False,
) -> list[Adapter]:
    """Learns the token vectors of all runs in one pass a step; adapters in the order of the runs.

    ``preview(step, adapters)``, such as ``safezone.generate.preview_writer`` makes, is called every
    ``settings.preview_every`` steps; the rest is as in ``engine.fit``. A run that became NaN comes
    back as ``failed``.

    Raises UserError as ``engine.fit`` and ``TextualInversion.inject`` do.
    """

    def adapters(step: int, outcomes: Sequence[Outcome]) -> list[Adapter]:
        return [
            _adapter(model, run, settings, step, outcome)
            for run, outcome in zip(runs, outcomes, strict=True)
        ]

    def show(step: int, outcomes: Sequence[Outcome]) -> None:
        if preview is not None:
            preview(step, adapters(step, outcomes))

    outcomes = fit(
        model,
        runs,
        settings,
        folder,
        progress=progress,
        preview=show,
        max_batch=max_batch,
        compile=compile,
    )
    return adapters(settings.steps, outcomes)


def _adapter(
    model: Model, run: TrainingRun, settings: TextualInversion, step: int, outcome: Outcome
) -> Adapter:
    return Adapter(
        vectors=outcome.parameters["vectors"].cpu(),
        placeholder=run.concept.placeholder,
        class_word=run.concept.class_word,
        provenance={
            "method": "textual inversion",
            "run": run.key,
            "concept": run.concept.name,
            "concept_content_key": run.concept.content_key(),
            "defense": run.defense.name,
            "defense_parts": repr(run.defense),
            "model": model.name,
            "seed": run.seed,
            "step": step,
            "failed_at": outcome.failed_at,
            "final_loss": outcome.loss if outcome.loss == outcome.loss else None,
            "settings": dict(settings.content()),
            "version": _version(),
        },
    )


def _version() -> str:
    try:
        return version("safezone")
    except PackageNotFoundError:  # run from a source folder
        return "unknown"
