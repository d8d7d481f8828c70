"""Plain image filters: random compression, blurs, noise, bit depth, rescaling, cropping."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from safezone.arrays import Masks, randn, stream
from safezone.defenses.preprocess import Jpeg, Pixels, to_levels
from safezone.errors import UserError
from safezone.images import jpeg


@dataclass(frozen=True)
class RandomJpeg:
    """Compression as JPEG at a quality drawn for every image alone, so that none can expect it.

    ``lowest`` and ``highest``: the range of the whole-number quality, both included.
    """

    lowest: int = 20
    highest: int = 60
    subsampling: Literal["4:2:0", "4:2:2", "4:4:4"] = "4:2:0"

    def __post_init__(self) -> None:
        Jpeg(self.lowest, self.subsampling), Jpeg(self.highest, self.subsampling)
        if self.lowest > self.highest:
            raise UserError(
                f"The JPEG quality is drawn from {self.lowest} to {self.highest}; "
                "give the lower bound first."
            )

    def __call__(self, images: Pixels, seed: int) -> Pixels:
        result = torch.empty_like(images)
        for i, image in enumerate(images):
            drawn = torch.randint(
                self.lowest, self.highest + 1, (), generator=stream(seed, "quality", i)
            )
            result[i] = jpeg(image[None], int(drawn), self.subsampling)[0]
        return result


@dataclass(frozen=True)
class GaussianBlur:
    """A Gaussian blur of ``sigma`` pixels at 512, scaled with the image's side."""

    sigma: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 100:
            raise UserError(f"The blur's sigma is {self.sigma}; give above 0 to 100 pixels at 512.")

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
            raise UserError(f"The median's window is {self.size}; give an odd number from 3 to 31.")

    def __call__(self, images: Pixels, seed: int) -> Pixels:
        found = ndimage.median_filter(images.cpu().numpy(), (1, 1, self.size, self.size))
        return torch.from_numpy(found).to(images.device)


@dataclass(frozen=True)
class GaussianNoise:
    """Added normal noise of ``sigma`` levels of 255, drawn for every image alone."""

    sigma: float = 8.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 255:
            raise UserError(f"The noise's sigma is {self.sigma}; give above 0 to 255 levels.")

    def __call__(self, images: Pixels, seed: int) -> Pixels:
        streams = [stream(seed, "noise", i) for i in range(len(images))]
        noise = randn(streams, images.shape[1:]).to(images.device)
        return to_levels(images.float() + self.sigma * noise)


@dataclass(frozen=True)
class BitDepth:
    """Values rounded to 2^bits levels that reach from 0 to 255 (feature squeezing)."""

    bits: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise UserError(f"The bit depth is {self.bits}; give 1 to 8.")

    def __call__(self, images: Pixels, seed: int) -> Pixels:
        most = 2**self.bits - 1
        return to_levels((images.float() * most / 255).round() * 255 / most)


@dataclass(frozen=True)
class Rescale:
    """Shrunk to ``share`` of the side (by area) and enlarged again (bicubic)."""

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UserError(f"The rescaling share is {self.share}; give above 0 to below 1.")

    def __call__(self, images: Pixels, seed: int) -> Pixels:
        side = images.shape[-1]
        small = F.interpolate(images.float(), size=max(1, round(side * self.share)), mode="area")
        return to_levels(F.interpolate(small, size=side, mode="bicubic", align_corners=False))


@dataclass(frozen=True)
class CentreCrop:
    """The centre, ``share`` of the side, enlarged to the old size: masks are cropped alike.

    Poisons that depend on where a pixel lies lose their grid.
    """

    share: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UserError(f"The crop's share is {self.share}; give above 0 to below 1.")

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
        """The masks of the images that this makes."""
        middle = self._middle(masks)[:, None].float()
        grown = F.interpolate(middle, size=masks.shape[-1], mode="bilinear", align_corners=False)
        return grown[:, 0] >= 0.5
