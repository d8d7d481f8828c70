"""Defenses: what is done to the images, when to train and where the loss counts."""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from safezone.concepts import Concept
from safezone.defenses.loss_masks import LatentWeights, LossMask, NoMask, masked_loss
from safezone.defenses.preprocess import Chain, Identity, Jpeg, Preprocess, chain
from safezone.defenses.timesteps import AtLeast, Below, TimestepDistribution, Uniform
from safezone.errors import UserError

__all__ = [
    "DEFENSES",
    "AtLeast",
    "Below",
    "Chain",
    "Defense",
    "Identity",
    "Jpeg",
    "LossMask",
    "NoMask",
    "Uniform",
    "defend",
    "defense",
    "masked_loss",
]

Part = TypeVar("Part")


@dataclass(frozen=True)
class Defense:
    """Three parts, each of which may be the identity; ``a + b`` is both.

    ``preprocess``: images to images, before training. ``timesteps``: the distribution over t.
    ``loss_mask``: where the loss counts.
    """

    name: str
    preprocess: Preprocess = field(default_factory=Identity)
    timesteps: TimestepDistribution = field(default_factory=Uniform)
    loss_mask: LatentWeights = field(default_factory=NoMask)

    @property
    def parts(self) -> tuple[Preprocess, TimestepDistribution, LatentWeights]:
        """What the defense does, without what it is called."""
        return self.preprocess, self.timesteps, self.loss_mask

    def __add__(self, other: "Defense") -> "Defense":
        """Both defenses; preprocesses run in order, the identity's name vanishes.

        Raises UserError when both choose timesteps, or both a loss mask.
        """
        if other.parts == NOMINAL.parts:
            return self
        if self.parts == NOMINAL.parts:
            return other

        def one(what: str, mine: Part, theirs: Part, identity: Part) -> Part:
            if mine == identity or theirs == identity:
                return theirs if mine == identity else mine
            raise UserError(
                f"The defenses {self.name!r} and {other.name!r} both choose {what}; leave one out."
            )

        return Defense(
            f"{self.name}+{other.name}",
            chain(self.preprocess, other.preprocess),
            one("timesteps", self.timesteps, other.timesteps, NOMINAL.timesteps),
            one("a loss mask", self.loss_mask, other.loss_mask, NOMINAL.loss_mask),
        )


NOMINAL = Defense("nominal")
_JPEG = Defense("jpeg", preprocess=Jpeg(25))
_T500 = Defense("t500", timesteps=AtLeast(0.5))
_T600 = Defense("t600", timesteps=AtLeast(0.6))
_LM = Defense("lm", loss_mask=LossMask())
_LM_D08 = Defense("lm-d08", loss_mask=LossMask(dilation_px_at_512=8))
_LM_D16 = Defense("lm-d16", loss_mask=LossMask(dilation_px_at_512=16))
_LM_D24 = Defense("lm-d24", loss_mask=LossMask(dilation_px_at_512=24))
_SZT = Defense("szt", Jpeg(25), AtLeast(0.5), LossMask(dilation_px_at_512=16))

DEFENSES: Mapping[str, Defense] = MappingProxyType(
    {
        row.name: row
        for row in (
            NOMINAL,
            _JPEG,
            _T500,
            _T600,
            _LM,
            _LM_D08,
            _LM_D16,
            _LM_D24,
            _JPEG + _T600,
            _JPEG + _LM,
            _JPEG + _LM_D16,
            _T500 + _LM,
            _T500 + _LM_D16,
            _T600 + _LM,
            _T600 + _LM_D16,
            _SZT,
        )
    }
)
"""The paper's columns, by name; ``defense`` makes further ones from the same parts."""


def _at_least(number: int) -> Defense:
    return Defense(f"t{number}", timesteps=AtLeast(number / 1000))


def _below(number: int) -> Defense:
    return Defense(f"below{number}", timesteps=Below(number / 1000))


def _jpeg(quality: int) -> Defense:
    return Defense(f"jpeg{quality}", preprocess=Jpeg(quality))


def _dilated(pixels: int) -> Defense:
    return Defense(f"lm-d{pixels:02d}", loss_mask=LossMask(dilation_px_at_512=pixels))


_NUMBERED: Mapping[str, Callable[[int], Defense]] = MappingProxyType(
    {"t": _at_least, "below": _below, "jpeg": _jpeg, "lm-d": _dilated}
)


def _part(name: str) -> Defense:
    if name in DEFENSES:
        return DEFENSES[name]
    match = re.fullmatch(r"([a-z-]+?)(\d{1,4})", name)
    if match and match[1] in _NUMBERED:
        return _NUMBERED[match[1]](int(match[2]))
    near = difflib.get_close_matches(name, DEFENSES, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(DEFENSES)},"
    raise UserError(
        f"There is no defense {name!r}; {hint} Parts are joined by +, and t<number of 1000>, "
        "below<number of 1000>, jpeg<quality> and lm-d<pixels at 512> take any number."
    )


def defense(name: str) -> Defense:
    """The defense of that name: a row of DEFENSES or parts joined by ``+``, in any case.

    Parts with a number: ``t600`` (t >= 600 of 1000), ``below300``, ``jpeg50``, ``lm-d16``. Raises
    UserError for an unknown part, listing near names, and for parts that contradict each other.
    """
    key = name.strip().lower()
    if key in DEFENSES:
        return DEFENSES[key]
    whole = NOMINAL
    for part in key.split("+"):
        whole = whole + _part(part.strip())
    return whole


def defend(concept: Concept, defense: Defense, seed: int) -> Concept:
    """The concept with preprocessed images; the other two parts act during training."""
    return concept.with_images(defense.preprocess(concept.images, seed))
