"""The eleven colours of the world, as RGB in [0, 1], and how a colour gets darker or lighter."""

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

RGB: TypeAlias = NDArray[np.float32]
"""One colour, [3], each channel in [0, 1]."""

_BYTES: Final[dict[str, tuple[int, int, int]]] = {
    "red": (214, 38, 38),
    "orange": (246, 134, 28),
    "yellow": (250, 214, 44),
    "green": (36, 150, 58),
    "blue": (40, 92, 220),
    "purple": (128, 56, 172),
    "pink": (248, 148, 190),
    "brown": (118, 72, 38),
    "black": (34, 34, 38),
    "white": (244, 244, 244),
    "gray": (138, 142, 148),
}

COLORS: Final[tuple[str, ...]] = tuple(_BYTES)

JITTER: Final = 0.035
"""Largest change of one channel of a colour between two scenes."""


def rgb(color: str) -> RGB:
    """The RGB of a colour word."""
    return np.asarray(_BYTES[color], dtype=np.float32) / np.float32(255)


def jittered(color: str, rng: np.random.Generator) -> RGB:
    """The colour as it is seen in one scene: each channel moved by at most `JITTER`."""
    moved = rgb(color) + rng.uniform(-JITTER, JITTER, 3).astype(np.float32)
    return np.clip(moved, 0.0, 1.0)


def luminance(color: RGB) -> float:
    """Rec. 601 luma in [0, 1]."""
    return float(0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2])


def toned(color: RGB, tone: float) -> RGB:
    """Mix with black (`tone` in [-1, 0)) or white (`tone` in (0, 1]).

    Black cannot get darker, so a negative tone of a very dark colour lightens it.
    """
    if tone < 0 and luminance(color) < 0.2:
        tone = -tone * 0.6
    target = np.float32(tone > 0)
    return color + (target - color) * np.float32(abs(tone))
