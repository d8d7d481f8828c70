"""The parameterisation of a diffusion model, hidden here once: epsilon, v and rectified flow."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from safezone.arrays import Latents, Times


def _expand(values: Tensor, like: Tensor) -> Tensor:
    """[batch] to [batch, 1, 1, 1] on the device and in the type of ``like``."""
    return values.to(like).view(-1, *[1] * (like.ndim - 1))


class Process(ABC):
    """How clean latents become noisy ones and what the network predicts.

    Timesteps are integers in [0, steps), [batch], from nearly clean to nearly noise. Latents are
    scaled as the network sees them; noise is standard normal of their shape. For all z, noise, t:
    ``to_clean(corrupt(z, noise, t), target(z, noise, t), t) == z`` and
    ``to_noise(corrupt(z, noise, t), target(z, noise, t), t) == noise``.
    Timesteps outside the range raise IndexError where there is a table of them, and are not valid
    elsewhere.
    """

    @property
    @abstractmethod
    def steps(self) -> int:
        """How many timesteps there are."""

    @abstractmethod
    def signal_noise(self, timesteps: Times) -> tuple[Tensor, Tensor]:
        """s and sigma of z_t = s z + sigma noise, each [batch], in [0, 1]."""

    @abstractmethod
    def target(self, clean: Latents, noise: Latents, timesteps: Times) -> Latents:
        """What a perfect network predicts from ``corrupt(clean, noise, timesteps)``."""

    @abstractmethod
    def to_clean(self, noisy: Latents, prediction: Latents, timesteps: Times) -> Latents:
        """The clean latents that a raw prediction stands for."""

    @abstractmethod
    def to_noise(self, noisy: Latents, prediction: Latents, timesteps: Times) -> Latents:
        """The noise that a raw prediction stands for."""

    def network_time(self, timesteps: Tensor) -> Tensor:
        """What the network is told in place of ``timesteps``, in their unit; ``Model.predict``
        does so."""
        return timesteps

    def timestep_of(self, network_time: Tensor) -> Tensor:
        """The timestep, whole or in between, at which the network is told ``network_time``: that
        of a stock scheduler's ``timesteps``."""
        return network_time

    def to_stock(self, prediction: Latents) -> Latents:
        """A raw prediction as diffusers' scheduler of this kind of model wants it."""
        return prediction

    def corrupt(self, clean: Latents, noise: Latents, timesteps: Times) -> Latents:
        """z_t = s z + sigma noise, of the shape and type of ``clean``."""
        signal, sigma = self._coefficients(timesteps, clean)
        return signal * clean + sigma * noise

    def step(
        self,
        noisy: Latents,
        prediction: Latents,
        timesteps: Times,
        following: Times,
        *,
        fresh: Latents | None = None,
        eta: float = 0.0,
        limit: Callable[[Latents], Latents] | None = None,
    ) -> Latents:
        """The latents at the timesteps ``following``, which lie below ``timesteps``.

        DDIM's step between any two timesteps (Song et al. 2021, Eq. 12): ``eta`` 0 keeps the
        predicted noise; 1 puts ``fresh`` noise in place of the share
        sqrt(1 - SNR(t) / SNR(t')) of it, which is ancestral sampling. ``limit`` acts on the
        predicted clean latents, whose noise then is what is left of ``noisy``. Raises ValueError
        for an ``eta`` above 0 without ``fresh``.
        """
        clean = self.to_clean(noisy, prediction, timesteps)
        if limit is None:
            noise = self.to_noise(noisy, prediction, timesteps)
        else:
            clean = limit(clean)
            signal, sigma = self._coefficients(timesteps, noisy)
            noise = (noisy - signal * clean) / sigma
        if eta > 0:
            if fresh is None:
                raise ValueError("a step with eta above 0 needs fresh noise")
            ratio = self._signal_to_noise(timesteps) / self._signal_to_noise(following)
            share = _expand(eta * (1 - ratio).clamp(0, 1).sqrt(), noise)
            noise = (1 - share.square()).sqrt() * noise + share * fresh
        return self.corrupt(clean, noise, following)

    def _coefficients(self, timesteps: Times, like: Tensor) -> tuple[Tensor, Tensor]:
        signal, sigma = self.signal_noise(timesteps)
        return _expand(signal, like), _expand(sigma, like)

    def _signal_to_noise(self, timesteps: Times) -> Tensor:
        signal, sigma = self.signal_noise(timesteps)
        return (signal.double() / sigma.double()).square()


