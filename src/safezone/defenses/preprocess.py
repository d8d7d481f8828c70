"""What is done to the images before training on them."""

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from safezone.arrays import Masks, Pixels, stream_seed
from safezone.fields import Checked, Quality
from safezone.images import jpeg

Subsampling: TypeAlias = Annotated[Literal["4:2:0", "4:2:2", "4:4:4"], Field()]


def to_levels(values: Tensor) -> Tensor:
    """Floats in 0 .. 255 to uint8: rounded, clipped."""
    return values.round().clamp(0, 255).to(torch.uint8)


class Preprocess(Protocol):
    """8-bit images to 8-bit images of the same shape; the same seed gives the same bytes.

    Runs once, after the resize to training size and before any flip.
    """

    def __call__(self, images: Pixels, seed: int) -> Pixels:
        """uint8 [batch, 3, height, width] to the same; image i draws from its own stream."""
        ...


@runtime_checkable
class MovesMasks(Protocol):
    """A preprocess after which the object lies elsewhere, and with it its mask."""

    def move_masks(self, masks: Masks, seed: int) -> Masks:
        """bool [batch, height, width] to the same, moved as the images of this seed are."""
        ...


@dataclass(frozen=True)
class Identity:
    """Leaves the images alone."""

    def __call__(self, images: Pixels, seed: int) -> Pixels:
        return images


@dataclass(frozen=True)
class Jpeg(Checked):
    """Compression as JPEG and back (Pillow): the paper's quality is 25.

    ``quality``: 1 to 100. ``subsampling`` of the colour planes: "4:2:0" (half the resolution on
    both axes), "4:2:2" (on one) or "4:4:4" (none), never left to the library's default. Ignores the
    seed. Raises FieldError for other values.
    """

    quality: Quality = 25
    subsampling: Subsampling = "4:2:0"

    def __call__(self, images: Pixels, seed: int) -> Pixels:
        return jpeg(images, quality=self.quality, subsampling=self.subsampling)


@dataclass(frozen=True)
class Chain:
    """One preprocess after another, each with its own seed."""

    parts: tuple[Preprocess, ...]

    def __call__(self, images: Pixels, seed: int) -> Pixels:
        for index, part in enumerate(self.parts):
            images = part(images, stream_seed(seed, "preprocess", index))
        return images

    def move_masks(self, masks: Masks, seed: int) -> Masks:
        for index, part in enumerate(self.parts):
            if isinstance(part, MovesMasks):
                masks = part.move_masks(masks, stream_seed(seed, "preprocess", index))
        return masks


def _parts(preprocess: Preprocess) -> tuple[Preprocess, ...]:
    if isinstance(preprocess, Chain):
        return preprocess.parts
    return () if preprocess == Identity() else (preprocess,)


def chain(first: Preprocess, second: Preprocess) -> Preprocess:
    """``first``, then ``second``: flat, so that chaining is associative, without identities."""
    parts = _parts(first) + _parts(second)
    if not parts:
        return Identity()
    return parts[0] if len(parts) == 1 else Chain(parts)
