"""Defenses by name: the paper's columns and those beside them, parts with numbers, sums."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safezone.defenses.advclean import AdvClean
from safezone.defenses.defense import PLAIN, Defense
from safezone.defenses.loss_masks import InputMask, LatentMask, LossInputMask, LossMask, PriorMask
from safezone.defenses.pixel_purify import FOUR_FOLD, STAGE_TWO, DiffPure, GridPure, PDMPure
from safezone.defenses.preprocess import (
    BitDepth,
    CentreCrop,
    GaussianBlur,
    GaussianNoise,
    Jpeg,
    MedianBlur,
    RandomJpeg,
    Rescale,
)
from safezone.defenses.purify import Impress, NoisyUpscaling, Regen, RoundTrip
from safezone.defenses.timesteps import AtLeast, Below, Power, Tanh
from safezone.errors import UserError
from safezone.reading import own_rows

_JPEG = Defense("jpeg", preprocess=Jpeg(25))
_ADVCLEAN = Defense("advclean", preprocess=AdvClean())
_REGEN = Defense("regen", preprocess=Regen())
_PDMPURE = Defense("pdmpure", preprocess=PDMPure())
_T500 = Defense("t500", timesteps=AtLeast(0.5))
_T600 = Defense("t600", timesteps=AtLeast(0.6))
_LM = Defense("lm", loss_mask=LossMask())
_LM_D16 = Defense("lm-d16", loss_mask=LossMask(dilation_px_at_512=16))

DEFENSES: Mapping[str, Defense] = MappingProxyType(
    {
        row.name: row
        for row in (
            PLAIN,
            # Tables 1 and 15 to 20: images
            _JPEG,
            _REGEN,
            _PDMPURE,
            _ADVCLEAN,
            _JPEG + _REGEN,
            _JPEG + _PDMPURE,
            _JPEG + _ADVCLEAN,
            # Tables 1, 9 and 12: timesteps and masks
            _T500,
            _T600,
            _LM,
            Defense("lm-d08", loss_mask=LossMask(dilation_px_at_512=8)),
            _LM_D16,
            Defense("lm-d24", loss_mask=LossMask(dilation_px_at_512=24)),
            Defense("im", loss_mask=InputMask()),
            Defense("lim", loss_mask=LossInputMask()),
            Defense("zm", loss_mask=LatentMask()),
            _JPEG + _T600,
            _JPEG + _LM,
            _JPEG + _LM_D16,
            _T500 + _LM,
            _T500 + _LM_D16,
            _T600 + _LM,
            _T600 + _LM_D16,
            Defense("szt", Jpeg(25), AtLeast(0.5), LossMask(dilation_px_at_512=16)),
            # Purifiers that the paper does not list, and PDMPure as its authors run it
            Defense("diffpure", preprocess=DiffPure()),
            Defense("gridpure", preprocess=GridPure()),
            Defense("impress", preprocess=Impress()),
            Defense("vae", preprocess=RoundTrip()),
            Defense("upscale", preprocess=NoisyUpscaling()),
            Defense("pdmpure-if", preprocess=PDMPure(model=STAGE_TWO, upscaler=FOUR_FOLD)),
            Defense("pdmpure-published", preprocess=PDMPure(start=99, stride=11, noise_at=44)),
            # After the paper: outside the mask stay with the model as it was; a word for the noise
            Defense("mpp", loss_mask=PriorMask()),
            Defense("mpp-d16", loss_mask=PriorMask(dilation_px_at_512=16)),
            Defense("noise-word", words=", noisy"),
            # Filters that the paper does not list
            Defense("random-jpeg", preprocess=RandomJpeg()),
            Defense("blur", preprocess=GaussianBlur()),
            Defense("median", preprocess=MedianBlur()),
            Defense("noise", preprocess=GaussianNoise()),
            Defense("bits", preprocess=BitDepth()),
            Defense("rescale", preprocess=Rescale()),
            Defense("crop", preprocess=CentreCrop()),
        )
    }
)
"""Defenses by name; ``defense`` makes further ones from the same parts and from numbers."""

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
        stem, number = _OF_ONE[stem], round(number * 1000, 6)
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
    sign = r"=|(?<=\bhigh)>=|(?<=\bt)>=|(?<=\blow)<="
    match = re.fullmatch(rf"([a-z-]+?)(?:{sign})?(\d{{1,4}}(?:\.\d{{1,4}})?)", name)
    if match and match[1] in {*_NUMBERED, *_OF_ONE}:
        return _numbered(match[1], float(match[2]))
    stems = {stem: f"{stem}<number>" for stem in (*_NUMBERED, *_OF_ONE)}
    known = {**stems, **{each: each for each in DEFENSES}}
    near = [known[each] for each in difflib.get_close_matches(name, known, n=3, cutoff=0.4)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(DEFENSES)}."
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


def own_defenses(files: Iterable[Path]) -> Mapping[str, Defense]:
    """The rows of Python files of the user's, by name; see ``reading.own_rows``."""
    return own_rows(files, Defense, DEFENSES)
