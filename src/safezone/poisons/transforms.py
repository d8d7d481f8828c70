"""Differentiable image operations: what a poison is made to survive, and how its noise is shaped.

``a + b`` does a, then b. Every image draws its own parameters from its own generator. Operations
that move pixels move the mask with them.
"""

import re
from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from safezone.arrays import Draws, Images, rand
from safezone.errors import UserError
from safezone.fields import Checked, FieldError

ShareOfSide: TypeAlias = Annotated[float, Field(ge=0.05, le=1)]
Moved: TypeAlias = tuple[Images, Float[Tensor, "batch 1 height width"] | None]


class Transform(Checked, ABC):
    """Images, their masks and generators to images and masks of the same shape.

    A frozen dataclass; raises FieldError for settings out of range.
    """

    def __call__(self, images: Images, masks: Tensor | None, generators: Draws) -> Moved:
        """``images``: float [batch, 3, h, w] in [0, 1]; ``masks``: [batch, 1, h, w] or None."""
        return self.pixels(images, generators), masks

    def pixels(self, images: Images, generators: Draws) -> Images:
        """What becomes of the images where nothing in them moves."""
        raise NotImplementedError

    def __add__(self, other: "Transform") -> "Transform":
        return InTurn((*_parts(self), *_parts(other)))


@dataclass(frozen=True)
class InTurn(Transform):
    """One transform after the other."""

    parts: tuple[Transform, ...]

    def __call__(self, images: Images, masks: Tensor | None, generators: Draws) -> Moved:
        for part in self.parts:
            images, masks = part(images, masks, generators)
        return images, masks


def _parts(transform: Transform) -> tuple[Transform, ...]:
    return transform.parts if isinstance(transform, InTurn) else (transform,)


@dataclass(frozen=True)
class _Drawn(Transform):
    """A transform with a number drawn uniformly in [``low``, ``high``) for each image and draw."""

    low: float
    high: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise UserError(f"low is {self.low}; give at most {self.high}, which is high")

    def draw(self, generators: Draws) -> Tensor:
        """One value from each generator, [batch]."""
        return self.low + (self.high - self.low) * rand(generators)


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    """[1, channels, height, width], bilinear, averaged where it shrinks."""
    return functional.interpolate(
        image, (height, width), mode="bilinear", align_corners=False, antialias=True
    )


@dataclass(frozen=True)
class DifferentiableJpeg(_Drawn):
    """JPEG with 4:2:0 chroma, its rounding replaced by a smooth one (kornia; Shin & Song 2017).

    The quality is from ``low`` to ``high``. The smooth rounding still jumps half-way between two
    levels, so float differences, such as those of another batch size, can grow from step to step
    into another poison of the same strength.
    """

    low: Annotated[float, Field(ge=1, le=100)] = 20.0
    high: Annotated[float, Field(ge=1, le=100)] = 30.0

    def pixels(self, images: Images, generators: Draws) -> Images:
        from kornia.enhance import jpeg_codec_differentiable  # takes a second to import

        compressed: Tensor = jpeg_codec_differentiable(images, self.draw(generators).to(images))
        return compressed


@dataclass(frozen=True)
class Shrink(_Drawn):
    """Shrunk to a share of the side, from ``low`` to ``high``, and enlarged back."""

    low: ShareOfSide = 0.5
    high: ShareOfSide = 1.0

    def pixels(self, images: Images, generators: Draws) -> Images:
        height, width = images.shape[-2:]
        small = [
            _resized(image[None], max(1, round(share * height)), max(1, round(share * width)))
            for image, share in zip(images, self.draw(generators).tolist(), strict=True)
        ]
        return torch.cat([_resized(image, height, width) for image in small])


