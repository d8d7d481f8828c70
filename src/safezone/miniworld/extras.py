"""Parts that objects may have: emblems, hats and ears, as outlines of unit size."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from safezone.miniworld.outlines import Outline, ellipse, mirrored, polygon, rectangle, ring


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


EMBLEMS: Final[Mapping[str, tuple[Outline, ...]]] = MappingProxyType(
    {
        "disc": (ellipse(0, 0, 0.9),),
        "cross": (rectangle(-0.34, -1, 0.34, 1), rectangle(-1, -0.34, 1, 0.34)),
        "triangle": (polygon((0, -1), (1.0, 0.8), (-1.0, 0.8)),),
        "crescent": (_crescent(),),
        "ring": (ring(0, 0, 0.7, 0.55),),
        "square": (rectangle(-0.82, -0.82, 0.82, 0.82),),
    }
)
"""Figures inside the unit circle (about)."""

HATS: Final[Mapping[str, tuple[Outline, ...]]] = MappingProxyType(
    {
        "top": (rectangle(-0.7, -1.3, 0.7, 0.0), rectangle(-1.2, -0.26, 1.2, 0.16)),
        "cone": (polygon((0, -1.75), (0.9, 0.12), (-0.9, 0.12)), ellipse(0, -1.65, 0.26)),
        "bowler": (
            mirrored((0, -1.0), (0.36, -0.94), (0.66, -0.72), (0.8, -0.38), (0.82, 0.0)),
            ellipse(0, -0.02, 1.3, 0.25),
        ),
    }
)
"""Hats on the origin, of half width about 1."""

EARS: Final[Mapping[str, Outline]] = MappingProxyType(
    {
        "round": ellipse(0, -0.1, 0.36),
        "pointed": mirrored((0, -0.62), (0.36, 0.2), (0.2, 0.34)),
    }
)
"""One ear about the origin; two of them grow out from behind the body."""

TONES: Final[tuple[str, ...]] = ("lower", "left")
"""Which half of a two-tone body has the other colour."""
