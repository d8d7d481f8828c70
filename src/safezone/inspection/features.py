"""What an image that is its own control tells: its finest noise, and what a model makes of it.

Without a network: how strong the noise is and how it is shaped. With one: whether it sits where it
hurts. A poison is fitted to its place: moved by some pixels, the same noise moves the latents and
the loss less, while noise of a camera or a file does the same everywhere.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from safezone.analysis.spectra import frequencies, rapsd
from safezone.analysis.timesteps import ImageDraws, noise_statistics, posterior_of
from safezone.arrays import Pixels
from safezone.concepts import image_files
from safezone.errors import UserError
from safezone.images import jpeg, read_image, to_square, to_uint8
from safezone.models.base import Model, Posterior

_Levels: TypeAlias = NDArray[np.float64]
"""Values of pixels, 0 to 255 and differences of such."""

SMALLEST: Final = 32
"""Pixels of the shorter side below which nothing can be told."""
_LARGEST: Final = 768
"""Of a larger image only the middle is looked at, at most so many pixels a side."""
_FLAT: Final = 0.5
"""The share of blocks, the smoothest ones, whose noise is looked at: edges are elsewhere."""
_BLOCK: Final = 8
_FLOOR: Final = 0.1
"""Levels of 255, so that an image without any noise has logarithms."""
_LAPLACE: Final = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]]) / 6
"""Immerkaer's mask (1996): blind to planes, and white noise keeps its standard deviation."""
_PASS: Final = 4
"""Images that the networks see at once."""
BANDS: Final[Mapping[str, tuple[float, float]]] = {"fine": (0.0, 1.0), "broad": (1.0, 4.0)}
"""The standard deviations, in pixels, of the two blurs between which a band lies."""
_MOVE: Final = (5, 11)
"""By how many pixels a band is moved, down and across."""
_LOW: Final = 0.05
"""The timestep, as a share of the process, whose loss is looked at."""


def features_of(folder: Path, model: Model | None) -> dict[str, dict[str, float]]:
    """The features of every image of a folder by its file's name.

    Pixels are looked at in the file's own size, or, with a model, as the square that it is trained
    on, which a poison was made for. Raises UserError as the reader of images does, and for images
    that are too small.
    """
    pictures = {}
    for path in image_files(folder):  # all, before any work: a wrong file is told at once
        image = read_image(path)
        if min(image.shape[:2]) < SMALLEST:
            raise UserError(
                f"{path} has {image.shape[1]} x {image.shape[0]} pixels, too few to inspect; give "
                f"images of at least {SMALLEST} pixels a side"
            )
        if model is not None:
            image = to_square(image, model.image_size)
        picture = torch.from_numpy(image).permute(2, 0, 1)
        # A copy of what is looked at, so that photographs are not kept in their full size.
        pictures[path.name] = _middle(picture) if model is None else picture.contiguous()
    return dict(zip(pictures, image_features(list(pictures.values()), model), strict=True))


def image_features(
    pictures: Sequence[UInt8[Tensor, "3 height width"]], model: Model | None
) -> list[dict[str, float]]:
    """The features of each image; of pixels alone without a model, else of squares of its size."""
    result = [pixel_features(picture) for picture in pictures]
    if model is None:
        return result
    for first in range(0, len(pictures), _PASS):
        rows = slice(first, first + _PASS)
        for name, values in network_features(model, torch.stack([*pictures[rows]])).items():
            for each, value in zip(result[rows], values.tolist(), strict=True):
                each[name] = value
    return result


def pixel_features(image: UInt8[Tensor, "3 height width"]) -> dict[str, float]:
    """Eight numbers of one image in its own size.

    ``noise``: log2 of the noise of the grey values in levels, as Immerkaer tells it. ``colour``:
    log2 of the noise of colour differences over that. ``shape``: E[r^2] / E[|r|]^2 of the residual
    r of a light blur in flat blocks, 1 for a constant magnitude as saturated L-infinity poisons
    have it, 1.57 for normal noise, at most 4. ``neighbours`` and ``channels``: the correlation of r
    with itself one pixel on, and between colours. ``top`` and ``middle``: log2 of the spectrum's
    power near Nyquist over that around 1/4 cycles a pixel, and of that over the power around 1/12.
    ``jpeg``: log2 of the share of r's energy that a JPEG of quality 75 leaves. Not valid for fewer
    than ``SMALLEST`` pixels a side.
    """
    image = _middle(image)
    levels = image.numpy().astype(np.float64)
    residual, flat = _residual(levels), _flat(levels)  # [3, h, w], [h, w]
    after = _residual(jpeg(image[None], 75)[0].numpy().astype(np.float64))
    inside = residual[:, flat]  # [3, pixels]
    noise = _noise(levels.mean(axis=0))
    colour = np.mean([_noise(levels[channel] - levels[1]) for channel in (0, 2)])
    shape = (inside**2).mean() / max(np.abs(inside).mean(), _FLOOR) ** 2
    left = ((after[:, flat] ** 2).mean() + _FLOOR**2) / ((inside**2).mean() + _FLOOR**2)
    top, middle = _spectrum(levels)
    return {
        "noise": float(np.log2(noise)),
        "colour": float(np.log2(colour / noise)),
        "shape": float(min(shape, 4.0)),
        "neighbours": float(np.mean([_neighbours(residual, flat, axis) for axis in (1, 2)])),
        "channels": float(np.mean([_correlation(inside[a], inside[a - 1]) for a in range(3)])),
        "top": top,
        "middle": middle,
        "jpeg": float(np.log2(left)),
    }


