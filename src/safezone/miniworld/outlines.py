"""Closed polygons from which objects are built.

An outline is float32 [points, 2] in object coordinates: x to the right, y down, about [-1, 1].
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Outline: TypeAlias = NDArray[np.float32]


def polygon(*points: tuple[float, float]) -> Outline:
    """Straight edges through the points."""
    return np.asarray(points, dtype=np.float32)


def rectangle(left: float, top: float, right: float, bottom: float) -> Outline:
    """An axis-parallel rectangle."""
    return polygon((left, top), (right, top), (right, bottom), (left, bottom))


def ellipse(x: float, y: float, rx: float, ry: float | None = None, points: int = 32) -> Outline:
    """An ellipse, or a circle where `ry` is left out."""
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radius_y = rx if ry is None else ry
    return _stack(x + rx * np.cos(angles), y + radius_y * np.sin(angles))


def ring(
    x: float, y: float, radius: float, width: float, start: float = 0.0, stop: float = 360.0
) -> Outline:
    """A band of `width` around a circle, from `start` to `stop` degrees (clockwise from +x)."""
    angles = np.radians(np.linspace(start, stop, 28))
    outer, inner = radius + width / 2, radius - width / 2
    return np.concatenate(
        [
            _stack(x + outer * np.cos(angles), y + outer * np.sin(angles)),
            _stack(x + inner * np.cos(angles[::-1]), y + inner * np.sin(angles[::-1])),
        ]
    )


def star(x: float, y: float, outer: float, inner: float, tips: int) -> Outline:
    """A star whose first tip is up."""
    angles = np.arange(2 * tips) * np.pi / tips - np.pi / 2
    radii = np.where(np.arange(2 * tips) % 2 == 0, outer, inner)
    return _stack(x + radii * np.cos(angles), y + radii * np.sin(angles))


def smooth(*points: tuple[float, float], steps: int = 6) -> Outline:
    """A closed Catmull-Rom curve through the points."""
    knots = np.asarray(points, dtype=np.float64)
    p0, p1, p2, p3 = (np.roll(knots, shift, axis=0)[:, None] for shift in (1, 0, -1, -2))
    t = (np.arange(steps) / steps)[None, :, None]
    curve = 0.5 * (
        2 * p1
        + (p2 - p0) * t
        + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
        + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )  # [knots, steps, 2]
    return curve.reshape(-1, 2).astype(np.float32)


def mirrored(*half: tuple[float, float]) -> Outline:
    """A left-right symmetric polygon from its right half, listed from top to bottom."""
    right = polygon(*half)
    left = right[::-1] * np.array([-1, 1], dtype=np.float32)
    return np.concatenate([right, left])


def smooth_mirrored(*half: tuple[float, float]) -> Outline:
    """As `mirrored`, with a curve through the points."""
    return smooth(*(tuple(point) for point in mirrored(*half).tolist()))


def moved(outline: Outline, x: float, y: float, scale: float = 1.0) -> Outline:
    """The outline scaled about the origin, then shifted."""
    return outline * np.float32(scale) + np.array([x, y], dtype=np.float32)


def _stack(x: ArrayLike, y: ArrayLike) -> Outline:
    return np.stack([np.asarray(x), np.asarray(y)], axis=1).astype(np.float32)
