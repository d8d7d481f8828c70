"""Latents and noise of images, named so that what is compared shares its chance."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from safezone.arrays import Latents, Timesteps, stream
from safezone.images import to_float
from safezone.models.base import Conditioning, Model, Posterior
from safezone.models.denoise import Prediction, predict

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


def passes(rows: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` rows that together are all of them."""
    return (slice(start, start + size) for start in range(0, rows, size))


def predictions(
    model: Model,
    posterior: Posterior,
    timesteps: Timesteps,
    names: Sequence[str],
    conditioning: Callable[[Tensor], Conditioning],
    *,
    seed: int,
    batch_size: int,
) -> Iterator[tuple[Tensor, Prediction]]:
    """What the model predicts of every image at every timestep, image after image.

    Yields int64 [batch], which image each row is of, with their predictions. ``conditioning``: of
    such rows. Posterior sample and noise of an image come from (seed, its name) alone, so data sets
    with equal names are compared under the same noise.
    """
    latents, noise = image_draws(posterior, names, len(timesteps), seed)
    rows = torch.arange(len(names), device=latents.device).repeat_interleave(len(timesteps))
    times = timesteps.repeat(len(names)).to(latents.device)
    for cut in passes(len(rows), batch_size):
        yield (
            rows[cut],
            predict(model, latents[cut], noise[cut], times[cut], conditioning(rows[cut])),
        )