@lru_cache(maxsize=8)
def _on(table: Tensor, device: torch.device) -> Tensor:
    """The table on the device, copied there once."""
    return table.to(device)


@dataclass(frozen=True, eq=False)
class _VariancePreserving(Process):
    """z_t = sqrt(alphas_cumprod[t]) z + sqrt(1 - alphas_cumprod[t]) noise (DDPM, Eq. 4).

    ``alphas_cumprod``: float [steps], the *product* of (1 - beta); the paper's text prints a sum.
    """

    alphas_cumprod: Tensor = field(repr=False)

    @property
    def steps(self) -> int:
        """The length of ``alphas_cumprod``."""
        return len(self.alphas_cumprod)

    def signal_noise(self, timesteps: Times) -> tuple[Tensor, Tensor]:
        """The square roots of alphas_cumprod[t] and of 1 - alphas_cumprod[t]."""
        alpha_bar = _on(self.alphas_cumprod, timesteps.device)[timesteps]
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


class Epsilon(_VariancePreserving):
    """The network predicts the noise. At a signal of 0 it says nothing of the clean latents."""

    def target(self, clean: Latents, noise: Latents, timesteps: Times) -> Latents:
        """The noise."""
        return noise

    def to_clean(self, noisy: Latents, prediction: Latents, timesteps: Times) -> Latents:
        """(z_t - sigma prediction) / s."""
        signal, sigma = self._coefficients(timesteps, noisy)
        return (noisy - sigma * prediction) / signal

    def to_noise(self, noisy: Latents, prediction: Latents, timesteps: Times) -> Latents:
        """The prediction."""
        return prediction


class Velocity(_VariancePreserving):
    """The network predicts v = s noise - sigma z (Salimans & Ho 2022)."""

    def target(self, clean: Latents, noise: Latents, timesteps: Times) -> Latents:
        """s noise - sigma z."""
        signal, sigma = self._coefficients(timesteps, clean)
        return signal * noise - sigma * clean

    def to_clean(self, noisy: Latents, prediction: Latents, timesteps: Times) -> Latents:
        """s z_t - sigma v."""
        signal, sigma = self._coefficients(timesteps, noisy)
        return signal * noisy - sigma * prediction

    def to_noise(self, noisy: Latents, prediction: Latents, timesteps: Times) -> Latents:
        """sigma z_t + s v."""
        signal, sigma = self._coefficients(timesteps, noisy)
        return sigma * noisy + signal * prediction


@dataclass(frozen=True)
class RectifiedFlow(Process):
    """z_t = (1 - sigma) z + sigma noise with sigma = (t + 1) / steps (Liu et al. 2023).

    The time is cut into ``steps`` timesteps, so that every timestep distribution of the paper
    applies unchanged. The network is told t + 1 = steps x sigma, as by diffusers'
    FlowMatchEulerDiscreteScheduler and by RectifiedFlowPipeline. ``towards``: what the predicted
    velocity points at, "noise" (noise - z, as in diffusers) or "data" (z - noise, as in the models
    of Liu et al.).
    """

    steps: int = 1000
    towards: Literal["noise", "data"] = "noise"

    def signal_noise(self, timesteps: Times) -> tuple[Tensor, Tensor]:
        """1 - sigma and sigma, float64."""
        sigma = self.network_time(timesteps.to(torch.float64)) / self.steps
        return 1 - sigma, sigma

    def network_time(self, timesteps: Tensor) -> Tensor:
        """t + 1: from 1 to ``steps``."""
        return timesteps + 1

    def timestep_of(self, network_time: Tensor) -> Tensor:
        """One less, float64."""
        return network_time.to(torch.float64) - 1

    def to_stock(self, prediction: Latents) -> Latents:
        """noise - z, wherever the prediction points."""
        return prediction if self.towards == "noise" else -prediction

    def target(self, clean: Latents, noise: Latents, timesteps: Times) -> Latents:
        """noise - z, or z - noise."""
        return self.to_stock(noise - clean)

    def to_clean(self, noisy: Latents, prediction: Latents, timesteps: Times) -> Latents:
        """z_t - sigma (noise - z)."""
        _, sigma = self._coefficients(timesteps, noisy)
        return noisy - sigma * self.to_stock(prediction)

    def to_noise(self, noisy: Latents, prediction: Latents, timesteps: Times) -> Latents:
        """z_t + (1 - sigma) (noise - z)."""
        signal, _ = self._coefficients(timesteps, noisy)
        return noisy + signal * self.to_stock(prediction)
