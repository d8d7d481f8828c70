"""SimAC's choice of timesteps: those at which an image's gradient is large."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from safezone.arrays import Images, rand
from safezone.fields import Checked, Share
from safezone.models.base import Model
from safezone.poisons.guide import Guide, ModelObjective


@dataclass(frozen=True)
class GreedyTimesteps(Checked):
    """Leaves the timesteps whose gradients are largest, for each image by itself (SimAC, Wang et
    al. 2024).

    Before the first step, again and again ``candidates`` timesteps are drawn from those that are
    left, the gradient of the objective at the clean image is taken at each, and the one with the
    smallest l1 norm goes, with all timesteps within ``window`` of it; until at most ``keep`` are
    left. ``window`` and ``keep`` are shares of all timesteps. With the defaults that is about 25
    rounds of 5 gradients. SimAC's other half, which attacks features of the U-Net's layers, is not
    here. Raises FieldError for shares out of range.
    """

    candidates: Annotated[int, Field(ge=2)] = 5
    window: Annotated[float, Field(ge=0, lt=0.5)] = 0.02
    keep: Share = 0.1

    def search(
        self,
        model: Model,
        objective: ModelObjective,
        images: Images,
        generators: Sequence[torch.Generator],
        guide: Guide,
    ) -> Float[Tensor, "batch steps"]:
        """Equal probabilities at the timesteps left, float64 [batch, steps]."""
        steps = model.process.steps
        reach, most = round(self.window * steps), max(1, round(self.keep * steps))
        left = torch.ones(len(images), steps, dtype=torch.bool)
        numbers = torch.arange(steps)
        while bool((unfinished := left.sum(dim=1) > most).any()):
            drawn = self._draw(left, generators)  # [batch, candidates]
            norms = [
                self._norm(model, objective, images, generators, guide, column)
                for column in drawn.unbind(dim=1)
            ]
            worst = drawn.gather(1, torch.stack(norms, dim=1).argmin(dim=1, keepdim=True))
            near = (numbers - worst).abs() <= reach
            kept = left & ~near
            usable = unfinished & kept.any(dim=1)
            left = torch.where(usable[:, None], kept, left)
            if not bool(usable.any()):
                break
        return left.to(torch.float64) / left.sum(dim=1, keepdim=True)

    def _draw(self, left: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Timesteps that are left, each row's from its own generator."""
        places = rand(generators, (self.candidates,)) * left.sum(dim=1, keepdim=True)
        rank = left.long().cumsum(dim=1) - 1  # of each timestep among those left
        return torch.searchsorted(rank.contiguous(), places.long())

    @staticmethod
    def _norm(
        model: Model,
        objective: ModelObjective,
        images: Images,
        generators: Sequence[torch.Generator],
        guide: Guide,
        timesteps: Tensor,
    ) -> Tensor:
        """The l1 norm of the objective's gradient at the given timesteps, [batch]."""
        certain = torch.nn.functional.one_hot(timesteps, model.process.steps).to(torch.float64)
        pixels = images.detach().clone().requires_grad_(True)
        with torch.enable_grad():
            value = objective(model, pixels, generators, replace(guide, timesteps=certain)).sum()
            (gradient,) = torch.autograd.grad(value, pixels)
        return gradient.flatten(1).abs().sum(dim=1).cpu()
