"""What an experiment, a training of it and a figure can be told, as frozen values."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

import tyro
from pydantic import BeforeValidator, Field
from tyro.constructors import PrimitiveConstructorSpec

from safezone.errors import UserError
from safezone.fields import Checked, Closed, Count, Natural, Portion, Weight
from safezone.lab.training import Training
from safezone.models.known import LongPrompts, Precision
from safezone.scores.rows import CLEAN
from safezone.scores.table import SLOTS

if TYPE_CHECKING:
    from safezone.poisons import Poison


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


_BUDGETS: Final = {"l2": "kappa 3 and eta 0.2", "linf": "kappa 16/255 and eta 1/255"}


@dataclass(frozen=True)
class Poisoning(Checked):
    """How strong a poison is and how it is searched."""

    kappa: Fraction | None = None
    """Largest change of any value of a pixel, pixels in [0, 1]: 0.0627 or 16/255; by default the
    poison's own, 16/255 of all in the table."""
    norm: Literal["linf", "l2"] | None = None
    """What kappa and eta measure: the largest change, or the length over all of an image; by
    default the poison's own, linf of all in the table."""
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

        parts = ("eta", "steps", "start", "prompt", "target", "transform", "repetitions")
        own: dict[str, Any] = {part: getattr(self, part) for part in parts}
        chosen = {part: value for part, value in own.items() if value is not None}
        for part, read in (("target", read_target), ("transform", transform)):
            if part in chosen:
                chosen[part] = read(chosen[part])
        row = poison(name, own_poisons(Path(file) for file in self.files))
        if "transform" in chosen and row.transform not in (None, chosen["transform"]):
            raise UserError(f"{row.name} has a transform already; leave the one that is given out")
        norm, kappa = self.norm or row.budget.norm, self.kappa
        if norm != row.budget.norm and None in (kappa, self.eta):
            raise UserError(
                f"The norm is {norm}, but kappa and eta of {row.name} are of {row.budget.norm}; "
                f"give both, such as {_BUDGETS[norm]}."
            )
        budget = Budget(row.budget.kappa if kappa is None else kappa, norm)
        return replace(row, budget=budget, **chosen)

    def one_poison(self, name: str) -> "Poison":
        """``poison``, where it is the only one; UserError also for what it does not read."""
        from safezone.poisons.table import reads

        row = self.poison(name)
        for part in ("prompt", "target"):
            if getattr(self, part) is not None and not reads(row.objective, part):
                raise UserError(
                    f"{row.name} reads no {part}, so that the {part} that is given would change "
                    "nothing; leave it out"
                )
        return row


@dataclass(frozen=True)
class Sampling(Checked):
    """What is generated with the learned token."""

    prompts: Names = ("all25",)
    """Prompt list, text file or a prompt, with {} for the learned word or (generate) in full; may
    be given repeatedly. By default the model's own list (mini, paper24) or the demo's six."""
    images_per_prompt: Count = 1
    """Images for every prompt."""
    steps: Count = 25
    """Denoising steps of every image."""
    guidance: Weight = 5.0
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
        for text in self.texts():
            if "{}" not in text:
                raise UserError(
                    f"the prompt {text!r} has no {{}}; put {{}} where the learned word belongs"
                )
        return self.texts()


_ENCODERS: Any = make_dataclass(
    "_ENCODERS",
    [
        (slot.setting, Annotated[str, tyro.conf.arg(help=slot.help)], slot.default)
        for slot in SLOTS.values()
    ],
    frozen=True,
)


@dataclass(frozen=True)
class Scoring(_ENCODERS, Closed):  # type: ignore[misc]  # a field for each slot of scores.table
    """What looks at the generated images."""


@dataclass(frozen=True)
class Cells(Checked):
    """Which runs a table is made of."""

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
class Settings(Closed):
    """Everything that an experiment can be told; the fields are the groups of a YAML file.

    ``poison_model``: what poisons are made on, several as an ensemble; none is the model that is
    personalized (white box). ``purify_model``: what Regen and the like denoise with, by default
    that model too. ``precision``: what models compute in. ``long_prompts``: what becomes of those
    that the text encoder cannot take whole.
    """

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
    names = [each.name for each in fields(Settings) if each.name != "cells"]
    settings = Settings(cells=cells, **{name: getattr(told, name) for name in names})
    return settings if model is None else replace(settings, model=model)


CANDIDATES: Final = 4
"""Images of each cell of a figure, of which it shows the most faithful one."""
Several: TypeAlias = Annotated[int, Field(ge=2)]


@dataclass(frozen=True)
class BenchScope(Checked):
    """How large a figure is made; the options of ``safezone figure``, which needs no torch yet."""

    seed: Natural = 0
    """Of training, generation and measuring."""
    poisons: Annotated[Names, tyro.conf.arg(name="poison")] = ()
    """Poison beside clean images; may be given repeatedly. By default the figure's own."""
    defenses: Annotated[Names, tyro.conf.arg(name="defense")] = ()
    """Defense; may be given repeatedly. By default the figure's own."""
    images: Several = 1000
    """Random scenes of figures 4 and 10; on the built-in model poisoning 1,000 takes half an hour,
    measuring them 4 minutes."""
    moments: Several = 3000
    """Further clean scenes for the mean and covariance of figure 10's closed form."""
    timesteps: int = 21
    """How many timesteps, equally spaced."""
    rows: Several = 32
    """Random vocabulary rows of every sensitivity map."""
    noises: Count = 4
    """Noises that the maps of figures 2, 3 and 9 are averaged over."""
    draws: Count = 2
    """Noises for each image of a gradient (figures 5 and 11)."""
    losses: Annotated[Count | None, tyro.conf.arg(metavar="N")] = None
    """Losses for each concept and timestep of figures 5 and 11, in place of --draws; the paper
    takes 1000."""
    candidates: Annotated[Count | None, tyro.conf.arg(metavar="N")] = None
    """Images of each prompt for each cell, of which the most faithful is shown (figures 1, 8 and 18
    to 21); by default --sampling.images-per-prompt, which is 4 there."""
    at: Annotated[Natural | None, tyro.conf.arg(metavar="STEP")] = None
    """Training step that figures 3, 5 and 9 look at; by default a tenth, for 5 a fifth, of all."""
    marks: Annotated[tuple[int, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="STEP")] = ()
    """Training step that figures 6, 11 and 16 look at; may be given repeatedly. By default for 6
    the start and every tenth, for 11 every fifth, for 16 the paper's 100, 500 and 900 of 5000."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if CLEAN in self.poisons:
            raise UserError("clean images are always shown; name poisons only.")

    def data(self, own: Sequence[str]) -> list[str]:
        """``clean`` and the poisons that were asked for, else the figure's own."""
        return list(dict.fromkeys([CLEAN, *map(str.lower, self.poisons or own)]))
