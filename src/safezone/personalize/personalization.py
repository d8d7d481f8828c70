"""What all personalization methods share: how long and how fast they learn, with which prompts."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, get_args

from torch import Tensor

from safezone.concepts import Concept
from safezone.concepts.captions import CAPTION_SUFFIX
from safezone.concepts.prompts import OBJECT_TEMPLATES, STYLE_TEMPLATES, Templates
from safezone.errors import UserError
from safezone.files import digest
from safezone.models.base import Model
from safezone.models.deltas import Delta
from safezone.personalize.crops import PREFIXES
from safezone.personalize.injection import Injection, Start
from safezone.personalize.method import Schedule
from safezone.personalize.runs import PreparedRun

_WITHOUT_EFFECT = ("log_every", "checkpoint_every", "preview_every", "preview_prompts")
_NEWER = (
    *("accumulation", "start", "random_rows", "prior_weight", "prior_images", "text_targets"),
)
"""Settings that enter the content only when they are used: older results keep their keys."""


@dataclass(frozen=True)
class Personalization(ABC):
    """The settings that every method has.

    ``steps``: optimiser steps. ``batch_size``: images a run sees in each pass. ``accumulation``:
    passes whose gradients are averaged for one step. ``learning_rate``: AdamW's, never scaled by
    the batch. ``schedule``: of the rate, over the steps, without warmup. ``weight_decay``:
    AdamW's, towards zero of what is learned: of a changed layer, towards the model's own weights.
    ``templates``: the training prompts, with ``{}`` for the concept, or "captions": each image is
    shown under the one that its concept has for it. ``flip``: mirror each drawn
    image with probability 1/2; turn it off for things with writing. ``start``: an adapter's file
    to go on from, of ours or of another program. ``log_every``, ``checkpoint_every``,
    ``preview_every``: in steps; 0 makes no checkpoints but the last, and no previews.
    ``preview_prompts``: for ``safezone.generate.preview_writer``. ``prior_weight``: of the loss on
    images of the class that each run then brings along (``PreparedRun.prior``), under the prompt
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
    templates: Templates | tuple[str, ...] = "object"
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
        if isinstance(self.templates, str) and self.templates not in get_args(Templates):
            raise UserError(
                f"templates is {self.templates!r}; choose object, style, captions or a list of "
                "prompts."
            )
        if not self.prompts and not self.captions:
            raise UserError("templates is an empty list; give at least one prompt with {}.")
        for prompt in self.prompts:
            if prompt.count("{}") != 1:
                raise UserError(f"The template {prompt!r} needs {{}} once, for the placeholder.")

    @property
    def prior(self) -> bool:
        """Whether images of the class take part."""
        return self.prior_weight > 0

    @property
    def captions(self) -> bool:
        """Whether each image is shown under its own caption."""
        return self.templates == "captions"

    @property
    def prompts(self) -> tuple[str, ...]:
        """The training prompts, each with one ``{}``; none where images have their captions."""
        if isinstance(self.templates, tuple):
            return self.templates
        return {"object": OBJECT_TEMPLATES, "style": STYLE_TEMPLATES}.get(self.templates, ())

    def content(self) -> Mapping[str, Any]:
        """The settings that the result depends on."""
        unused = {each.name for each in fields(self) if getattr(self, each.name) == each.default}
        settings = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name not in _WITHOUT_EFFECT and not (name in _NEWER and name in unused)
        }
        settings["templates"] = "captions" if self.captions else list(self.prompts)
        if self.start is not None:
            settings["start"] = digest(self.start)
        return settings

    def trigger(self, concept: Concept) -> str:
        """What stands in a prompt for the concept."""
        return concept.placeholder

    def deltas(self, parameters: Mapping[str, Tensor]) -> dict[str, Delta]:
        """The changes of layers that the parameters make, with or without an axis of runs."""
        return {}

    @abstractmethod
    def begin(self, model: Model, run: PreparedRun) -> Mapping[str, Tensor]:
        """The parameters of one run before the first step, float32, without an axis of runs."""

    def constrain(  # noqa: B027 (most methods leave their parameters free)
        self, parameters: Mapping[str, Tensor], start: Mapping[str, Tensor]
    ) -> None:
        """Projects the parameters in place after each step."""

    def inject(self, model: Model, runs: Sequence[PreparedRun]) -> Injection:
        """The parameters of all runs at their start, and how a pass uses them.

        Raises UserError as ``begin`` does.
        """
        prefixes = PREFIXES if self.crop_rescale else PREFIXES[:1]
        most = max(len(run.concept.images) for run in runs)
        templates = most if self.captions else len(self.prompts)
        starts = []
        for run in runs:
            own = captions_of(run.concept, most) if self.captions else self.prompts
            texts = [prefix + prompt for prefix in prefixes for prompt in own]
            prompts = [text.replace("{}", self.trigger(run.concept)) for text in texts]
            if self.prior_weight:
                prompts.append(class_prompt(run.concept))
            placeholder = run.concept.placeholder if self.vectors else None
            starts.append(Start(self.begin(model, run), prompts, placeholder))
        return Injection(model, self, starts, self.vectors, templates)


def captions_of(concept: Concept, most: int) -> tuple[str, ...]:
    """The captions, and the last again up to ``most`` of them; UserError without captions."""
    if concept.captions is None:
        raise UserError(
            f"{concept.name} has no captions; write NAME{CAPTION_SUFFIX} beside each image NAME, "
            "or choose the templates object or style."
        )
    return concept.captions + concept.captions[-1:] * (most - len(concept.captions))


def class_prompt(concept: Concept) -> str:
    """What prior preservation says of images of the class; it comes after a run's own prompts."""
    return f"a photo of a {concept.class_word}"
