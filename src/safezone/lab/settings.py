"""Settings as frozen values: a preset, a YAML file over it, the command line over that."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, TypeAlias

import tyro
from pydantic import BeforeValidator
from tyro.constructors import PrimitiveConstructorSpec

from safezone.errors import UserError
from safezone.fields import Checked, Count, Finite, Natural, Portion
from safezone.lab.kinds import kind_of
from safezone.lab.training import TRAINING, Training, training_preset
from safezone.models.precision import LongPrompts, Precision
from safezone.scores.table import SLOTS

if TYPE_CHECKING:
    from safezone.poisons import Poison

_FORBID: Final = {"extra": "forbid"}


def fraction(value: Any) -> Any:
    """A number, or a quotient such as ``16/255``; anything that is no text comes back unchanged.

    Raises ValueError for other text.
    """
    if not isinstance(value, str):
        return value
    above, slash, below = value.partition("/")
    try:
        return float(above) / (float(below) if slash else 1.0)
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{value!r} is no number; write 0.0627 or 16/255") from error


def _level(value: float) -> str:
    levels = value * 255
    return f"{round(levels)}/255" if abs(levels - round(levels)) < 1e-6 else f"{value:g}"


Fraction: TypeAlias = Annotated[
    float,
    BeforeValidator(fraction),
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="NUMBER",
        instance_from_str=lambda texts: fraction(texts[0]),
        is_instance=lambda value: isinstance(value, int | float),
        str_from_instance=lambda value: [_level(value)],
    ),
]


def joined(value: Any) -> Any:
    """``[["jpeg", "t600"], "szt"]``, as YAML may have it, to ``["jpeg+t600", "szt"]``."""
    if not isinstance(value, list):
        return value
    return ["+".join(map(str, each)) if isinstance(each, list) and each else each for each in value]


Names: TypeAlias = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
"""A list that an option, given several times, makes."""


@dataclass(frozen=True)
class Poisoning(Checked):
    """How strong a poison is and how it is searched."""

    __pydantic_config__: ClassVar[Any] = _FORBID

    kappa: Fraction = 16 / 255
    """Largest change of any value of a pixel, pixels in [0, 1]: 0.0627 or 16/255."""
    norm: Literal["linf", "l2"] = "linf"
    """What kappa and eta measure: the largest change, or the length over all of an image."""
    eta: Fraction | None = None
    """Length of one step, in the same units; by default the poison's own, mostly 1/255."""
    steps: Count | None = None
    """Gradient steps for each image; by default the poison's own, mostly 100."""
    start: Literal["uniform", "zero"] | None = None
    """Where the search starts: anywhere in the budget or at the clean image; else the poison's."""
    prompt: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """What the U-Net is told; by default the poison's own."""
    target: Annotated[str | None, tyro.conf.arg(metavar="FILE|NAME")] = None
    """Of targeted poisons: an image file, or pattern, zero, grey; by default the poison's own."""
    transform: Annotated[str | None, tyro.conf.arg(metavar="NAMES")] = None
    """What the poison shall survive: jpeg, jpeg<quality>, resize, crop, flip, blur, joined by +."""
    repetitions: Count | None = None
    """Draws of timestep, noise and transform that are averaged for one step."""
    files: Annotated[Names, tyro.conf.arg(name="poison-file", metavar="FILE")] = ()
    """Python file with poisons of your own, which is run; may be given repeatedly."""

    def poison(self, name: str) -> "Poison":
        """The poison of that name with these settings; UserError for unknown names and ranges."""
        from safezone.poisons import Budget, own_poisons, poison, transform
        from safezone.poisons.guide import read_target

        if self.norm == "l2" and self.eta is None:
            raise UserError(
                "The norm is l2, where kappa and eta are lengths over all of an image; "
                "give eta too, such as kappa 3 and eta 0.2."
            )
        own: dict[str, Any] = {
            "eta": self.eta,
            "steps": self.steps,
            "start": self.start,
            "prompt": self.prompt,
            "target": None if self.target is None else read_target(self.target),
            "transform": None if self.transform is None else transform(self.transform),
            "repetitions": self.repetitions,
        }
        chosen = {key: value for key, value in own.items() if value is not None}
        row = poison(name, own_poisons(Path(file) for file in self.files))
        return replace(row, budget=Budget(self.kappa, self.norm), **chosen)


@dataclass(frozen=True)
class Sampling(Checked):
    """What is generated with the learned token."""

    __pydantic_config__: ClassVar[Any] = _FORBID

    prompts: Names = ("all25",)
    """Prompt list, text file or a prompt, with {} for the learned word or (generate) in full; may
    be given repeatedly. By default the model's own list (mini, paper24) or the demo's six."""
    images_per_prompt: Count = 1
    """Images for every prompt."""
    steps: Count = 25
    """Denoising steps of every image."""
    guidance: Finite = 5.0
    """Classifier-free guidance; 1 is none."""
    guidance_rescale: Portion = 0.0
    """Share of the guided prediction brought to the prompt's own deviation; 0.7 suits velocity
    models of zero terminal SNR."""
    scheduler: str = "ddim"
    """The sampler."""

    def texts(self) -> tuple[str, ...]:
        """All prompts without repeats; UserError for an unknown list."""
        from safezone.concepts.prompts import prompt_list

        return tuple(dict.fromkeys(text for name in self.prompts for text in prompt_list(name)))

    def templates(self) -> tuple[str, ...]:
        """All prompts, of which each must have ``{}``, or the learned words would not be seen."""
        texts = self.texts()
        complete = next((text for text in texts if "{}" not in text), None)
        if complete is not None:
            raise UserError(
                f"the prompt {complete!r} has no {{}}; put {{}} where the learned word belongs"
            )
        return texts