@dataclass(frozen=True)
class Crop(Transform):
    """A window of a share of the side, drawn from ``low`` to 1, anywhere, enlarged back."""

    low: ShareOfSide = 0.8

    def __call__(self, images: Images, masks: Tensor | None, generators: Draws) -> Moved:
        height, width = images.shape[-2:]
        windows = []
        for i, (size, down, right) in enumerate(rand(generators, (3,)).tolist()):
            share = self.low + (1 - self.low) * size
            h, w = max(1, round(share * height)), max(1, round(share * width))
            top, left = int(down * (height - h + 1)), int(right * (width - w + 1))
            windows.append(np.s_[i : i + 1, :, top : top + h, left : left + w])
        cut = torch.cat([_resized(images[window], height, width) for window in windows])
        if masks is None:
            return cut, None
        moved = [functional.interpolate(masks[window], (height, width)) for window in windows]
        return cut, torch.cat(moved)


@dataclass(frozen=True)
class Flip(Transform):
    """Mirrored left to right with probability 1/2."""

    def __call__(self, images: Images, masks: Tensor | None, generators: Draws) -> Moved:
        turned = (rand(generators) < 0.5).to(images.device).view(-1, 1, 1, 1)
        flipped = torch.where(turned, images.flip(-1), images)
        return flipped, None if masks is None else torch.where(turned, masks.flip(-1), masks)


@dataclass(frozen=True)
class Blur(_Drawn):
    """Gaussian blur with a standard deviation from ``low`` to ``high`` pixels."""

    low: Annotated[float, Field(ge=0.05, le=8)] = 0.1
    high: Annotated[float, Field(ge=0.05, le=8)] = 1.5

    def pixels(self, images: Images, generators: Draws) -> Images:
        batch, channels, height, width = images.shape
        sigma = self.draw(generators).to(images.device)
        reach = min(round(3 * self.high + 0.5), min(height, width) - 1)
        offsets = torch.arange(-reach, reach + 1, dtype=torch.float32, device=images.device)
        window = torch.exp(-offsets.square() / (2 * sigma[:, None].square()))  # [batch, taps]
        window = (window / window.sum(dim=1, keepdim=True)).to(images)
        taps = window.repeat_interleave(channels, dim=0)  # [batch * channels, taps]
        flat = images.reshape(1, batch * channels, height, width)
        flat = functional.pad(flat, (reach,) * 4, mode="reflect")
        flat = functional.conv2d(flat, taps[:, None, :, None], groups=batch * channels)
        flat = functional.conv2d(flat, taps[:, None, None, :], groups=batch * channels)
        return flat.view(batch, channels, height, width)


TRANSFORMS: Mapping[str, Transform] = MappingProxyType(
    dict(jpeg=DifferentiableJpeg(), resize=Shrink(), crop=Crop(), flip=Flip(), blur=Blur())
)


def transform(text: str) -> Transform:
    """``jpeg50+flip``: the table's transforms one after the other; ``jpeg<quality>`` has just that.

    Raises UserError for any other name.
    """
    first, *others = text.split("+", 1)
    if others:
        return transform(first) + transform(others[0])
    name = text.strip().lower()
    if name in TRANSFORMS:
        return TRANSFORMS[name]
    if quality := re.fullmatch(r"jpeg(\d+)", name):
        try:
            return DifferentiableJpeg(float(quality[1]), float(quality[1]))
        except FieldError as error:
            raise UserError(f"The quality of the transform {name} {error.reason}.") from error
    raise UserError(
        f"There is no transform {name!r}; choose from {', '.join(TRANSFORMS)} or jpeg<quality>, "
        "joined by +."
    )


