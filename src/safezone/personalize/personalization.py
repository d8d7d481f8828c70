"""What all personalization methods share: how long and how fast they learn, with which prompts."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from safezone.concepts import Concept
from safezone.errors import UserError
from safezone.models.base import Model
from safezone.models.deltas import Delta
from safezone.personalize.crops import PREFIXES
from safezone.personalize.injection import Injection, Start
from safezone.personalize.method import Schedule
from safezone.personalize.posteriors import TrainingRun
from safezone.prompts import OBJECT_TEMPLATES, STYLE_TEMPLATES

_WITHOUT_EFFECT = ("log_every", "checkpoint_every", "preview_every", "preview_prompts")
_NEWER = ("accumulation", "start", "random_rows", "prior_weight", "prior_images")
"""Settings that enter the content only when they are used: older results keep their keys."""


@dataclass(frozen=True)
class Personalization(ABC):
    """The settings that every method has.

    ``steps``: optimiser steps. ``batch_size``: images a run sees in each pass. ``accumulation``:
    passes whose gradients are averaged for one step. ``learning_rate``: AdamW's, never scaled by
    the batch. ``schedule``: of the rate, over the steps, without warmup. ``weight_decay``:
    AdamW's, towards zero of what is learned: of a changed layer, towards the model's own weights.
    ``templates``: the training prompts, with ``{}`` for the concept. ``flip``: mirror each drawn
    image with probability 1/2; turn it off for things with writing. ``start``: an adapter's file
    to go on from, of ours or of another program. ``log_every``, ``checkpoint_every``,
    ``preview_every``: in steps; 0 makes no checkpoints but the last, and no previews.
    ``preview_prompts``: for ``safezone.generate.preview_writer``. ``prior_weight``: of the loss on
    images of the class that each run then brings along (``TrainingRun.prior``), under the prompt
    "a photo of a <class word>" and at uniform timesteps (prior preservation, Ruiz et al. 2023); 0
    is none. ``prior_images``: how many the model draws where a command makes them.

    Raises UserError for a value out of its range.
    """

    name: ClassVar[str]
    """What the method is called in rows and provenance."""
    vectors: ClassVar[int] = 0
    """How many token vectors one placeholder stands for."""
    crop_rescale: ClassVar[bool] = False
    """Whether images are shown smaller or in part (``safezone.personalize.crops``)."""

    steps: int = 5000
    batch_size: int = 1
    learning_rate: float = 5e-4
    schedule: Schedule = "constant"
    templates: Literal["object", "style"] | tuple[str, ...] = "object"
    flip: bool = True
    weight_decay: float = 0.0
    accumulation: int = 1
    start: Path | None = None
    log_every: int = 10
    checkpoint_every: int = 500
    preview_every: int = 0
    preview_prompts: tuple[str, ...] = ("a photo of a {}",)
    prior_weight: float = 0.0
    prior_images: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "log_every", "prior_images"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; give at least 1.")
        for name in ("checkpoint_every", "preview_every", "weight_decay", "prior_weight"):
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
    def prior(self) -> bool:
        """Whether images of the class take part."""
        return self.prior_weight > 0

    @property
    def prompts(self) -> tuple[str, ...]:
        """The training prompts, each with one ``{}``."""
        if isinstance(self.templates, str):
            return OBJECT_TEMPLATES if self.templates == "object" else STYLE_TEMPLATES
        return self.templates

    def content(self) -> Mapping[str, Any]:
        """The settings that the result depends on."""
        unused = {each.name for each in fields(self) if getattr(self, each.name) == each.default}
        settings = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name not in _WITHOUT_EFFECT and not (name in _NEWER and name in unused)
        }
        settings["templates"] = list(self.prompts)
        if self.start is not None:
            settings["start"] = hashlib.sha256(self.start.read_bytes()).hexdigest()
        return settings

    def trigger(self, concept: Concept) -> str:
        """What stands in a prompt for the concept."""
        return concept.placeholder

    def deltas(self, parameters: Mapping[str, Tensor]) -> dict[str, Delta]:
        """The changes of layers that the parameters make, with or without an axis of runs."""
        return {}

    @abstractmethod
    def begin(self, model: Model, run: TrainingRun) -> Mapping[str, Tensor]:
        """The parameters of one run before the first step, float32, without an axis of runs."""

    def constrain(  # noqa: B027 (most methods leave their parameters free)
        self, parameters: Mapping[str, Tensor], start: Mapping[str, Tensor]
    ) -> None:
        """Projects the parameters in place after each step."""

    def inject(self, model: Model, runs: Sequence[TrainingRun]) -> Injection:
        """The parameters of all runs at their start, and how a pass uses them.

        Raises UserError as ``begin`` does.
        """
        prefixes = PREFIXES if self.crop_rescale else PREFIXES[:1]
        texts = [prefix + prompt for prefix in prefixes for prompt in self.prompts]
        starts = [
            Start(
                self.begin(model, run),
                [
                    *(text.replace("{}", self.trigger(run.concept)) for text in texts),
                    *([class_prompt(run.concept)] if self.prior_weight else []),
                ],
                run.concept.placeholder if self.vectors else None,
            )
            for run in runs
        ]
        return Injection(model, self, starts, self.vectors, len(self.prompts))


def class_prompt(concept: Concept) -> str:
    """What prior preservation says of images of the class; it comes after a run's own prompts."""
    return f"a photo of a {concept.class_word}"
