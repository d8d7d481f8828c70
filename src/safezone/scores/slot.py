"""What a kind of encoder is: how it is opened, what it measures, how its numbers are shown."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

NONE: Final = "none"
"""The name that leaves a slot empty."""


class Score(NamedTuple):
    """One number with how many generated and reference images it rests on (0: none used)."""

    metric: str
    value: float
    n_generated: int
    n_reference: int


@dataclass(frozen=True, eq=False)
class Pictures:
    """The generated images of one run, their prompts and the clean images of the object.

    ``prompts``: one for each generated image, with ``placeholder`` in it; empty where they are not
    known. ``class_word``: the object's noun. Raises ValueError for unequal counts or no images.
    """

    generated: UInt8[Tensor, "n 3 h w"]
    prompts: Sequence[str]
    clean: UInt8[Tensor, "m 3 s s"]
    class_word: str = ""
    placeholder: str = ""

    def __post_init__(self) -> None:
        n, m = len(self.generated), len(self.clean)
        if not n or not m or len(self.prompts) not in (0, n):
            raise ValueError(
                f"{n} generated images, {len(self.prompts)} prompts, {m} references; give at least "
                "one image on each side and as many prompts as generated images, or none"
            )


@dataclass(frozen=True)
class Metric:
    """How a number is shown: its label, which direction is good (None: neither), decimals."""

    name: str
    label: str
    higher_is_better: bool | None
    decimals: int = 2


@dataclass(frozen=True)
class Slot:
    """A kind of encoder, of which a scoring has one or none.

    ``name``: its setting is ``<name>_encoder`` and its option ``--<name>-encoder`` (with ``-`` for
    ``_``). ``help``: what the option's help says. ``load``: a name or folder and a device to an
    encoder; UserError when it cannot be opened. ``measure``: the encoder and the pictures of one
    run to scores, each of a metric in ``metrics``, without those that the pictures do not allow.
    ``built_in`` and ``default``: the encoder's name for the built-in models and for all others.
    ``optional``: whether ``none`` leaves it out. ``cached``: whether the features of images that
    come again, such as the clean ones, are remembered.
    """

    name: str
    help: str
    load: Callable[[str, torch.device | str], Any]
    measure: Callable[[Any, Pictures], Iterable[Score]]
    metrics: tuple[Metric, ...]
    built_in: str = NONE
    default: str = NONE
    optional: bool = True
    cached: bool = False

    @property
    def setting(self) -> str:
        """The name of the setting that says which encoder is taken."""
        return f"{self.name}_encoder"
