"""Two-colour patterns, as coverage of the second colour in object coordinates."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np

from safezone.miniworld.canvas import Field

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
    {
        "plain": _plain,
        "striped": _striped,
        "dotted": _dotted,
        "checked": _checked,
        "zigzag": _zigzag,
    }
)
PATTERNS: Final[tuple[str, ...]] = tuple(PATTERN_FIELDS)
