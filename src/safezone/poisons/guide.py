"""What an objective is, what it gets beside the images, and the random draws objectives share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from safezone.arrays import Images, Latents, PerExample, Timesteps, rand, randn
from safezone.models.base import Conditioning, Model, Posterior
from safezone.models.fingerprint import Fingerprinted


@dataclass(frozen=True, eq=False)
class Guide:
    """What stays fixed while some images take a few steps.

    ``conditioning``: of the poison's prompt, one row for all images or one for each.
    ``target``, ``target_posterior``: what targeted poisons aim at, float [1, 3, height, width] in
    [0, 1], and its latents. ``clean``, ``clean_posterior``: of the unpoisoned images, [batch].
    ``timesteps``: the probability of every timestep, float64 [1 or batch, steps]. ``masks``: where
    the loss counts, float [batch, 1, height, width] of 0 and 1, or None for everywhere.
    """

    conditioning: Conditioning
    target: Float[Tensor, "1 3 height width"]
    target_posterior: Posterior
    clean: Images
    clean_posterior: Posterior
    timesteps: Float[Tensor, "rows steps"]
    masks: Float[Tensor, "batch 1 height width"] | None = None

    def conditioning_for(self, batch: int) -> Conditioning:
        """One row of conditioning for each of ``batch`` images."""

        def rows(tensor: Tensor) -> Tensor:
            return tensor.expand(batch, *tensor.shape[1:])

        added = self.conditioning.added
        return Conditioning(
            rows(self.conditioning.encoder_hidden_states),
            None if added is None else {key: rows(tensor) for key, tensor in added.items()},
        )

    def weigh(self, error: Latents, factor: int) -> Latents:
        """``error`` with zeros in the latent cells that the mask covers by less than half."""
        if self.masks is None:
            return error
        covered = functional.avg_pool2d(self.masks, factor) >= 0.5
        return error * covered.to(error)


ModelObjective: TypeAlias = Callable[[Model, Images, Sequence[torch.Generator], Guide], PerExample]
"""One value per image, differentiable in the images. Image i draws from ``generators[i]`` alone, so
that its value does not depend on the batch it is in."""


@dataclass(frozen=True, eq=False)
class BoundObjective:
    """An objective with the further networks that it works with.

    ``networks``: models, encoders or modules, whose weights enter the poison's key. ``value``: the
    objective itself, which uses them.
    """

    networks: tuple[Fingerprinted | nn.Module, ...]
    value: ModelObjective


class NetworkObjective(ABC):
    """Settings of an objective that needs further networks: a feature loss, an ensemble.

    A frozen dataclass; like a purifier it names its networks and opens them in ``bind``.
    """

    @abstractmethod
    def bind(self, model: Model) -> BoundObjective:
        """With its networks on ``model.device``, frozen; UserError for what cannot be opened."""


def bound(objective: ModelObjective | NetworkObjective, model: Model) -> BoundObjective:
    """The objective ready to be asked; one without further networks has none."""
    if isinstance(objective, NetworkObjective):
        return objective.bind(model)
    return BoundObjective((), objective)


def draw_noise(generators: Sequence[torch.Generator], like: Latents) -> Latents:
    """Standard normal noise of the latents' shape, a row from each generator."""
    return randn(generators, like.shape[1:]).to(like)


def draw_timesteps(generators: Sequence[torch.Generator], model: Model, guide: Guide) -> Timesteps:
    """One timestep an image, from the guide's probabilities, int64 [batch]."""
    cumulative = guide.timesteps.cumsum(dim=1)
    cumulative = (cumulative / cumulative[:, -1:]).expand(len(generators), -1).contiguous()
    levels = rand(generators).to(cumulative)[:, None]
    return torch.searchsorted(cumulative, levels, right=True)[:, 0].to(model.device)


def draw_latents(model: Model, images: Images, generators: Sequence[torch.Generator]) -> Latents:
    """A posterior sample of every image, differentiable in the images."""
    posterior = model.encode(images)
    return posterior.sample(draw_noise(generators, posterior.mean))