@dataclass(frozen=True)
class NaturalSpectrum:
    """Blurs the perturbation of each region until its spectrum falls as the clean region's does
    (after BlurGuard, 2511.00143).

    ``regions``: tiles along a side. ``sigmas``: the Gaussian blurs to choose from, standard
    deviations in pixels, from weak to strong. A tile gets the weakest blur with which white noise
    has no larger share of its power above an eighth of the sampling rate than the tile's own grey
    levels have (their mean and a Hann window's leakage left out), or the strongest. Tiles blend
    into each other. Blurs average, so that an l-infinity budget stays kept. BlurGuard takes the
    regions from a segmentation and fits each blur; this one needs no network. Raises UserError for
    settings out of range.
    """

    regions: int = 4
    sigmas: tuple[float, ...] = (0.0, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)

    def __post_init__(self) -> None:
        if self.regions < 1 or not self.sigmas or list(self.sigmas) != sorted(set(self.sigmas)):
            raise UserError("The noise is shaped in at least 1 region, with blurs that grow.")
        if self.sigmas[0] < 0:
            raise UserError(f"The blur {self.sigmas[0]} is negative; give 0 or more pixels.")

    def fit(self, clean: Images) -> Callable[[Tensor], Tensor]:
        """The linear map of perturbations, [batch, 3, height, width], of these clean images."""
        choice = functional.one_hot(self.choose(clean), len(self.sigmas)).to(clean)
        weights = functional.interpolate(
            choice.permute(0, 3, 1, 2), clean.shape[-2:], mode="bilinear", align_corners=False
        )  # [batch, sigmas, height, width], of sum 1

        def shape(delta: Tensor) -> Tensor:
            blurred = torch.stack([_blur(delta, sigma) for sigma in self.sigmas], dim=1)
            return (blurred * weights[:, :, None]).sum(dim=1)

        return shape

    def choose(self, clean: Images) -> Tensor:
        """Which of ``sigmas`` each tile gets, int64 [batch, regions, regions]."""
        tiles = _tiles(clean.mean(dim=1), self.regions)  # [batch, regions, regions, h, w]
        height, width = tiles.shape[-2:]
        frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width))
        frequency = frequency.to(clean)  # of each cell of a Fourier transform, in cycles a pixel
        rise, run = (torch.hann_window(n + 2, periodic=False)[1:-1] for n in (height, width))
        window = (rise[:, None] * run).to(clean)
        detail = (tiles - tiles.mean(dim=(-2, -1), keepdim=True)) * window
        own = _high_share(torch.fft.fft2(detail).abs().square(), frequency)
        blurs = torch.tensor(self.sigmas).to(clean)[:, None, None]
        noise = _high_share(torch.exp(-((2 * torch.pi * blurs * frequency) ** 2)), frequency)
        low_enough = noise <= own[..., None]  # [batch, regions, regions, sigmas]
        low_enough[..., -1] = True
        return low_enough.to(torch.int8).argmax(dim=-1)


_HIGH = 1 / 8
"""The frequency, in cycles a pixel, above which power counts as high."""


def _blur(values: Tensor, sigma: float) -> Tensor:
    from kornia.filters import gaussian_blur2d  # takes a second to import

    if sigma == 0:
        return values
    reach = min(2 * round(3 * sigma) + 1, 2 * (min(values.shape[-2:]) - 1) + 1)
    blurred: Tensor = gaussian_blur2d(values, reach, (sigma, sigma))
    return blurred


def _tiles(grey: Tensor, regions: int) -> Tensor:
    """[batch, h, w] to [batch, regions, regions, h / regions, w / regions], the rest cut off."""
    height, width = (side // regions for side in grey.shape[-2:])
    if min(height, width) < 4:
        raise UserError(f"{regions} regions along a side are too many for this image; give fewer.")
    cut = grey[:, : height * regions, : width * regions].contiguous()
    return cut.view(len(cut), regions, height, regions, width).transpose(2, 3)


def _high_share(power: Tensor, frequency: Tensor) -> Tensor:
    """What share of the power, [..., height, width], lies above ``_HIGH``; the mean left out."""
    total = (power * (frequency > 0)).sum(dim=(-2, -1))
    high = (power * (frequency > _HIGH)).sum(dim=(-2, -1))
    return high / total.clamp_min(torch.finfo(power.dtype).tiny)
