"""What is done to the images before training on them: JPEG, plain filters, chains of them.

Each is a ``Preprocess``: uint8 images and a seed to uint8 images. Raises FieldError for settings
out of range.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, TypeAlias, runtime_checkable

import torch
import torch.nn.functional as F
from pydantic import Field
from scipy import ndimage
from torch import Tensor

from safezone.arrays import Masks, Pixels, randn, stream, stream_seed
from safezone.errors import UserError
from safezone.fields import Checked, Quality
from safezone.images import jpeg

Subsampling: TypeAlias = Annotated[Literal["4:2:0", "4:2:2", "4:4:4"], Field()]
PartOfSide: TypeAlias = Annotated[float, Field(gt=0, lt=1)]


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
class RandomJpeg(Checked):
    """Compression as JPEG at a quality drawn for every image alone, so that none can expect it.

    ``lowest`` and ``highest``: the range of the whole-number quality, both included.
    """

    lowest: Quality = 20
    highest: Quality = 60
    subsampling: Subsampling = "4:2:0"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lowest > self.highest:
            raise UserError(
                f"The JPEG quality is drawn from {self.lowest} to {self.highest}; "
                "give the lower bound first."
            )

    def __call__(self, images: Pixels, seed: int) -> Pixels:
        result = torch.empty_like(images)
        for i, image in enumerate(images):
            ends = self.lowest, self.highest + 1
            quality = torch.randint(*ends, (), generator=stream(seed, "quality", i))
            result[i] = jpeg(image[None], int(quality), self.subsampling)[0]
        return result


@dataclass(frozen=True)
class GaussianBlur(Checked):
    """A Gaussian blur of ``sigma`` pixels at 512, scaled with the image's side."""

    sigma: Annotated[float, Field(gt=0, le=100)] = 3.0

    def __call__(self, images: Pixels, seed: int) -> Pixels:
        sigma = self.sigma * images.shape[-1] / 512
        levels = ndimage.gaussian_filter(
            images.cpu().numpy().astype("float32"), (0, 0, sigma, sigma), mode="mirror"
        )
        return to_levels(torch.from_numpy(levels)).to(images.device)


@dataclass(frozen=True)
class MedianBlur:
    """The median over a square window of ``size`` pixels, an odd number, at any image size."""

    size: int = 3

    def __post_init__(self) -> None:
        if not (self.size % 2 == 1 and 3 <= self.size <= 31):
            raise UserError(f"size is {self.size}; give an odd number from 3 to 31")

    def __call__(self, images: Pixels, seed: int) -> Pixels:
        levels = ndimage.median_filter(images.cpu().numpy(), (1, 1, self.size, self.size))
        return torch.from_numpy(levels).to(images.device)


@dataclass(frozen=True)
class GaussianNoise(Checked):
    """Added normal noise of ``sigma`` levels of 255, drawn for every image alone."""

    sigma: Annotated[float, Field(gt=0, le=255)] = 8.0

    def __call__(self, images: Pixels, seed: int) -> Pixels:
        streams = [stream(seed, "noise", i) for i in range(len(images))]
        noise = randn(streams, images.shape[1:]).to(images.device)
        return to_levels(images.float() + self.sigma * noise)


@dataclass(frozen=True)
class BitDepth(Checked):
    """Values rounded to 2^bits levels that reach from 0 to 255 (feature squeezing)."""

    bits: Annotated[int, Field(ge=1, le=8)] = 4

    def __call__(self, images: Pixels, seed: int) -> Pixels:
        most = 2**self.bits - 1
        return to_levels((images.float() * most / 255).round() * 255 / most)


@dataclass(frozen=True)
class Rescale(Checked):
    """Shrunk to ``share`` of the side (by area) and enlarged again (bicubic)."""

    share: PartOfSide = 0.5

    def __call__(self, images: Pixels, seed: int) -> Pixels:
        side = images.shape[-1]
        small = F.interpolate(images.float(), size=max(1, round(side * self.share)), mode="area")
        return to_levels(F.interpolate(small, size=side, mode="bicubic", align_corners=False))


@dataclass(frozen=True)
class CentreCrop(Checked):
    """The centre, ``share`` of the side, enlarged to the old size: masks are cropped alike.

    Poisons that depend on where a pixel lies lose their grid.
    """

    share: PartOfSide = 0.9

    def _middle(self, values: Tensor) -> Tensor:
        side = values.shape[-1]
        kept = max(1, round(side * self.share))
        first = (side - kept) // 2
        return values[..., first : first + kept, first : first + kept]

    def __call__(self, images: Pixels, seed: int) -> Pixels:
        middle = self._middle(images).float()
        side = images.shape[-1]
        return to_levels(F.interpolate(middle, size=side, mode="bicubic", align_corners=False))

    def move_masks(self, masks: Masks, seed: int) -> Masks:
        """The masks of the images that this makes, bool [batch, side, side]."""
        middle = self._middle(masks)[:, None].float()
        grown = F.interpolate(middle, size=masks.shape[-1], mode="bilinear", align_corners=False)
        return grown[:, 0] >= 0.5


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


def chain(first: Preprocess, second: Preprocess) -> Preprocess:
    """``first``, then ``second``: flat, so that chaining is associative, without identities."""
    parts: list[Preprocess] = []
    for each in (first, second):
        parts += each.parts if isinstance(each, Chain) else [each]
    parts = [part for part in parts if part != Identity()] or [Identity()]
    return parts[0] if len(parts) == 1 else Chain(tuple(parts))
