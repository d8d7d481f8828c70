"""From a defense's name to the defense: rows of the table, parts with numbers, sums of both."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from safezone.defenses.defense import PLAIN, Defense
from safezone.defenses.filters import (
    BitDepth,
    CentreCrop,
    GaussianBlur,
    GaussianNoise,
    MedianBlur,
    Rescale,
)
from safezone.defenses.loss_masks import InputMask, LatentMask, LossInputMask, LossMask, PriorMask
from safezone.defenses.pixel_purify import DiffPure, GridPure, PDMPure
from safezone.defenses.preprocess import Jpeg
from safezone.defenses.purify import Regen
from safezone.defenses.table import DEFENSES
from safezone.defenses.timesteps import AtLeast, Below, Power, Tanh
from safezone.errors import UserError

_NUMBERED: Mapping[str, tuple[str, Callable[[Any], Any], type[float]]] = MappingProxyType(
    {
        "t": ("timesteps", lambda n: AtLeast(n / 1000), int),
        "below": ("timesteps", lambda n: Below(n / 1000), int),
        "power": ("timesteps", Power, float),
        "tanh": ("timesteps", Tanh, float),
        "lm-d": ("loss_mask", LossMask, int),
        "im-d": ("loss_mask", InputMask, int),
        "lim-d": ("loss_mask", LossInputMask, int),
        "zm-d": ("loss_mask", LatentMask, int),
        "mpp-d": ("loss_mask", PriorMask, int),
        "jpeg": ("preprocess", Jpeg, int),
        "blur": ("preprocess", GaussianBlur, float),
        "median": ("preprocess", MedianBlur, int),
        "noise": ("preprocess", GaussianNoise, float),
        "bits": ("preprocess", BitDepth, int),
        "regen": ("preprocess", Regen, int),
        "diffpure": ("preprocess", DiffPure, int),
        "gridpure": ("preprocess", GridPure, int),
        "pdmpure": ("preprocess", PDMPure, int),
        "rescale": ("preprocess", Rescale, float),
        "crop": ("preprocess", CentreCrop, float),
    }
)
"""What a name with a number is: the part of the defense, what makes it, the kind of number."""

_OF_ONE: Mapping[str, str] = MappingProxyType({"high": "t", "low": "below"})
"""The names of the paper's table 6, ``high>=0.6`` and ``low<=0.1``, whose numbers are shares."""

_EXAMPLES = (
    "t<number of 1000>, below<number of 1000>, tanh<rho>, power<rho>, jpeg<quality> and "
    "lm-d<pixels at 512> (im-d, lim-d, zm-d, mpp-d) take any number"
)


def _numbered(stem: str, number: float) -> Defense:
    """The defense of a part and its number, under the name that it always has."""
    if stem in _OF_ONE:
        stem, number = _OF_ONE[stem], round(number * 1000)
    part, make, unit = _NUMBERED[stem]
    value = unit(number)
    name = f"{stem}{value:02d}" if stem.endswith("-d") else f"{stem}{value:g}"
    if value != number:
        raise UserError(f"{stem}{number:g} has a number that is not whole; write {name}.")
    try:
        return Defense(name, **{part: make(value)})
    except UserError as error:
        raise UserError(f"There is no defense {name}: {error}") from error


def _part(name: str) -> Defense:
    if name in DEFENSES:
        return DEFENSES[name]
    match = re.fullmatch(r"([a-z-]+?)(?:=|>=|<=)?(\d{1,4}(?:\.\d{1,4})?)", name)
    if match and match[1] in {*_NUMBERED, *_OF_ONE}:
        return _numbered(match[1], float(match[2]))
    near = difflib.get_close_matches(name, [*DEFENSES, *_NUMBERED, *_OF_ONE], n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(DEFENSES)},"
    raise UserError(f"There is no defense {name!r}; {hint} Parts are joined by +, and {_EXAMPLES}.")


def defense(name: str | Sequence[str]) -> Defense:
    """The defense of that name: a row of DEFENSES or parts joined by ``+``, in any case.

    A list of names is their sum, as in ``["jpeg", "t600"]``. Parts with a number: ``t600`` (t >=
    600 of 1000), ``below300``, ``tanh5``, ``power0.25``, ``jpeg50``, ``lm-d16``; and as table 6
    of the paper prints them, ``high>=0.6``, ``low<=0.1``, ``power=2``, ``tanh=5``. Raises
    UserError for an unknown part, listing near names, and for parts that contradict each other.
    """
    key = (name if isinstance(name, str) else "+".join(name)).strip().lower()
    if key in DEFENSES:
        return DEFENSES[key]
    whole = PLAIN
    for part in key.split("+"):
        whole = whole + _part(part.strip())
    return whole
