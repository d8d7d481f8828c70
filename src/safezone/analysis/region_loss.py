"""The loss inside and outside the concept, under one and the same noise (figure 6)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from safezone.analysis.latents import predictions
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
    vectors = vectors.to(model.device, torch.float32).expand(len(names), -1, -1)
    conditioning = model.embed_text(tokens, vectors)
    parts: dict[str, list[Tensor]] = {"inside": [], "outside": []}
    for rows, prediction in predictions(
        model,
        posterior,
        timesteps,
        names,
        lambda rows: conditioning[rows.to(model.device)],
        seed=seed,
        batch_size=batch_size,
    ):
        squares = prediction.error.float().square().mean(dim=1).cpu()  # [batch, h, w]
        mask = masks[rows.cpu()]
        for name, weight in (("inside", mask), ("outside", 1 - mask)):
            total = (squares * weight).flatten(1).sum(dim=1)
            parts[name].append(total / weight.flatten(1).sum(dim=1))
    shape = (len(names), len(timesteps))
    return {name: torch.cat(p).view(shape).mean(dim=1) for name, p in parts.items()}