_ENCODERS: Any = make_dataclass(
    "_ENCODERS",
    [
        (slot.setting, Annotated[str, tyro.conf.arg(help=slot.help)], slot.default)
        for slot in SLOTS.values()
    ],
    frozen=True,
)


@dataclass(frozen=True)
class Scoring(_ENCODERS):  # type: ignore[misc]  # a field for each slot of scores.table
    """What looks at the generated images."""

    __pydantic_config__: ClassVar[Any] = _FORBID


@dataclass(frozen=True)
class Cells(Checked):
    """Which runs a table is made of."""

    __pydantic_config__: ClassVar[Any] = _FORBID

    concepts: Count = 10
    """How many of the built-in novel concepts, from the first."""
    seeds: Count = 3
    """Seeds 0, 1, ... of training and generation."""
    poisons: Annotated[Names, tyro.conf.arg(name="poison")] = ("adm+", "ea")
    """Poison beside clean images; may be given repeatedly. By default adm+ and ea; in the demo
    adm+."""
    defenses: Annotated[Names, BeforeValidator(joined), tyro.conf.arg(name="defense")] = (
        *("nominal", "jpeg", "t600", "lm", "szt"),
    )
    """Defense; may be given repeatedly. By default nominal, jpeg, t600, lm and szt; in the demo
    nominal and szt."""
    poison_seed: Annotated[Natural | None, tyro.conf.arg(metavar="SEED")] = None
    """Seed of every poison, for all seeds of a concept; None: each run's own, poisoned anew."""


@dataclass(frozen=True)
class Settings:
    """Everything that an experiment can be told; the fields are the groups of a YAML file.

    ``poison_model``: what poisons are made on, several as an ensemble; none is the model that is
    personalized (white box). ``purify_model``: what Regen and the like denoise with, by default
    that model too. ``precision``: what models compute in. ``long_prompts``: what becomes of those
    that the text encoder cannot take whole.
    """

    __pydantic_config__: ClassVar[Any] = _FORBID

    model: str = "mini"
    poison_model: Names = ()
    purify_model: str | None = None
    precision: Precision = "float32"
    long_prompts: LongPrompts = "cut"
    poisoning: Poisoning = field(default_factory=Poisoning)
    training: Training = field(default_factory=Training)
    sampling: Sampling = field(default_factory=Sampling)
    scoring: Scoring = field(default_factory=Scoring)
    cells: Cells = field(default_factory=Cells)


def settings_told(told: Any, cells: Cells, model: str | None = None) -> Settings:
    """The settings in a command's options, which have the same fields but for ``cells``.

    ``model``: instead of the one that they name.
    """
    same = {
        each.name: getattr(told, each.name) for each in fields(Settings) if each.name != "cells"
    }
    return Settings(**same | {"cells": cells, "model": told.model if model is None else model})


CANDIDATES: Final = 4
"""Images of each cell of a figure, of which it shows the most faithful one."""

PRESETS: Final[Mapping[str, Settings]] = MappingProxyType(
    {
        "mini": Settings(
            model="mini",
            training=TRAINING["mini", "ti"],
            sampling=Sampling(prompts=("mini",), steps=25, guidance=4.0),
            scoring=Scoring(**{slot.setting: slot.built_in for slot in SLOTS.values()}),
            cells=Cells(poison_seed=0),
        ),
        # The paper's: five images for each of 24 prompts; the sampler is not stated there.
        "sd15": Settings(
            model="sd15",
            sampling=Sampling(("paper24",), images_per_prompt=5, steps=50, guidance=7.5),
        ),
    }
)
"""Settings by kind of model; what a model called otherwise gets is ``sd15``."""

DEMO: Final = replace(
    PRESETS["mini"],
    sampling=replace(
        PRESETS["mini"].sampling,
        prompts=(
            "a photo of a {}",
            "a photo of a {} on grass",
            "a photo of a {} in the snow",
            "a photo of a {} in the water",
            "a photo of a {} on wood",
            "a photo of a {} at night",
        ),
    ),
    cells=Cells(concepts=6, seeds=1, poisons=("adm+",), defenses=("nominal", "szt"), poison_seed=0),
)
"""Six concepts, about nine minutes of one core."""


def preset(model: str, method: str = "ti") -> Settings:
    """The preset for a model's name, folder or hub name and for a method."""
    kind = kind_of(model)
    return replace(
        PRESETS.get(kind, PRESETS["sd15"]), model=model, training=training_preset(kind, method)
    )
