"""From a defense's name to the defense: rows of the table, parts with numbers, sums of both."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from safezone.defenses.defense import NOMINAL, Defense
from safezone.defenses.filters import (
    BitDepth,
    CentreCrop,
    GaussianBlur,
    GaussianNoise,
    MedianBlur,
    Rescale,
)
from safezone.defenses.loss_masks import InputMask, LatentMask, LossInputMask, LossMask
from safezone.defenses.pixel_purify import DiffPure, GridPure, PDMPure
from safezone.defenses.preprocess import Jpeg
from safezone.defenses.purify import Regen
from safezone.defenses.table import DEFENSES
from safezone.defenses.timesteps import AtLeast, Below, Power, Tanh
from safezone.errors import UserError


def _whole(name: str, number: float) -> int:
    if number != int(number):
        raise UserError(
            f"{name}{number:g} has a number that is not whole; write {name}{number:.0f}."
        )
    return int(number)


def _thousandths(number: float) -> int:
    """The paper's 0.1 of the timesteps as 100 of 1000."""
    return round(number * 1000)


def _at_least(number: float) -> Defense:
    return Defense(f"t{_whole('t', number)}", timesteps=AtLeast(number / 1000))


def _below(number: float) -> Defense:
    return Defense(f"below{_whole('below', number)}", timesteps=Below(number / 1000))


def _jpeg(number: float) -> Defense:
    quality = _whole("jpeg", number)
    return Defense(f"jpeg{quality}", preprocess=Jpeg(quality))


def _masked(stem: str, kind: type[LossMask]) -> Callable[[float], Defense]:
    def dilated(number: float) -> Defense:
        pixels = _whole(stem, number)
        return Defense(f"{stem}{pixels:02d}", loss_mask=kind(dilation_px_at_512=pixels))

    return dilated


_NUMBERED: Mapping[str, Callable[[float], Defense]] = MappingProxyType(
    {
        "t": _at_least,
        "below": _below,
        "high": lambda rho: _at_least(_thousandths(rho)),
        "low": lambda rho: _below(_thousandths(rho)),
        "power": lambda rho: Defense(f"power{rho:g}", timesteps=Power(rho)),
        "tanh": lambda rho: Defense(f"tanh{rho:g}", timesteps=Tanh(rho)),
        "lm-d": _masked("lm-d", LossMask),
        "im-d": _masked("im-d", InputMask),
        "lim-d": _masked("lim-d", LossInputMask),
        "zm-d": _masked("zm-d", LatentMask),
        "jpeg": _jpeg,
        "blur": lambda sigma: Defense(f"blur{sigma:g}", preprocess=GaussianBlur(sigma)),
        "median": lambda n: Defense(f"median{n:g}", preprocess=MedianBlur(_whole("median", n))),
        "noise": lambda n: Defense(f"noise{n:g}", preprocess=GaussianNoise(n)),
        "bits": lambda n: Defense(f"bits{n:g}", preprocess=BitDepth(_whole("bits", n))),
        "regen": lambda n: Defense(f"regen{n:g}", preprocess=Regen(_whole("regen", n))),
        "diffpure": lambda n: Defense(f"diffpure{n:g}", preprocess=DiffPure(_whole("diffpure", n))),
        "gridpure": lambda n: Defense(f"gridpure{n:g}", preprocess=GridPure(_whole("gridpure", n))),
        "pdmpure": lambda n: Defense(f"pdmpure{n:g}", preprocess=PDMPure(_whole("pdmpure", n))),
        "rescale": lambda n: Defense(f"rescale{n:g}", preprocess=Rescale(n)),
        "crop": lambda n: Defense(f"crop{n:g}", preprocess=CentreCrop(n)),
    }
)
"""Parts with a number. ``high>=0.6``, ``low<=0.1``, ``power=2`` and ``tanh=5`` are table 6's."""

_EXAMPLES = (
    "t<number of 1000>, below<number of 1000>, tanh<rho>, power<rho>, jpeg<quality> and "
    "lm-d<pixels at 512> (im-d, lim-d, zm-d) take any number"
)


def _part(name: str) -> Defense:
    if name in DEFENSES:
        return DEFENSES[name]
    match = re.fullmatch(r"([a-z-]+?)(?:=|>=|<=)?(\d{1,4}(?:\.\d{1,4})?)", name)
    if match and match[1] in _NUMBERED:
        return _NUMBERED[match[1]](float(match[2]))
    near = difflib.get_close_matches(name, list({**DEFENSES, **_NUMBERED}), n=3, cutoff=0.4)
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
    whole = NOMINAL
    for part in key.split("+"):
        whole = whole + _part(part.strip())
    return whole
