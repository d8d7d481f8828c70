"""Differentiable image operations that a poison is made to survive: expectation over transforms.

``a + b`` does a, then b. Every image draws its own parameters from its own generator. Operations
that move pixels move the mask with them.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from safezone.arrays import Images, rand
from safezone.errors import UserError

Masked: TypeAlias = tuple[Images, Float[Tensor, "batch 1 height width"] | None]


class Transform(ABC):
    """Images, their masks and generators to images and masks of the same shape."""

    @abstractmethod
    def __call__(
        self, images: Images, masks: Tensor | None, generators: Sequence[torch.Generator]
    ) -> Masked:
        """``images``: float [batch, 3, h, w] in [0, 1]; ``masks``: [batch, 1, h, w] or None."""

    def __add__(self, other: "Transform") -> "Transform":
        return Chain((*_parts(self), *_parts(other)))


@dataclass(frozen=True)
class Chain(Transform):
    """One transform after the other."""

    parts: tuple[Transform, ...]

    def __call__(
        self, images: Images, masks: Tensor | None, generators: Sequence[torch.Generator]
    ) -> Masked:
        for part in self.parts:
            images, masks = part(images, masks, generators)
        return images, masks


def _parts(transform: Transform) -> tuple[Transform, ...]:
    return transform.parts if isinstance(transform, Chain) else (transform,)


def _between(generators: Sequence[torch.Generator], low: float, high: float) -> Tensor:
    """Uniform in [low, high), one value from each generator."""
    return low + (high - low) * rand(generators)


def _require_range(name: str, low: float, high: float, least: float, most: float) -> None:
    if not least <= low <= high <= most:
        raise UserError(
            f"The transform {name} draws from {low} to {high}; "
            f"give a range within {least} to {most}."
        )


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    """[1, channels, height, width], bilinear, averaged where it shrinks."""
    return functional.interpolate(
        image, (height, width), mode="bilinear", align_corners=False, antialias=True
    )


@dataclass(frozen=True)
class DifferentiableJpeg(Transform):
    """JPEG with 4:2:0 chroma, its rounding replaced by a smooth one (kornia; Shin & Song 2017).

    The quality is drawn uniformly from ``low`` to ``high``, 1 to 100, for each image and draw. The
    smooth rounding still jumps half-way between two levels, so float differences, such as those of
    another batch size, can grow from step to step into another poison of the same strength.
    """

    low: float = 20.0
    high: float = 30.0

    def __post_init__(self) -> None:
        _require_range("jpeg", self.low, self.high, 1, 100)

    def __call__(
        self, images: Images, masks: Tensor | None, generators: Sequence[torch.Generator]
    ) -> Masked:
        from kornia.enhance import jpeg_codec_differentiable  # takes a second to import

        quality = _between(generators, self.low, self.high).to(images)
        return jpeg_codec_differentiable(images, quality), masks


@dataclass(frozen=True)
class Rescale(Transform):
    """Shrunk to a share of the side, drawn from ``low`` to ``high``, and enlarged back."""

    low: float = 0.5
    high: float = 1.0

    def __post_init__(self) -> None:
        _require_range("resize", self.low, self.high, 0.05, 1)

    def __call__(
        self, images: Images, masks: Tensor | None, generators: Sequence[torch.Generator]
    ) -> Masked:
        height, width = images.shape[-2:]
        shares = _between(generators, self.low, self.high).tolist()
        small = [
            _resized(image[None], max(1, round(share * height)), max(1, round(share * width)))
            for image, share in zip(images, shares, strict=True)
        ]
        return torch.cat([_resized(image, height, width) for image in small]), masks


@dataclass(frozen=True)
class Crop(Transform):
    """A window of a share of the side, drawn from ``low`` to 1, anywhere, enlarged back."""

    low: float = 0.8

    def __post_init__(self) -> None:
        _require_range("crop", self.low, 1.0, 0.05, 1)

    def __call__(
        self, images: Images, masks: Tensor | None, generators: Sequence[torch.Generator]
    ) -> Masked:
        height, width = images.shape[-2:]
        draws = rand(generators, (3,)).tolist()
        found: list[Tensor] = []
        found_masks: list[Tensor] = []
        for i, (size, down, right) in enumerate(draws):
            share = self.low + (1 - self.low) * size
            h, w = max(1, round(share * height)), max(1, round(share * width))
            top, left = int(down * (height - h + 1)), int(right * (width - w + 1))
            window = (slice(i, i + 1), slice(None), slice(top, top + h), slice(left, left + w))
            found.append(_resized(images[window], height, width))
            if masks is not None:
                cut = functional.interpolate(masks[window], (height, width), mode="nearest")
                found_masks.append(cut)
        return torch.cat(found), None if masks is None else torch.cat(found_masks)


@dataclass(frozen=True)
class Flip(Transform):
    """Mirrored left to right with probability 1/2."""

    def __call__(
        self, images: Images, masks: Tensor | None, generators: Sequence[torch.Generator]
    ) -> Masked:
        turned = (rand(generators) < 0.5).to(images.device).view(-1, 1, 1, 1)
        flipped = torch.where(turned, images.flip(-1), images)
        return flipped, None if masks is None else torch.where(turned, masks.flip(-1), masks)


@dataclass(frozen=True)
class Blur(Transform):
    """Gaussian blur with a standard deviation drawn from ``low`` to ``high`` pixels."""

    low: float = 0.1
    high: float = 1.5

    def __post_init__(self) -> None:
        _require_range("blur", self.low, self.high, 0.05, 8)

    def __call__(
        self, images: Images, masks: Tensor | None, generators: Sequence[torch.Generator]
    ) -> Masked:
        batch, channels, height, width = images.shape
        sigma = _between(generators, self.low, self.high)
        reach = min(round(3 * self.high + 0.5), min(height, width) - 1)
        offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
        window = torch.exp(-offsets.square() / (2 * sigma[:, None].square()))  # [batch, taps]
        window = (window / window.sum(dim=1, keepdim=True)).to(images)
        taps = window.repeat_interleave(channels, dim=0)  # [batch * channels, taps]
        flat = images.reshape(1, batch * channels, height, width)
        flat = functional.pad(flat, (reach,) * 4, mode="reflect")
        flat = functional.conv2d(flat, taps[:, None, :, None], groups=batch * channels)
        flat = functional.conv2d(flat, taps[:, None, None, :], groups=batch * channels)
        return flat.view(batch, channels, height, width), masks


TRANSFORMS: Mapping[str, Transform] = MappingProxyType(
    {
        "jpeg": DifferentiableJpeg(),
        "resize": Rescale(),
        "crop": Crop(),
        "flip": Flip(),
        "blur": Blur(),
    }
)


def transform(text: str) -> Transform:
    """``jpeg50+flip``: the table's transforms one after the other; ``jpeg<quality>`` has just that.

    Raises UserError for any other name.
    """
    parts = [_transform(name.strip().lower()) for name in text.split("+")]
    return parts[0] if len(parts) == 1 else Chain(tuple(parts))


def _transform(name: str) -> Transform:
    if name in TRANSFORMS:
        return TRANSFORMS[name]
    if quality := re.fullmatch(r"jpeg(\d+)", name):
        return DifferentiableJpeg(float(quality[1]), float(quality[1]))
    raise UserError(
        f"There is no transform {name!r}; choose from {', '.join(TRANSFORMS)} or jpeg<quality>, "
        "joined by +."
    )
