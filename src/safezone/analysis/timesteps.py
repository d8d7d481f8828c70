"""Loss, predicted noise and gradient by timestep; the loss by region (figures 4 to 6, 10, 11)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from safezone.arrays import Latents, Timesteps, stream
from safezone.defenses import masked_loss
from safezone.errors import UserError
from safezone.images import to_float
from safezone.models.base import Conditioning, Model, Posterior, Tokens
from safezone.models.denoise import Prediction, predict

COUNT: Final = 21
"""How many timesteps the paper looks at."""
BAND_RESAMPLES: Final = 1000
"""Of the bootstrap of a peak."""
_PASS: Final = 32
"""Images that the encoder sees at once."""


def timestep_grid(steps: int, count: int = COUNT) -> Timesteps:
    """int64 [count]: equally spaced from 0 to ``steps - 1``, rounded; 2 to ``steps`` of them."""
    if not 2 <= count <= steps:
        raise UserError(f"timesteps is {count}; give 2 to {steps}, as many as the model has")
    return torch.linspace(0, steps - 1, count, dtype=torch.float64).round().long()


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


@dataclass(frozen=True, eq=False)
class ImageDraws:
    """Images at timesteps, each with its posterior's sample and its noise.

    Both come from (seed, image name) alone, so data sets with equal names are compared under the
    same noise; name an image differently, as ``"a/2"``, for further draws. ``posterior``: of
    [images].
    """

    model: Model
    posterior: Posterior
    timesteps: Timesteps
    names: Sequence[str]
    seed: int = 0

    def predictions(
        self, conditioning: Callable[[Tensor], Conditioning], batch_size: int
    ) -> Iterator[tuple[Tensor, Prediction]]:
        """What the model predicts of every image at every timestep, image after image.

        Yields int64 [batch], which image each row is of, with their predictions. ``conditioning``:
        of such rows.
        """
        count = len(self.timesteps)
        latents, noise = image_draws(self.posterior, self.names, count, self.seed)
        images = torch.arange(len(self.names), device=latents.device).repeat_interleave(count)
        times = self.timesteps.repeat(len(self.names)).to(latents.device)
        every = (each.split(batch_size) for each in (images, latents, noise, times))
        for rows, z, drawn, t in zip(*every, strict=True):
            yield rows, predict(self.model, z, drawn, t, conditioning(rows))

    def by_image(self, values: Sequence[Tensor]) -> Float[Tensor, "images timesteps"]:
        """Values of the batches of ``predictions``, put together."""
        return torch.cat(list(values)).view(len(self.names), len(self.timesteps))


@torch.no_grad()
def noise_statistics(
    draws: ImageDraws, conditioning: Conditioning, batch_size: int = 64
) -> dict[str, Float[Tensor, "images timesteps"]]:
    """``loss`` and ``prediction_norm`` of every image at every timestep, float32 on the CPU.

    ``loss``: the mean squared error of the predicted noise over the latent's elements (Eq. 2);
    ``prediction_norm``: the predicted noise's l2 norm, sqrt(elements) for true noise. A prediction
    of another kind is turned into noise first, so that all models are compared alike; there the
    loss is not the one that they are trained with. ``conditioning``: one row an image.
    """
    losses, norms = [], []
    for _, prediction in draws.predictions(lambda rows: conditioning[rows], batch_size):
        predicted = prediction.predicted_noise.float()
        losses.append(masked_loss(predicted - prediction.noise, None).cpu())
        norms.append(predicted.flatten(1).norm(dim=1).cpu())
    return {"loss": draws.by_image(losses), "prediction_norm": draws.by_image(norms)}


@torch.no_grad()
def region_losses(
    draws: ImageDraws,
    masks: Float[Tensor, "images h w"],
    tokens: Tokens,
    vectors: Float[Tensor, "k width"],
) -> dict[str, Float[Tensor, " images"]]:
    """``inside`` and ``outside``: the training loss averaged over the cells of each region.

    Per image, the mean over timesteps of the squared error of the model's own target, averaged
    over the channels and the region's cells. ``masks``: 1 inside, at latent size; NaN where a
    region is empty. ``tokens``: one row an image.
    """
    device = draws.model.device
    own = vectors.to(device, torch.float32).expand(len(draws.names), -1, -1)
    conditioning = draws.model.embed_text(tokens, own)
    parts: dict[str, list[Tensor]] = {"inside": [], "outside": []}
    for rows, prediction in draws.predictions(lambda rows: conditioning[rows.to(device)], 64):
        squares = prediction.error.float().square().mean(dim=1).cpu()  # [batch, h, w]
        mask = masks[rows.cpu()]
        for name, weight in (("inside", mask), ("outside", 1 - mask)):
            total = (squares * weight).flatten(1).sum(dim=1)
            parts[name].append(total / weight.flatten(1).sum(dim=1))
    return {name: draws.by_image(losses).mean(dim=1) for name, losses in parts.items()}


def embedding_gradients(
    draws: ImageDraws, tokens: Tokens, vectors: Float[Tensor, "vectors width"], batch_size: int = 32
) -> Float[Tensor, "images timesteps"]:
    """|dL / d vectors|_2 of every image at every timestep, float32 on the CPU (appendix C).

    L is the training loss of one image, timestep and noise: the mean squared error of the model's
    own target. ``tokens``: one row an image, with slots for ``vectors``.
    """
    model, norms, leaf = draws.model, [], vectors

    def embed(rows: Tensor) -> Conditioning:
        nonlocal leaf  # each sample has its own vectors: [batch, k, width]
        leaf = vectors.to(model.device, torch.float32).expand(len(rows), -1, -1).clone()
        return model.embed_text(tokens[rows.to(tokens.ids.device)], leaf.requires_grad_(True))

    for _, prediction in draws.predictions(embed, batch_size):
        (gradient,) = torch.autograd.grad(masked_loss(prediction.error.float(), None).sum(), leaf)
        norms.append(gradient.flatten(1).norm(dim=1).cpu())
    return draws.by_image(norms)


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
