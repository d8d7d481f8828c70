"""Eight grounds on which an object stands, low in frequency and moderate in contrast."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from safezone.miniworld.canvas import (
    PIXEL_X,
    PIXEL_Y,
    SIZE,
    AnyField,
    Field,
    Painting,
    as_field,
    coverage,
    ellipse,
    smooth_noise,
    step,
)

Background: TypeAlias = Callable[[np.random.Generator], Painting]
Bytes: TypeAlias = tuple[int, int, int]
"""RGB in [0, 255]."""

_X: Final[Field] = np.ascontiguousarray(np.broadcast_to(PIXEL_X / SIZE, (SIZE, SIZE)))
_Y: Final[Field] = np.ascontiguousarray(np.broadcast_to(PIXEL_Y / SIZE, (SIZE, SIZE)))
"""Coordinates in [0, 1]: every length in this file is in image sides."""


def _color(color: Bytes) -> NDArray[np.float32]:
    return np.asarray(color, dtype=np.float32).reshape(3, 1, 1) / np.float32(255)


def _mix(weight: AnyField, first: Bytes, second: Bytes) -> Painting:
    """`first` where the weight is 0, `second` where it is 1."""
    return _color(first) + weight * (_color(second) - _color(first))


def _over(picture: Painting, weight: AnyField, color: Bytes) -> Painting:
    return picture + weight * (_color(color) - picture)


def _wavy(rng: np.random.Generator, low: float, high: float) -> Field:
    """sin of x with a random frequency and phase: [1, SIZE]."""
    wave: Field = np.sin(_X[:1] * rng.uniform(low, high) + rng.uniform(0, 2 * math.pi))
    return wave


def _discs(rng: np.random.Generator, count: int, smallest: float, largest: float) -> Field:
    centres = rng.uniform(0, SIZE, (count, 1, 2))
    radii = rng.uniform(smallest, largest, (count, 1, 1))
    return as_field(coverage((centres + radii * ellipse(0, 0, 1, points=12)).astype(np.float32)))


def _blades(rng: np.random.Generator, count: int) -> Field:
    roots = rng.uniform((-4, 4), (SIZE + 4, SIZE + 14), (count, 2))
    tips = rng.uniform((-5, -20), (5, -13), (count, 2))
    half_width = np.array([3.2, 0])
    corners = np.stack([roots - half_width, roots + half_width, roots + tips], axis=1)
    return as_field(coverage(corners.astype(np.float32)))


def _grass(rng: np.random.Generator) -> Painting:
    shade = 0.5 + 0.35 * smooth_noise(rng, 4, 4)
    picture = _mix(shade, (86, 150, 52), (128, 188, 76))
    picture = _over(picture, 0.75 * _blades(rng, 20), (60, 124, 38))
    return _over(picture, 0.7 * _blades(rng, 20), (160, 212, 96))


def _beach(rng: np.random.Generator) -> Painting:
    depth = _Y - rng.uniform(0.16, 0.32) - 0.02 * _wavy(rng, 7, 12)
    ripple = np.sin((depth + 0.025 * smooth_noise(rng, 4, 3)) * rng.uniform(50, 66))
    sand = _mix(0.5 + 0.5 * ripple, (226, 196, 138), (240, 216, 164))
    sea = _mix(np.clip(-4 * depth, 0, 1), (96, 200, 206), (46, 150, 190))
    shore = sand + step(-depth, 0.02) * (sea - sand)
    return _over(shore, step(0.026 - np.abs(depth), 0.02), (250, 250, 246))


def _snow(rng: np.random.Generator) -> Painting:
    picture = _mix(0.5 + 0.5 * smooth_noise(rng, 3, 3), (222, 232, 244), (244, 248, 252))
    level = rng.uniform(0.1, 0.3)
    for _ in range(3):
        below = _Y - level - 0.05 * _wavy(rng, 4, 7)
        drift = step(below, 0.015) * np.clip(1 - 5 * below, 0, 1)
        picture = _over(picture, 0.75 * drift, (184, 204, 230))
        level += rng.uniform(0.24, 0.32)
    return _over(picture, _discs(rng, 14, 2.2, 3.4), (255, 255, 255))


def _water(rng: np.random.Generator) -> Painting:
    y = _Y + 0.022 * _wavy(rng, 16, 24)
    phase = (y + 0.03 * smooth_noise(rng, 3, 5)) * rng.uniform(40, 52) + rng.uniform(0, 6.3)
    crest = np.clip(np.sin(phase), 0, 1) ** 2
    patchy = np.clip(0.65 + 0.55 * smooth_noise(rng, 5, 6), 0, 1)
    picture = _mix(_Y, (44, 128, 184), (30, 98, 164))
    return _over(picture, 0.7 * crest * patchy, (136, 206, 232))


def _wood(rng: np.random.Generator) -> Painting:
    board = rng.uniform(0.2, 0.27)
    position = _Y / board + rng.uniform(0, 1)
    index = position.astype(np.intp)
    tone = rng.uniform(-0.25, 0.25, 9).astype(np.float32)[index]
    offset = rng.uniform(0, 6.3, 9).astype(np.float32)[index]
    grain = np.sin(position * 12 + 2.6 * smooth_noise(rng, 2, 5) + offset)
    picture = _mix(0.5 + 0.28 * grain + tone, (156, 104, 58), (204, 152, 96))
    seam = np.abs(position - np.round(position)) * board
    return _over(picture, 0.8 * step(0.014 - seam, 0.014), (88, 54, 30))


def _brick(rng: np.random.Generator) -> Painting:
    height = rng.uniform(0.15, 0.19)
    width = 2.1 * height
    y = _Y / height + rng.uniform(0, 1)
    row = y.astype(np.intp)
    x = _X / width + rng.uniform(0, 1) + np.float32(0.5) * (row % 2).astype(np.float32)
    tone = rng.uniform(0, 1, (12, 8)).astype(np.float32)[row, x.astype(np.intp)]
    gap = np.minimum(np.abs(x - np.round(x)) * width, np.abs(y - np.round(y)) * height)
    picture = _mix(tone, (158, 74, 58), (188, 100, 76))
    return _over(picture, step(0.017 - gap, 0.012), (206, 194, 180))


def _night(rng: np.random.Generator) -> Painting:
    picture = _mix(_Y, (26, 32, 80), (60, 68, 132))
    picture = _over(picture, _discs(rng, 18, 2.0, 3.0), (244, 238, 196))
    x = (0.13 if rng.random() < 0.5 else 0.87) + rng.uniform(-0.03, 0.03)
    y = rng.uniform(0.1, 0.2)
    moon = step(0.1 - np.hypot(_X - x, _Y - y), 0.01)
    bite = step(0.085 - np.hypot(_X - x - 0.055, _Y - y + 0.02), 0.01)
    picture = _over(picture, moon * (1 - bite), (252, 240, 180))
    hills = _Y - rng.uniform(0.84, 0.92) - 0.04 * _wavy(rng, 6, 10)
    return _over(picture, step(hills, 0.01), (24, 46, 60))


def _fabric(rng: np.random.Generator) -> Painting:
    angle = rng.uniform(-0.3, 0.3)
    period = rng.uniform(0.26, 0.34)
    u = (_X * math.cos(angle) + _Y * math.sin(angle)) / period + rng.uniform(0, 1)
    v = (_Y * math.cos(angle) - _X * math.sin(angle)) / period + rng.uniform(0, 1)
    across, down = (step(0.25 - np.abs(t - np.round(t)), 0.08) for t in (u, v))
    picture = _mix((across + down) / 2, (226, 206, 220), (168, 116, 160))
    return picture * (0.97 + 0.05 * smooth_noise(rng, 3, 3))


_PAINTERS: Final = (_grass, _beach, _snow, _water, _wood, _brick, _night, _fabric)
BACKGROUND_PAINTERS: Final[Mapping[str, Background]] = MappingProxyType(
    {painter.__name__[1:]: painter for painter in _PAINTERS}
)
BACKGROUNDS: Final[tuple[str, ...]] = tuple(BACKGROUND_PAINTERS)
