"""Purifiers by diffusion models of pixels: DiffPure, GrIDPure, PDMPure."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from safezone.arrays import Draws, Images, randn
from safezone.defenses.purify import Bound, Purifier, TimestepOf1000
from safezone.errors import UserError
from safezone.fields import Checked, Count, Share
from safezone.models.base import Model
from safezone.models.denoise import denoise
from safezone.models.pixel import MINI_PIXEL, PixelModel, load_pixel_model, load_upscaler

Clip = Callable[[Tensor], Tensor]

_SMALL: Final = 128
"""Side of the images that the built-in pixel model was trained on."""
GUIDED_DIFFUSION: Final = "256x256_diffusion_uncond"
"""The unconditional model of 256 px of OpenAI's guided-diffusion, that of the papers' ImageNet."""


def clip(clean: Tensor) -> Tensor:
    """The predicted clean images, within [-1, 1]."""
    return clean.clamp(-1, 1)


def dynamic_threshold(share: float) -> Clip:
    """Imagen's: each image divided by the ``share`` quantile of its absolute values, if above 1."""

    def act(clean: Tensor) -> Tensor:
        limit = clean.abs().flatten(1).quantile(share, dim=1).clamp(min=1).view(-1, 1, 1, 1)
        return clean.clamp(-limit, limit) / limit

    return act


@torch.no_grad()
def renew(
    model: PixelModel,
    images: Images,
    timesteps: Sequence[int],
    generators: Draws,
    threshold: Clip = clip,
    *,
    noise_at: int | None = None,
) -> Images:
    """Noises images to ``noise_at``, by default ``timesteps[0]``, and denoises down the list.

    ``images``: [batch, 3, h, w] in [0, 1], each with its own generator. Ancestral sampling
    (DDPM's posterior between any two timesteps, Song et al., 2021, eta = 1) with the predicted
    clean image thresholded; the last timestep gives the clean image itself.
    """
    process = model.process

    def draw() -> Images:
        return randn(generators, images.shape[1:]).to(images)

    predict = model.denoiser(images, generators)
    level = timesteps[0] if noise_at is None else noise_at
    first = torch.full((len(images),), level, device=images.device)
    noisy = process.corrupt(images * 2 - 1, draw(), first)
    clean = denoise(process, predict, noisy, timesteps, draw=draw, eta=1.0, limit=threshold)
    return (clean / 2 + 0.5).clamp(0, 1)


def _resized(images: Images, side: int) -> Float[Tensor, "batch 3 {side} {side}"]:
    if images.shape[-1] == side:
        return images
    sizes = {"size": side, "mode": "bicubic", "align_corners": False, "antialias": True}
    return F.interpolate(images, **sizes).clamp(0, 1)  # type: ignore[arg-type]


def _require_stride(start: int, stride: int) -> None:
    if stride > start:
        raise UserError(f"start is {start}; give at least {stride}, which is stride")


def _is_small(model: Model | None) -> bool:
    """Whether the built-in pixel model fits: the images' size is told where no model is."""
    return model is None or model.image_size <= _SMALL


def _require_fit(pixel: PixelModel, image: Images, instead: str) -> None:
    """Raises UserError for a photograph before the built-in model."""
    if pixel.name == MINI_PIXEL and image.shape[-1] > _SMALL:
        raise UserError(
            f"the built-in pixel model is for {_SMALL} px and the image has {image.shape[-1]}; "
            f"use {instead}"
        )


class _PixelPurifier(Checked, Purifier):
    """What the three have in common: one pixel model, opened by its name."""

    model: str | None

    def bind(self, model: Model | None) -> Bound:
        if self.model is None and not _is_small(model):
            name = type(self).__name__
            raise UserError(
                f"{name.lower()} on photographs needs a large diffusion model of pixels, in the "
                f"papers {GUIDED_DIFFUSION} of github.com/openai/guided-diffusion: convert it to "
                f"a diffusers folder (a UNet2DModel of three channels) and give {name}(model="
                f"FOLDER), or leave the column out with --without {name.lower()}"
            )
        pixel = load_pixel_model(
            self.model or MINI_PIXEL, None if model is None else str(model.device)
        )

        def clean(image: Images, generator: torch.Generator) -> Images:
            _require_fit(pixel, image, f"{type(self).__name__}(model=) with a larger one")
            return self.clean(pixel, image, generator)

        return Bound((pixel,), clean, pixel.device)

    @abstractmethod
    def clean(self, pixel: PixelModel, image: Images, generator: torch.Generator) -> Images:
        """One image, [1, 3, h, w] in [0, 1]."""


