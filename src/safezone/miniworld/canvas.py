"""Antialiased filling of polygons, and smooth fields, on the pixel grid of an image."""

from collections.abc import Iterable
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SIZE: Final = 128
"""Side of an image in pixels."""
SUPERSAMPLING: Final = 4

Field: TypeAlias = NDArray[np.float32]
"""One number per pixel, [height, width]."""
AnyField: TypeAlias = NDArray[np.floating[Any]]
"""As `Field`, for arguments: numpy's stubs call a float32 array times a float float64."""
Painting: TypeAlias = NDArray[np.float32]
"""RGB in [0, 1], channels first because numpy is several times faster so: [3, height, width]."""

PIXEL_X: Final[Field] = np.arange(SIZE, dtype=np.float32)[None, :] + np.float32(0.5)
PIXEL_Y: Final[Field] = np.arange(SIZE, dtype=np.float32)[:, None] + np.float32(0.5)
"""Coordinates of the pixel centres, [1, SIZE] and [SIZE, 1]."""


def coverage(
    outlines: Iterable[NDArray[np.float32]], width: int = SIZE, height: int = SIZE
) -> Image.Image:
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
