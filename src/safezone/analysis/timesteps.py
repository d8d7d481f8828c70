"""Loss, predicted noise and gradient by timestep (figures 4, 5, 10 and 11)."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from safezone.analysis.latents import predictions
from safezone.arrays import Timesteps, stream
from safezone.defenses import masked_loss
from safezone.errors import UserError
from safezone.models.base import Conditioning, Model, Posterior, Tokens

COUNT = 21
"""How many timesteps the paper looks at."""


def timestep_grid(steps: int, count: int = COUNT) -> Timesteps:
    """int64 [count]: equally spaced from 0 to ``steps - 1``, rounded; 2 to ``steps`` of them."""
    if not 2 <= count <= steps:
        raise UserError(f"timesteps is {count}; give 2 to {steps}, as many as the model has")
    return torch.linspace(0, steps - 1, count, dtype=torch.float64).round().long()


@torch.no_grad()
def noise_statistics(
    model: Model,
    posterior: Posterior,
    conditioning: Conditioning,
    timesteps: Timesteps,
    names: Sequence[str],
    *,
    seed: int = 0,
    batch_size: int = 64,
) -> dict[str, Float[Tensor, "images timesteps"]]:
    """``loss`` and ``prediction_norm`` of every image at every timestep, float32 on the CPU.

    ``loss``: the mean squared error of the predicted noise over the latent's elements (Eq. 2);
    ``prediction_norm``: the predicted noise's l2 norm, sqrt(elements) for true noise. A prediction
    of another kind is turned into noise first, so that all models are compared alike; there the
    loss is not the one that they are trained with. ``posterior``: of [images]; ``conditioning``:
    one row an image. Noise as ``latents.predictions`` has it.
    """
    losses, norms = [], []
    for _, prediction in predictions(
        model,
        posterior,
        timesteps,
        names,
        lambda rows: conditioning[rows],
        seed=seed,
        batch_size=batch_size,
    ):
        predicted = prediction.predicted_noise.float()
        losses.append(masked_loss(predicted - prediction.noise, None).cpu())
        norms.append(predicted.flatten(1).norm(dim=1).cpu())
    shape = (len(names), len(timesteps))
    return {"loss": torch.cat(losses).view(shape), "prediction_norm": torch.cat(norms).view(shape)}


def embedding_gradients(
    model: Model,
    posterior: Posterior,
    tokens: Tokens,
    vectors: Float[Tensor, "vectors width"],
    timesteps: Timesteps,
    names: Sequence[str],
    *,
    seed: int = 0,
    batch_size: int = 32,
) -> Float[Tensor, "images timesteps"]:
    """|dL / d vectors|_2 of every image at every timestep, float32 on the CPU (appendix C).

    L is the training loss of one image, timestep and noise: the mean squared error of the model's
    own target. ``tokens``: one row an image, with slots for ``vectors``. Noise as in
    ``noise_statistics``; name an image differently, as ``"a/2"``, for further draws.
    """
    norms = []
    leaf = vectors

    def embed(rows: Tensor) -> Conditioning:
        nonlocal leaf  # each sample has its own vectors: [batch, k, width]
        leaf = vectors.to(model.device, torch.float32).expand(len(rows), -1, -1).clone()
        return model.embed_text(tokens[rows.to(tokens.ids.device)], leaf.requires_grad_(True))

    for _, prediction in predictions(
        model, posterior, timesteps, names, embed, seed=seed, batch_size=batch_size
    ):
        (gradient,) = torch.autograd.grad(masked_loss(prediction.error.float(), None).sum(), leaf)
        norms.append(gradient.flatten(1).norm(dim=1).cpu())
    return torch.cat(norms).view(len(names), len(timesteps))


def quantile_bands(
    values: Float[Tensor, "samples timesteps"],
) -> dict[str, Float[Tensor, " timesteps"]]:
    """``median``, the 50% band ``low50``, ``high50`` and the 95% band ``low95``, ``high95``."""
    levels = {"median": 0.5, "low50": 0.25, "high50": 0.75, "low95": 0.025, "high95": 0.975}
    quantiles = torch.quantile(values.double(), torch.tensor(list(levels.values())).double(), dim=0)
    return dict(zip(levels, quantiles, strict=True))


def apart(
    clean: Mapping[str, Tensor], changed: Mapping[str, Tensor], timesteps: Timesteps
) -> dict[str, int | None]:
    """Where two distributions part and where they meet again, by ``quantile_bands``.

    Apart is a timestep at which the changed median lies outside the clean 50% band. ``part``: the
    first such timestep, ``meet``: the first after the last such; None when there is none.
    """
    outside = (changed["median"] < clean["low50"]) | (changed["median"] > clean["high50"])
    where = outside.nonzero().flatten()
    if not len(where):
        return {"part": None, "meet": None}
    after = int(where[-1]) + 1
    return {
        "part": int(timesteps[where[0]]),
        "meet": int(timesteps[after]) if after < len(timesteps) else None,
    }


def disjoint(
    clean: Mapping[str, Tensor], changed: Mapping[str, Tensor], timesteps: Timesteps, band: int
) -> list[int]:
    """The timesteps at which the 50% or 95% bands of ``quantile_bands`` have nothing in common."""
    low, high = f"low{band}", f"high{band}"
    where = (changed[low] > clean[high]) | (changed[high] < clean[low])
    return [int(t) for t in timesteps[where]]


BAND_RESAMPLES = 1000
"""Of the bootstrap of a peak."""


def peak_interval(
    concepts: Sequence[Float[Tensor, "samples timesteps"]], timesteps: Timesteps
) -> tuple[int, int]:
    """95% bootstrap interval of the timestep at which the mean over concepts of medians is largest.

    Each concept's samples are drawn again with replacement; the concepts stay as they are, so the
    interval says nothing about others.
    """
    generator = stream("peak interval")
    medians = torch.zeros(BAND_RESAMPLES, len(timesteps), dtype=torch.float64)
    for values in concepts:
        rows = torch.randint(len(values), (BAND_RESAMPLES, len(values)), generator=generator)
        medians += values.double()[rows].quantile(0.5, dim=1)
    at = timesteps[medians.argmax(dim=1)].sort().values
    edge = round(0.025 * BAND_RESAMPLES)
    return int(at[edge]), int(at[-1 - edge])
