"""When to train: distributions over the integers 0 .. steps - 1.

A threshold is a fraction of the steps, so that "t >= 500 of 1000" means the same for a process
with another number of steps.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from safezone.arrays import Timesteps
from safezone.errors import UserError
from safezone.fields import Checked, Share

Rho: TypeAlias = Annotated[float, Field(ge=0, le=100)]
"""How steep a curve is; 0 is uniform."""


class TimestepDistribution(Checked, ABC):
    """Probabilities over timesteps and their inverse distribution function.

    A frozen dataclass; raises FieldError for settings out of range.
    """

    @abstractmethod
    def probabilities(self, steps: int) -> Float[Tensor, " steps"]:
        """Of each timestep 0 .. ``steps`` - 1: float64 [steps], not negative, of sum 1.

        Raises UserError where no timestep is left.
        """

    def checked(self, steps: int) -> Float[Tensor, " steps"]:
        """``probabilities``; raises UserError also where they are none, as a user's own may be."""
        found = self.probabilities(steps)
        wrong = None
        if tuple(found.shape) != (steps,):
            wrong = f"{tuple(found.shape)} probabilities for {steps} timesteps; give one for each"
        elif not bool((found >= 0).all() & found.isfinite().all() & (found > 0).any()):
            wrong = "probabilities that are negative, not finite or all zero; give others"
        if wrong is not None:
            raise UserError(f"the timestep distribution {type(self).__name__} gives {wrong}")
        return found

    def sample(self, uniforms: Float[Tensor, " batch"], steps: int) -> Timesteps:
        """int64 [batch]: the t with F(t - 1) <= u < F(t), for each u of ``uniforms`` in [0, 1).

        F is the distribution function of ``probabilities(steps)``. The caller owns the random
        stream; a timestep of probability zero is never returned. On the device of ``uniforms``.
        Raises UserError as ``checked``.
        """
        cumulative = self.checked(steps).cumsum(0)
        cumulative = cumulative / cumulative[-1]
        levels = uniforms.to(device="cpu", dtype=torch.float64)
        return torch.searchsorted(cumulative, levels, right=True).to(uniforms.device)


def _first(fraction: float, steps: int) -> int:
    """ceil(fraction * steps), not fooled by 0.55 * 1000 = 550.0000000000001."""
    return math.ceil(fraction * steps - 1e-9 * steps)


def _uniform_between(first: int, end: int, steps: int) -> Tensor:
    """Equal probabilities at first .. end - 1."""
    probabilities = torch.zeros(steps, dtype=torch.float64)
    probabilities[first:end] = 1 / (end - first)
    return probabilities


@dataclass(frozen=True)
class Uniform(TimestepDistribution):
    """Every timestep alike: what plain training does."""

    def probabilities(self, steps: int) -> Float[Tensor, " steps"]:
        return _uniform_between(0, steps, steps)


@dataclass(frozen=True)
class AtLeast(TimestepDistribution):
    """Uniform over ceil(fraction * steps) .. steps - 1: the paper's T500 is 0.5, T600 is 0.6."""

    fraction: Annotated[float, Field(ge=0, lt=1)] = 0.5

    def probabilities(self, steps: int) -> Float[Tensor, " steps"]:
        first = _first(self.fraction, steps)
        if first >= steps:
            raise UserError(
                f"The timestep threshold {self.fraction} leaves none of the model's {steps} "
                "timesteps; lower it."
            )
        return _uniform_between(first, steps, steps)


@dataclass(frozen=True)
class Below(TimestepDistribution):
    """Uniform over 0 .. ceil(fraction * steps) - 1: what ``AtLeast(fraction)`` leaves out."""

    fraction: Share = 0.5

    def probabilities(self, steps: int) -> Float[Tensor, " steps"]:
        return _uniform_between(0, max(1, _first(self.fraction, steps)), steps)


class _Curve(TimestepDistribution):
    """A density over times t in [0, 1], taken at the middle of every timestep's cell."""

    def probabilities(self, steps: int) -> Float[Tensor, " steps"]:
        density = self.density((torch.arange(steps, dtype=torch.float64) + 0.5) / steps)
        return density / density.sum()

    @abstractmethod
    def density(self, times: Tensor) -> Tensor:
        """At each of the times, up to a factor."""


@dataclass(frozen=True)
class Power(_Curve):
    """p(t) proportional to t^rho for t in [0, 1] (Appendix H; the paper's rho: 0.25 to 4)."""

    rho: Rho = 1.0

    def density(self, times: Tensor) -> Tensor:
        return times**self.rho


@dataclass(frozen=True)
class Tanh(_Curve):
    """p(t) proportional to tanh(rho (t - 0.5)) / 2 + 0.5, t in [0, 1] (Appendix H; rho 1 to 10)."""

    rho: Rho = 3.0

    def density(self, times: Tensor) -> Tensor:
        return torch.tanh(self.rho * (times - 0.5)) / 2 + 0.5
