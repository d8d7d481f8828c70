"""What a model tells of an image that is its own control: does its noise sit where it hurts?

A poison is fitted to its place. Moved by some pixels, the same noise moves the latents and the loss
less, while noise of a camera or a file does the same everywhere.
"""

from collections.abc import Mapping
from typing import Final

import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from safezone.analysis.spectra import rapsd
from safezone.analysis.timesteps import ImageDraws, noise_statistics, posterior_of
from safezone.arrays import Pixels
from safezone.images import jpeg, to_uint8
from safezone.models.base import Model, Posterior

BANDS: Final[Mapping[str, tuple[float, float]]] = {"fine": (0.0, 1.0), "broad": (1.0, 4.0)}
"""The standard deviations, in pixels, of the two blurs between which a band lies."""
_MOVE: Final = (5, 11)
"""By how many pixels a band is moved, down and across."""
_LOW: Final = 0.05
"""The timestep, as a share of the process, whose loss is looked at."""


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
