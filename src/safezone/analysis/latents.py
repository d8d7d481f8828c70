"""Latents and noise of images, named so that what is compared shares its chance."""

from collections.abc import Sequence

import torch
from torch import Tensor

from safezone.arrays import Latents, stream
from safezone.images import to_float
from safezone.models.base import Model, Posterior

_PASS = 32
"""Images that the encoder sees at once."""


@torch.no_grad()
def posterior_of(model: Model, images: Tensor) -> Posterior:
    """The posteriors of uint8 images [n, 3, height, width], on the model's device."""
    parts = [model.encode(to_float(part).to(model.device)) for part in images.split(_PASS)]
    return Posterior(torch.cat([p.mean for p in parts]), torch.cat([p.std for p in parts]))


def image_draws(
    posterior: Posterior, names: Sequence[str], count: int, seed: int
) -> tuple[Latents, Latents]:
    """Latents and noise [images x count, ...]: those of an image are named by it alone."""
    shape = (count, *posterior.mean.shape[1:])
    latents, noises = [], []
    for mean, std, name in zip(posterior.mean, posterior.std, names, strict=True):
        generator = stream(seed, "timesteps", name)
        sample, noise = torch.randn(2, *shape, generator=generator).to(mean)
        latents.append(mean + std * sample)
        noises.append(noise)
    return torch.cat(latents), torch.cat(noises)
