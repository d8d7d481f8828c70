"""What all personalization methods share, and the runs that they train on."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from jaxtyping import UInt8
from pydantic import Field
from torch import Tensor

from safezone.concepts import Concept
from safezone.concepts.folder import CAPTION_SUFFIX
from safezone.concepts.prompts import OBJECT_TEMPLATES, STYLE_TEMPLATES, Templates
from safezone.defenses import Defense, ObjectMask, TimestepDistribution, defend
from safezone.errors import UserError
from safezone.fields import Checked, Count, Natural, Rate, Weight
from safezone.files import digest
from safezone.models.base import Model
from safezone.models.deltas import Delta
from safezone.personalize.draws import CROP_PREFIXES


@dataclass(frozen=True)
class PreparedRun:
    """One personalization as the trainer sees it: images that no preprocess touches any more.

    ``key``: unique among the runs of one pass; names the run's log. ``concept``: the images that
    are trained on, square, with their masks. ``timesteps``, ``loss_mask``: when to train and where
    the loss counts. ``prior``: images of the class for prior preservation, at the concept's size.
    ``record``: JSON values that the adapter's provenance repeats, such as the defense's name.
    ``words``: what every training prompt ends with.
    """

    key: str
    concept: Concept
    timesteps: TimestepDistribution
    loss_mask: ObjectMask
    seed: int
    prior: UInt8[Tensor, "m 3 s s"] | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    words: str = ""

    def content(self) -> list[Any]:
        """What the result depends on, as JSON values; images by their hash."""
        return [
            self.key,
            self.concept.content_key(),
            repr(self.timesteps),
            repr(self.loss_mask),
            self.seed,
            *([] if self.prior is None else [digest(self.prior)]),
            *([self.words] if self.words else []),
        ]


@dataclass(frozen=True)
class TrainingRun:
    """One personalization as it is asked for: which images, under which defense, which seed.

    ``concept``: as it came, clean or poisoned, before the defense's preprocess. ``key`` and
    ``prior`` as in ``PreparedRun``.
    """

    key: str
    concept: Concept
    defense: Defense
    seed: int
    prior: UInt8[Tensor, "m 3 s s"] | None = None

    def prepare(self, model: Model) -> PreparedRun:
        """The run on its preprocessed images; ``train`` does this where it has not been done.

        ``model``: what purifiers denoise with. Raises UserError when a purifier's networks cannot
        be opened.
        """
        return PreparedRun(
            self.key,
            defend(self.concept, self.defense, self.seed, model),
            self.defense.timesteps,
            self.defense.loss_mask,
            self.seed,
            self.prior,
            {
                "concept_content_key": self.concept.content_key(),
                "defense": self.defense.name,
                "defense_parts": repr(self.defense),
            },
            self.defense.words,
        )


_WITHOUT_EFFECT = ("log_every", "checkpoint_every", "preview_every", "preview_prompts")


@dataclass(frozen=True)
class Personalization(Checked, ABC):
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
    "a photo of a <class word>" and at uniform timesteps (prior preservation, Ruiz et al. 2023; for
    methods that change layers); 0 is none. ``prior_images``: how many the model draws where a
    command makes them.

    Raises UserError for a value out of its range.
    """

    name: ClassVar[str]
    """What the method is called in rows and provenance."""
    vectors: ClassVar[int] = 0
    """How many token vectors one placeholder stands for."""
    crop_rescale: ClassVar[bool] = False
    """Whether images are shown smaller or in part (``safezone.personalize.draws``)."""

    steps: Count = 5000
    batch_size: Count = 1
    learning_rate: Rate = 5e-4
    schedule: Annotated[Literal["constant", "linear", "cosine"], Field()] = "constant"
    templates: Templates | tuple[str, ...] = "object"
    flip: bool = True
    weight_decay: Weight = 0.0
    accumulation: Count = 1
    start: Path | None = None
    log_every: Count = 10
    checkpoint_every: Natural = 500
    preview_every: Natural = 0
    preview_prompts: tuple[str, ...] = ("a photo of a {}",)
    prior_weight: Weight = 0.0
    prior_images: Count = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prior_weight and type(self).deltas is Personalization.deltas:
            raise UserError(
                f"prior_weight is {self.prior_weight:g}, but {self.name} changes no layer, so that "
                "images of the class teach it nothing; leave it out or choose another method."
            )
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

    def rate(self, step: int) -> float:
        """AdamW's rate in step ``step`` from 0: constant, or down to 0 linearly or as a cosine."""
        done = step / self.steps
        factors = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        return self.learning_rate * factors.get(self.schedule, 1.0)

    def content(self) -> Mapping[str, Any]:
        """The settings that the result depends on, as JSON values; of ``start`` the file's hash."""
        settings = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name not in _WITHOUT_EFFECT
        }
        settings["templates"] = "captions" if self.captions else list(self.prompts)
        settings["start"] = None if self.start is None else digest(self.start)
        return settings

    def trigger(self, concept: Concept) -> str:
        """What stands in a prompt for the concept, by default its placeholder."""
        return concept.placeholder

    def deltas(self, parameters: Mapping[str, Tensor]) -> dict[str, Delta]:
        """The changes of layers that the parameters make, by the names of ``Model.layers``.

        ``parameters``: as ``begin`` names them, [*runs, ...], with an axis of runs in training and
        without when the adapter is made. Differentiable. By default none.
        """
        return {}

    @abstractmethod
    def begin(self, model: Model, run: PreparedRun) -> Mapping[str, Tensor]:
        """The parameters of one run before the first step, by name, float32, on the CPU.

        Random ones come from ``stream(run.seed, run.concept.name, ...)``. Raises UserError where
        the model or the run does not fit the settings.
        """

    def constrain(self, parameters: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> None:
        """Projects the parameters, [runs, ...], in place after each step; by default not at all.

        ``start``: as they were before the first step.
        """

    def prompts_of(self, run: PreparedRun, images: int) -> list[str]:
        """What a run trains on, in full; captions are repeated up to ``images`` of them."""
        prefixes = CROP_PREFIXES if self.crop_rescale else CROP_PREFIXES[:1]
        own = captions_of(run.concept, images) if self.captions else self.prompts
        texts = [prefix + prompt + run.words for prefix in prefixes for prompt in own]
        prompts = [text.replace("{}", self.trigger(run.concept)) for text in texts]
        return [*prompts, class_prompt(run.concept)] if self.prior_weight else prompts


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
