"""Images as a page holds them: data URIs, small ones, perturbations that can be seen."""

import base64
import io
from typing import Final, NamedTuple

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

THUMBNAIL: Final = 96
"""Side of the images on a grid's page, in pixels; a claim's are shown as they are."""
GAIN: Final = 8
"""How much perturbations are amplified."""


class Picture(NamedTuple):
    """An image as a data URI, and what it shows in words."""

    source: str
    text: str


def picture(
    image: UInt8[Tensor, "3 h w"], text: str, side: int | None = None, *, exact: bool = False
) -> Picture:
    """The image for a page: WebP, a tenth of a PNG's size, or the very pixels (``exact``).

    ``side``: a larger image is made that small, about 2 kB of 96 pixels.
    """
    drawn = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    if side is not None and drawn.width > side:
        drawn = drawn.resize((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if exact:
        drawn.save(buffer, "PNG", optimize=True)
    else:
        drawn.save(buffer, "WEBP", quality=90 if side is None else 75, method=4)
    kind = "png" if exact else "webp"
    return Picture(f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}", text)


def amplified_difference(
    clean: UInt8[Tensor, "n 3 h w"], poisoned: UInt8[Tensor, "n 3 h w"], gain: int = GAIN
) -> UInt8[Tensor, "n 3 h w"]:
    """Mid-grey plus ``gain`` times (poisoned - clean), clamped to uint8; shapes are equal."""
    difference = poisoned.to(torch.int32) - clean.to(torch.int32)
    return (128 + gain * difference).clamp(0, 255).to(torch.uint8)


class TrainingPictures(NamedTuple):
    """Images as given to the trainer and, if they are poisoned, their amplified perturbations."""

    images: tuple[Picture, ...]
    perturbations: tuple[Picture, ...]


def training_pictures(
    clean: UInt8[Tensor, "n 3 h w"],
    trained_on: UInt8[Tensor, "n 3 h w"],
    name: str = "",
    side: int | None = None,
) -> TrainingPictures:
    """All images, pixel by pixel; with a ``side`` the first one alone, that small."""
    part = slice(None) if side is None else slice(1)
    names = [f"{name}, image {i + 1}" for i in range(len(trained_on))][part]
    images = tuple(
        picture(image, text, side, exact=side is None)
        for image, text in zip(trained_on[part], names, strict=True)
    )
    if clean.shape != trained_on.shape or bool((clean == trained_on).all()):
        return TrainingPictures(images, ())
    changes = amplified_difference(clean[part], trained_on[part])
    return TrainingPictures(
        images,
        tuple(
            picture(change, f"{text}, perturbation × {GAIN}", side)
            for change, text in zip(changes, names, strict=True)
        ),
    )
