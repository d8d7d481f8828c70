"""The loss inside and outside the concept, under one and the same noise (figure 6)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from safezone.analysis.latents import image_draws
from safezone.arrays import Timesteps
from safezone.models.base import Model, Posterior, Tokens


@torch.no_grad()
def region_losses(
    model: Model,
    posterior: Posterior,
    masks: Float[Tensor, "images h w"],
    tokens: Tokens,
    vectors: Float[Tensor, "k width"],
    timesteps: Timesteps,
    names: Sequence[str],
    *,
    seed: int = 0,
    batch_size: int = 64,
) -> dict[str, Float[Tensor, " images"]]:
    """``inside`` and ``outside``: the training loss averaged over the cells of each region.

    Per image, the mean over ``timesteps`` of the squared error of the model's own target, averaged
    over the channels and the region's cells. ``masks``: 1 inside, at latent size; NaN where a
    region is empty. ``tokens``: one row an image. Noise depends on (seed, image name) alone, so
    checkpoints and data sets are compared under the same noise.
    """
    count = len(timesteps)
    latents, noise = image_draws(posterior, names, count, seed)
    rows = torch.arange(len(names)).repeat_interleave(count)
    times = timesteps.repeat(len(names)).to(latents.device)
    given = vectors.to(model.device, torch.float32).expand(len(names), -1, -1)
    conditioning = model.embed_text(tokens, given)
    parts: dict[str, list[Tensor]] = {"inside": [], "outside": []}
    for start in range(0, len(rows), batch_size):
        cut = slice(start, start + batch_size)
        noisy = model.process.corrupt(latents[cut], noise[cut], times[cut])
        target = model.process.target(latents[cut], noise[cut], times[cut])
        prediction = model.predict(noisy, times[cut], conditioning[rows[cut].to(model.device)])
        squares = (prediction.float() - target).square().mean(dim=1).cpu()  # [batch, h, w]
        mask = masks[rows[cut]]
        for name, weight in (("inside", mask), ("outside", 1 - mask)):
            total = (squares * weight).flatten(1).sum(dim=1)
            parts[name].append(total / weight.flatten(1).sum(dim=1))
    return {name: torch.cat(p).view(len(names), count).mean(dim=1) for name, p in parts.items()}
