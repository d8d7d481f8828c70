"""The sixteen kinds of object, with their fixed parts, and the parts that any of them may have.

Outlines are in object coordinates: x to the right, y down, about [-1, 1].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from safezone.miniworld.canvas import (
    Outline,
    ellipse,
    mirrored,
    polygon,
    rectangle,
    ring,
    smooth,
    smooth_mirrored,
    star,
)

DARK: Final = -0.38
DARKER: Final = -0.6
LIGHT: Final = 0.5


def _crescent() -> Outline:
    # The unit circle without a smaller one to its right; they meet at +-52 degrees.
    outer = np.radians(np.linspace(52, 308, 24))
    tip_x, tip_y = np.cos(outer[0]), np.sin(outer[0])
    centre, radius = 0.42, np.hypot(tip_x - 0.42, tip_y)
    bite = np.arctan2(tip_y, tip_x - centre)
    inner = np.linspace(2 * np.pi - bite, bite, 20)
    x = np.concatenate([np.cos(outer), centre + radius * np.cos(inner)])
    y = np.concatenate([np.sin(outer), radius * np.sin(inner)])
    return np.stack([x, y], axis=1).astype(np.float32)


EMBLEMS: Final[Mapping[str, tuple[Outline, ...]]] = {
    "disc": (ellipse(0, 0, 0.9),),
    "cross": (rectangle(-0.34, -1, 0.34, 1), rectangle(-1, -0.34, 1, 0.34)),
    "triangle": (polygon("0,-1 1,0.8 -1,0.8"),),
    "crescent": (_crescent(),),
    "ring": (ring(0, 0, 0.7, 0.55),),
    "square": (rectangle(-0.82, -0.82, 0.82, 0.82),),
}
"""Figures inside the unit circle (about)."""

HATS: Final[Mapping[str, tuple[Outline, ...]]] = {
    "top": (rectangle(-0.7, -1.3, 0.7, 0.0), rectangle(-1.2, -0.26, 1.2, 0.16)),
    "cone": (polygon("0,-1.75 0.9,0.12 -0.9,0.12"), ellipse(0, -1.65, 0.26)),
    "bowler": (
        mirrored("0,-1 0.36,-0.94 0.66,-0.72 0.8,-0.38 0.82,0"),
        ellipse(0, -0.02, 1.3, 0.25),
    ),
}
"""Hats on the origin, of half width about 1."""

EARS: Final[Mapping[str, Outline]] = {
    "round": ellipse(0, -0.1, 0.36),
    "pointed": mirrored("0,-0.62 0.36,0.2 0.2,0.34"),
}
"""One ear about the origin; two of them grow out from behind the body."""

TONES: Final[tuple[str, ...]] = ("lower", "left")
"""Which half of a two-tone body has the other colour."""


@dataclass(frozen=True)
class FixedPart:
    """Outlines which every object of the shape has, in a tone of the main colour."""

    tone: float
    outlines: tuple[Outline, ...]


@dataclass(frozen=True)
class Shape:
    """One kind of object; ``body`` is what carries the colour and the pattern.

    ``emblem_at``: centre and radius of an emblem. ``hat_at``: middle of the lower edge of a hat,
    and half its width. ``ears_at``: where the left and the right ear grow.
    """

    body: tuple[Outline, ...]
    emblem_at: tuple[float, float, float]
    hat_at: tuple[float, float, float]
    ears_at: tuple[tuple[float, float], tuple[float, float]]
    behind: tuple[FixedPart, ...] = ()
    front: tuple[FixedPart, ...] = ()


def _part(tone: float, *outlines: Outline) -> FixedPart:
    return FixedPart(tone, outlines)


def _heart() -> Outline:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x / 16.5, (y - 2.5) / 15.5 + 0.3], axis=1).astype(np.float32)


SHAPE_OUTLINES: Final[Mapping[str, Shape]] = {
    "ball": Shape(
        body=(ellipse(0, 0, 0.95, points=48),),
        emblem_at=(0, 0.05, 0.46),
        hat_at=(0, -0.78, 0.5),
        ears_at=((-0.66, -0.72), (0.66, -0.72)),
    ),
    "box": Shape(
        body=(rectangle(-0.95, -0.45, 0.45, 0.9),),
        emblem_at=(-0.25, 0.22, 0.44),
        hat_at=(0.0, -0.66, 0.46),
        ears_at=((-0.55, -0.72), (0.6, -0.8)),
        behind=(
            _part(LIGHT, polygon("-0.95,-0.45 -0.5,-0.9 0.95,-0.9 0.45,-0.45")),
            _part(DARK, polygon("0.45,-0.45 0.95,-0.9 0.95,0.4 0.45,0.9")),
        ),
    ),
    "star": Shape(
        body=(star(0, 0.08, 1.05, 0.52, 5),),
        emblem_at=(0, 0.1, 0.36),
        hat_at=(0, -0.74, 0.4),
        ears_at=((-0.5, -0.42), (0.5, -0.42)),
    ),
    "heart": Shape(
        body=(_heart(),),
        emblem_at=(0, -0.02, 0.42),
        hat_at=(0, -0.5, 0.48),
        ears_at=((-0.62, -0.58), (0.62, -0.58)),
    ),
    "mug": Shape(
        body=(mirrored("0.68,-0.8 0.68,0.6 0.6,0.78 0.45,0.85"),),
        emblem_at=(0, 0.1, 0.42),
        hat_at=(0, -0.8, 0.5),
        ears_at=((-0.5, -0.8), (0.5, -0.8)),
        behind=(_part(DARK, ring(0.68, 0.0, 0.42, 0.26)),),
        front=(_part(DARKER, ellipse(0, -0.78, 0.68, 0.17)),),
    ),
    "bottle": Shape(
        body=(mirrored("0.2,-0.85 0.2,-0.42 0.3,-0.26 0.47,-0.1 0.52,0.1 0.52,0.9 0.44,1"),),
        emblem_at=(0, 0.42, 0.38),
        hat_at=(0, -0.98, 0.34),
        ears_at=((-0.42, -0.16), (0.42, -0.16)),
        front=(_part(DARK, rectangle(-0.27, -1.05, 0.27, -0.76)),),
    ),
    "house": Shape(
        body=(rectangle(-0.72, -0.1, 0.72, 0.9),),
        emblem_at=(0.0, 0.12, 0.3),
        hat_at=(0, -0.74, 0.42),
        ears_at=((-0.56, -0.44), (0.56, -0.44)),
        behind=(_part(DARKER, rectangle(0.34, -0.85, 0.6, -0.2)),),
        front=(
            _part(DARK, polygon("0,-0.95 1,-0.05 -1,-0.05")),
            _part(DARKER, rectangle(-0.5, 0.4, -0.12, 0.9)),
            _part(LIGHT, rectangle(0.16, 0.36, 0.52, 0.68)),
        ),
    ),
    "fish": Shape(
        body=(
            smooth(
                "-0.98,0.02 -0.6,-0.42 -0.1,-0.56 0.42,-0.25 0.62,0 0.42,0.25 -0.1,0.56 -0.6,0.44"
            ),
        ),
        emblem_at=(-0.02, 0.0, 0.36),
        hat_at=(-0.3, -0.46, 0.42),
        ears_at=((-0.62, -0.4), (0.12, -0.5)),
        behind=(
            _part(
                DARK,
                polygon("0.45,0 1.05,-0.55 0.9,0 1.05,0.55"),
                polygon("-0.4,-0.45 0.1,-0.85 0.35,-0.25"),
            ),
        ),
        front=(
            _part(0.9, ellipse(-0.62, -0.1, 0.13)),
            _part(-0.9, ellipse(-0.64, -0.1, 0.065)),
        ),
    ),
    "mushroom": Shape(
        body=(smooth_mirrored("0,-0.92 0.5,-0.8 0.88,-0.4 0.98,0.05 0.55,0.16"),),
        emblem_at=(0, -0.36, 0.4),
        hat_at=(0, -0.84, 0.46),
        ears_at=((-0.66, -0.62), (0.66, -0.62)),
        behind=(_part(0.62, smooth_mirrored("0.28,0 0.28,0.5 0.42,0.9 0.2,0.98")),),
    ),
    "tree": Shape(
        body=(mirrored("0,-1.05 0.5,-0.42 0.26,-0.42 0.7,0.12 0.36,0.12 0.9,0.72"),),
        emblem_at=(0, 0.26, 0.36),
        hat_at=(0, -0.84, 0.38),
        ears_at=((-0.42, -0.52), (0.42, -0.52)),
        behind=(_part(DARKER, rectangle(-0.17, 0.6, 0.17, 1.05)),),
    ),
    "boat": Shape(
        body=(polygon("0.02,-1 0.02,0.3 0.92,0.3"), polygon("-0.14,-0.72 -0.14,0.3 -0.8,0.3")),
        emblem_at=(0.3, -0.02, 0.26),
        hat_at=(-0.04, -0.88, 0.36),
        ears_at=((-0.42, -0.32), (0.36, -0.52)),
        behind=(_part(DARKER, rectangle(-0.14, -1.0, 0.02, 0.5)),),
        front=(_part(DARK, polygon("-1,0.4 1,0.4 0.66,0.88 -0.66,0.88")),),
    ),
    "bell": Shape(
        body=(
            smooth_mirrored(
                "0,-0.8 0.34,-0.68 0.52,-0.3 0.58,0.2 0.72,0.42 0.94,0.58 0.86,0.7 0.4,0.7"
            ),
        ),
        emblem_at=(0, 0.08, 0.38),
        hat_at=(0, -0.76, 0.42),
        ears_at=((-0.42, -0.62), (0.42, -0.62)),
        behind=(_part(DARKER, ellipse(0, 0.76, 0.25), ring(0, -0.84, 0.15, 0.13)),),
    ),
    "kite": Shape(
        body=(polygon("0,-1 0.82,-0.3 0,0.66 -0.82,-0.3"),),
        emblem_at=(0, -0.24, 0.38),
        hat_at=(0, -0.84, 0.42),
        ears_at=((-0.56, -0.68), (0.56, -0.68)),
        behind=(
            _part(
                DARKER,
                polygon(
                    "-0.07,0.55 0.07,0.55 0.15,0.76 0.3,0.92 0.42,1.1 0.28,1.1 0.16,0.98 0.02,0.82"
                ),
            ),
            _part(DARK, polygon("-0.14,0.66 0.44,0.98 0.44,0.64 -0.14,1")),
        ),
    ),
    "crown": Shape(
        body=(mirrored("0,-0.5 0.36,0.02 0.88,-0.42 0.8,0.7"),),
        emblem_at=(0, 0.16, 0.27),
        hat_at=(0, -0.6, 0.42),
        ears_at=((-0.44, -0.1), (0.44, -0.1)),
        behind=(
            _part(
                DARK,
                ellipse(0, -0.56, 0.18),
                ellipse(-0.88, -0.46, 0.18),
                ellipse(0.88, -0.46, 0.18),
            ),
        ),
        front=(_part(DARK, rectangle(-0.8, 0.48, 0.8, 0.76)),),
    ),
    "vase": Shape(
        body=(
            smooth_mirrored("0.46,-0.96 0.27,-0.66 0.34,-0.4 0.7,0 0.72,0.34 0.42,0.78 0.42,0.98"),
        ),
        emblem_at=(0, 0.2, 0.4),
        hat_at=(0, -0.94, 0.46),
        ears_at=((-0.4, -0.9), (0.4, -0.9)),
        behind=(_part(DARK, ring(-0.44, -0.32, 0.28, 0.2), ring(0.44, -0.32, 0.28, 0.2)),),
    ),
    "rocket": Shape(
        body=(smooth_mirrored("0,-1.05 0.26,-0.72 0.4,-0.2 0.4,0.3 0.28,0.68"),),
        emblem_at=(0, 0.2, 0.28),
        hat_at=(0, -0.84, 0.34),
        ears_at=((-0.3, -0.6), (0.3, -0.6)),
        behind=(
            _part(
                DARK,
                polygon("-0.3,0.05 -0.82,0.62 -0.82,0.98 -0.2,0.62"),
                polygon("0.3,0.05 0.82,0.62 0.82,0.98 0.2,0.62"),
            ),
            _part(DARKER, polygon("-0.22,0.6 0.22,0.6 0.3,0.86 -0.3,0.86")),
        ),
        front=(_part(0.75, ellipse(0, -0.36, 0.19)),),
    ),
}
SHAPES: Final[tuple[str, ...]] = tuple(SHAPE_OUTLINES)
