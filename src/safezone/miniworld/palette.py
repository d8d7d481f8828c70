"""The eleven colours of the world, as RGB in [0, 1], and the patterns of two colours."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from safezone.miniworld.canvas import Field

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


Pattern: TypeAlias = Callable[[Field, Field], Field]
"""From object coordinates x, y to a signed distance (about): positive in the second colour."""


def _wave(t: Field, period: float) -> Field:
    """Triangle wave of unit slope, in [-period/4, period/4], zero twice per period."""
    phase = t / np.float32(period) - np.float32(0.25)
    distance = np.abs(phase - np.round(phase))
    wave: Field = (np.float32(0.25) - distance) * np.float32(period)
    return wave


def _plain(x: Field, y: Field) -> Field:
    return np.full_like(x, -1.0)


def _striped(x: Field, y: Field) -> Field:
    return _wave(y, 0.52)


def _dotted(x: Field, y: Field) -> Field:
    spacing = np.float32(0.56)
    row = np.round(y / spacing)
    shifted = x / spacing + np.float32(0.5) * (row % 2)
    dx = (shifted - np.round(shifted)) * spacing
    dy = y - row * spacing
    inside: Field = np.float32(0.17) - np.hypot(dx, dy)
    return inside


def _checked(x: Field, y: Field) -> Field:
    across, down = _wave(x, 0.64), _wave(y, 0.64)
    inside: Field = np.sign(across * down) * np.minimum(np.abs(across), np.abs(down))
    return inside


def _zigzag(x: Field, y: Field) -> Field:
    return _wave(y + np.float32(1.6) * _wave(x, 0.7), 0.62) * np.float32(0.6)


PATTERN_FIELDS: Final[Mapping[str, Pattern]] = MappingProxyType(
    dict(plain=_plain, striped=_striped, dotted=_dotted, checked=_checked, zigzag=_zigzag)
)
PATTERNS: Final[tuple[str, ...]] = tuple(PATTERN_FIELDS)