@dataclass(frozen=True)
class DiffPure(_PixelPurifier):
    """DiffPure (Nie et al., 2022): noise to timestep ``start``, then the whole way back.

    The image is brought to the model's size and back (bicubic) where it has another one.
    ``model``: a pixel model's folder or hub name; by default the built-in one, up to 128 px only.
    """

    start: TimestepOf1000 = 100
    stride: Count = 1
    model: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_stride(self.start, self.stride)

    def clean(self, pixel: PixelModel, image: Images, generator: torch.Generator) -> Images:
        small = _resized(image, pixel.image_size)
        steps = range(self.start, -1, -self.stride)
        return _resized(renew(pixel, small, steps, [generator]), image.shape[-1])


@dataclass(frozen=True)
class GridPure(_PixelPurifier):
    """GrIDPure (Zhao et al., 2024): many light passes over overlapping crops of the model's size.

    Each of ``rounds``: every crop is noised to ``start`` and denoised step by step, overlaps are
    averaged, and ``blend`` of the round's input is mixed back in. Crops lie half a crop apart; an
    image that is not larger than the model is one crop at its own size. ``model``: as DiffPure's.
    """

    start: TimestepOf1000 = 10
    rounds: Count = 20
    blend: Annotated[float, Field(ge=0, lt=1)] = 0.1
    model: str | None = None

    def clean(self, pixel: PixelModel, image: Images, generator: torch.Generator) -> Images:
        steps = range(self.start, -1, -1)
        for _ in range(self.rounds):
            fresh = _on_crops(
                image, pixel.image_size, lambda part: renew(pixel, part, steps, [generator])
            )
            image = (1 - self.blend) * fresh + self.blend * image
        return image


def _on_crops(image: Images, crop: int, act: Callable[[Images], Images]) -> Images:
    """``act`` on overlapping crops, averaged where they overlap."""
    side = image.shape[-1]
    crop = min(crop, side)
    total, count = torch.zeros_like(image), torch.zeros_like(image[:, :1])
    # Half a crop apart, the last one at the end.
    starts = sorted({*range(0, side - crop, max(1, crop // 2)), side - crop})
    for y, x in product(starts, starts):
        window = (..., slice(y, y + crop), slice(x, x + crop))
        total[window] += act(image[window])
        count[window] += 1
    return total / count


STAGE_TWO: Final = "DeepFloyd/IF-II-L-v1.0"
FOUR_FOLD: Final = "stabilityai/stable-diffusion-x4-upscaler"


@dataclass(frozen=True)
class PDMPure(_PixelPurifier):
    """PDMPure (Xue et al., 2024): SDEdit by a strong model of pixels, at the model's size.

    The image is noised to ``noise_at`` of 1000 timesteps, by default ``start``, and denoised from
    ``start`` down in strides of ``stride``. The released code noises to 44 and walks from 99 in
    strides of 11 (``pdmpure-published``); the default begins where it noises, as SDEdit is defined,
    in as many passes. ``threshold``: the quantile of dynamic thresholding.

    ``model``: a pixel model's folder or hub name. By default the built-in one where the
    personalized model is as small, up to 128 px, and DeepFloyd IF's stage II on real ones, with
    ``upscaler`` Stable Diffusion's four-fold one behind it, as in the original: a photograph is
    never purified at 128 px. With a ``model`` and no ``upscaler`` the image is resized back.
    """

    start: TimestepOf1000 = 90
    stride: Count = 10
    threshold: Share = 0.95
    noise_at: TimestepOf1000 | None = None
    model: str | None = None
    upscaler: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_stride(self.start, self.stride)

    def bind(self, model: Model | None) -> Bound:
        name, upscaler_name = self.model or MINI_PIXEL, self.upscaler
        if self.model is None and not _is_small(model):
            name, upscaler_name = STAGE_TWO, FOUR_FOLD
        device = None if model is None else str(model.device)
        try:
            pixel = load_pixel_model(name, device)
            upscaler = None if upscaler_name is None else load_upscaler(upscaler_name, device)
        except UserError as error:
            if name != STAGE_TWO:
                raise
            raise UserError(
                f"pdmpure on photographs needs DeepFloyd IF's stage II and the four-fold upscaler: "
                f"accept the licence of {STAGE_TWO} on the hub and fetch it and {FOUR_FOLD}, or "
                f"leave the column out with --without pdmpure ({error})"
            ) from error

        def clean(image: Images, generator: torch.Generator) -> Images:
            _require_fit(
                pixel, image, "pdmpure-if: DeepFloyd IF's stage II, the upscaler behind it"
            )
            small = self.clean(pixel, image, generator)
            large = small if upscaler is None else upscaler(small, generator)
            return _resized(large, image.shape[-1])

        return Bound((pixel,) if upscaler is None else (pixel, upscaler), clean, pixel.device)

    def clean(
        self, pixel: PixelModel, image: Images, generator: torch.Generator
    ) -> Float[Tensor, "batch 3 side side"]:
        """The purified image at the model's size."""
        return renew(
            pixel,
            _resized(image, pixel.image_size),
            range(self.start, -1, -self.stride),
            [generator],
            dynamic_threshold(self.threshold),
            noise_at=self.noise_at,
        )
