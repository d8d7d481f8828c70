"""Closed polygons, their antialiased filling and smooth fields on the pixel grid of an image."""

from collections.abc import Iterable
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter

SIZE: Final = 128
"""Side of an image in pixels."""
SUPERSAMPLING: Final = 4

Field: TypeAlias = NDArray[np.float32]
"""One number per pixel, [height, width]."""
AnyField: TypeAlias = NDArray[np.floating[Any]]
"""As `Field`, for arguments: numpy's stubs call a float32 array times a float float64."""
Outline: TypeAlias = NDArray[np.float32]
"""A closed polygon, [points, 2]: x to the right, y down."""
Painting: TypeAlias = NDArray[np.float32]
"""RGB in [0, 1], channels first because numpy is several times faster so: [3, height, width]."""

PIXEL_X: Final[Field] = np.arange(SIZE, dtype=np.float32)[None, :] + np.float32(0.5)
PIXEL_Y: Final[Field] = np.arange(SIZE, dtype=np.float32)[:, None] + np.float32(0.5)
"""Coordinates of the pixel centres, [1, SIZE] and [SIZE, 1]."""


def coverage(outlines: Iterable[Outline], width: int = SIZE, height: int = SIZE) -> Image.Image:
    """Covered part of each pixel, mode L; the outlines are in pixels, their union is filled."""
    large = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    draw = ImageDraw.Draw(large)
    for outline in outlines:
        draw.polygon((outline * SUPERSAMPLING - 0.5).ravel().tolist(), fill=255)
    return large.reduce(SUPERSAMPLING)


def as_field(image: Image.Image) -> Field:
    """Mode L to numbers in [0, 1]."""
    return np.asarray(image, dtype=np.float32) * np.float32(1 / 255)


def blurred(image: Image.Image, radius: float) -> Field:
    """Two box blurs of `radius` pixels, as numbers in [0, 1]."""
    return as_field(image.filter(ImageFilter.BoxBlur(radius)).filter(ImageFilter.BoxBlur(radius)))


def smooth_noise(rng: np.random.Generator, columns: int, rows: int) -> Field:
    """Random field in about [-1, 1] with `columns` x `rows` bumps over the image."""
    # A random crop of the enlarged grid, so that bumps do not always sit at the same pixels.
    grid = rng.uniform(-1, 1, (rows + 4, columns + 4)).astype(np.float32)
    left, top = rng.uniform(1, 3, 2).tolist()
    image = Image.fromarray(grid)
    return np.asarray(
        image.resize(
            (SIZE, SIZE), Image.Resampling.BICUBIC, box=(left, top, left + columns, top + rows)
        )
    )


def step(distance: AnyField, width: float) -> Field:
    """0 to 1 over `width` around zero of a signed distance."""
    ramp: Field = np.clip(distance * np.float32(1 / width) + np.float32(0.5), 0, 1)
    return ramp


def _points(text: str) -> NDArray[np.float64]:
    """Points as SVG writes them, ``"x,y x,y"``: [points, 2]."""
    return np.array([pair.split(",") for pair in text.split()], dtype=np.float64)


def polygon(points: str) -> Outline:
    """Straight edges through the points."""
    return _points(points).astype(np.float32)


def rectangle(left: float, top: float, right: float, bottom: float) -> Outline:
    """An axis-parallel rectangle."""
    return _stack((left, right, right, left), (top, top, bottom, bottom))


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


def smooth(points: str) -> Outline:
    """A closed Catmull-Rom curve through the points."""
    return _curve(_points(points))


def _curve(knots: NDArray[np.float64], steps: int = 6) -> Outline:
    p0, p1, p2, p3 = (np.roll(knots, shift, axis=0)[:, None] for shift in (1, 0, -1, -2))
    t = (np.arange(steps) / steps)[None, :, None]
    curve = 0.5 * (
        2 * p1
        + (p2 - p0) * t
        + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
        + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )  # [knots, steps, 2]
    return curve.reshape(-1, 2).astype(np.float32)


def mirrored(half: str) -> Outline:
    """A left-right symmetric polygon from its right half, listed from top to bottom."""
    right = polygon(half)
    left = right[::-1] * np.array([-1, 1], dtype=np.float32)
    return np.concatenate([right, left])


def smooth_mirrored(half: str) -> Outline:
    """As `mirrored`, with a curve through the points."""
    return _curve(mirrored(half).astype(np.float64))


def moved(outline: Outline, x: float, y: float, scale: float = 1.0) -> Outline:
    """The outline scaled about the origin, then shifted."""
    return outline * np.float32(scale) + np.array([x, y], dtype=np.float32)


def _stack(x: ArrayLike, y: ArrayLike) -> Outline:
    return np.stack([np.asarray(x), np.asarray(y)], axis=1).astype(np.float32)