def _middle(image: UInt8[Tensor, "3 height width"]) -> UInt8[Tensor, "3 h w"]:
    top, left = (max(0, side - _LARGEST) // 2 for side in image.shape[-2:])
    return image[:, top : top + _LARGEST, left : left + _LARGEST].contiguous()


def _filtered(function: Any, levels: _Levels, *settings: Any) -> _Levels:
    result: _Levels = function(levels, *settings, mode="mirror")
    return result


def _residual(levels: _Levels) -> _Levels:
    return levels - _filtered(ndimage.gaussian_filter, levels, (0, 1, 1))


def _noise(plane: _Levels) -> float:
    """The standard deviation of white noise in a plane, robust against edges, not below a floor."""
    response = np.abs(_filtered(ndimage.convolve, plane, _LAPLACE))
    return float(np.median(response) / 0.6745) + _FLOOR


def _flat(levels: _Levels) -> NDArray[np.bool_]:
    """bool [h, w]: the blocks in which a blurred image changes least."""
    smooth = _filtered(ndimage.gaussian_filter, levels, (0, 2, 2))
    slopes = [_filtered(ndimage.sobel, smooth, axis) for axis in (1, 2)]
    slope = np.hypot(*slopes).sum(axis=0)
    rows, columns = (side // _BLOCK for side in slope.shape)
    whole = slope[: rows * _BLOCK, : columns * _BLOCK]
    means = whole.reshape(rows, _BLOCK, columns, _BLOCK).mean(axis=(1, 3))
    chosen = means <= np.quantile(means, _FLAT)
    result = np.zeros(slope.shape, bool)
    result[: whole.shape[0], : whole.shape[1]] = chosen.repeat(_BLOCK, 0).repeat(_BLOCK, 1)
    return result


def _correlation(first: _Levels, second: _Levels) -> float:
    """Of residuals, whose means are zero; 0 where there is nothing."""
    scale = np.sqrt((first**2).mean() * (second**2).mean())
    return float((first * second).mean() / (scale + _FLOOR**2))


def _neighbours(residual: _Levels, flat: NDArray[np.bool_], axis: int) -> float:
    places = np.delete(flat, 0, axis - 1)
    first, second = np.delete(residual, 0, axis), np.delete(residual, -1, axis)
    return _correlation(first[:, places], second[:, places])


def _spectrum(levels: _Levels) -> tuple[float, float]:
    centred = torch.from_numpy(levels - levels.mean(axis=(1, 2), keepdims=True))
    power = rapsd(centred[None])[0] + _FLOOR**2
    at = frequencies(len(power), min(levels.shape[-2:]))

    def band(low: float, high: float) -> Tensor:
        return power[(at >= low) & (at <= high)].mean().log2()

    quarter = band(0.2, 0.3)
    return float(band(0.4, 0.5) - quarter), float(quarter - band(1 / 16, 1 / 10))


@torch.no_grad()
def network_features(model: Model, images: Pixels) -> Mapping[str, Float[Tensor, " batch"]]:
    """Seven numbers of each image, squares of the model's size; float64 on the CPU.

    All are log2. ``fine gain``, ``broad gain``: how far a band of the image moves the latents, over
    how far it does when it is moved itself. ``fine loss``, ``broad loss``: the denoising loss at a
    low timestep over that of the image whose band is moved. ``blurred``, ``compressed``: that loss
    over the loss without the fine band, and over that of a JPEG of quality 75. ``latents``: the
    latents' power in the upper half of their frequencies over that in the lower. Noise is the same
    for all images.
    """
    levels = images.float()
    latents = posterior_of(model, images)
    loss = _loss(model, latents)
    result: dict[str, Tensor] = {}
    for name, (narrow, wide) in BANDS.items():
        band = _blurred(levels, narrow) - _blurred(levels, wide)
        without = posterior_of(model, to_uint8((levels - band) / 255))
        moved = posterior_of(model, to_uint8((levels - band + band.roll(_MOVE, (2, 3))) / 255))
        gain = _distance(latents, without) / _distance(moved, without)
        result[f"{name} gain"] = gain.log2()
        result[f"{name} loss"] = loss - _loss(model, moved)
        if name == "fine":
            result["blurred"] = loss - _loss(model, without)
    result["compressed"] = loss - _loss(model, posterior_of(model, jpeg(images, 75)))
    power = rapsd(latents.mean.cpu())
    half = power.shape[1] // 2
    result["latents"] = (power[:, half:].mean(dim=1) / power[:, 1:half].mean(dim=1)).log2()
    return {name: values.double().cpu() for name, values in result.items()}


def _blurred(levels: Tensor, sigma: float) -> Tensor:
    if sigma == 0:
        return levels
    return torch.from_numpy(
        ndimage.gaussian_filter(levels.numpy(), (0, 0, sigma, sigma), mode="mirror")
    )


def _distance(first: Posterior, second: Posterior) -> Tensor:
    distance: Tensor = (first.mean - second.mean).flatten(1).norm(dim=1).cpu()
    return distance + 1e-6


def _loss(model: Model, latents: Posterior) -> Tensor:
    """log2 of the loss at the low timestep under one and the same noise."""
    count = len(latents.mean)
    steps = torch.tensor([round(_LOW * model.process.steps)])
    conditioning = model.embed_text(model.tokenize(["a photo"] * count))
    statistics = noise_statistics(
        ImageDraws(model, latents, steps, ["inspect"] * count), conditioning
    )
    loss: Tensor = statistics["loss"][:, 0].log2()
    return loss
