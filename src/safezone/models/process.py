"""The parameterisation of a diffusion model, hidden here once: epsilon, v and rectified flow."""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from safezone.arrays import Latents, Timesteps


def _expand(values: Tensor, like: Tensor) -> Tensor:
    """[batch] to [batch, 1, 1, 1] on the device and in the type of ``like``."""
    return values.to(like).view(-1, *[1] * (like.ndim - 1))


class Process(Protocol):
    """How clean latents become noisy ones and what the network predicts.

    Timesteps are integers in [0, steps). For all z, noise and t:
    ``to_clean(corrupt(z, noise, t), target(z, noise, t), t) == z`` and
    ``to_noise(corrupt(z, noise, t), target(z, noise, t), t) == noise``.
    """

    @property
    def steps(self) -> int: ...

    def corrupt(self, clean: Latents, noise: Latents, timesteps: Timesteps) -> Latents: ...

    def target(self, clean: Latents, noise: Latents, timesteps: Timesteps) -> Latents: ...

    def to_clean(self, noisy: Latents, prediction: Latents, timesteps: Timesteps) -> Latents: ...

    def to_noise(self, noisy: Latents, prediction: Latents, timesteps: Timesteps) -> Latents: ...


@dataclass(frozen=True, eq=False)
class _VariancePreserving:
    """z_t = sqrt(alphas_cumprod[t]) z + sqrt(1 - alphas_cumprod[t]) noise (DDPM, Eq. 4).

    ``alphas_cumprod``: float [steps], the *product* of (1 - beta); the paper's text prints a sum.
    """

    alphas_cumprod: Tensor = field(repr=False)

    @property
    def steps(self) -> int:
        return len(self.alphas_cumprod)

    def _signal_noise(self, timesteps: Timesteps, like: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self.alphas_cumprod.to(timesteps.device)[timesteps]
        return _expand(alpha_bar.sqrt(), like), _expand((1 - alpha_bar).sqrt(), like)

    def corrupt(self, clean: Latents, noise: Latents, timesteps: Timesteps) -> Latents:
        signal, sigma = self._signal_noise(timesteps, clean)
        return signal * clean + sigma * noise


class Epsilon(_VariancePreserving):
    """The network predicts the noise."""

    def target(self, clean: Latents, noise: Latents, timesteps: Timesteps) -> Latents:
        return noise

    def to_clean(self, noisy: Latents, prediction: Latents, timesteps: Timesteps) -> Latents:
        signal, sigma = self._signal_noise(timesteps, noisy)
        return (noisy - sigma * prediction) / signal

    def to_noise(self, noisy: Latents, prediction: Latents, timesteps: Timesteps) -> Latents:
        return prediction


class Velocity(_VariancePreserving):
    """The network predicts v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) z (Salimans & Ho)."""

    def target(self, clean: Latents, noise: Latents, timesteps: Timesteps) -> Latents:
        signal, sigma = self._signal_noise(timesteps, clean)
        return signal * noise - sigma * clean

    def to_clean(self, noisy: Latents, prediction: Latents, timesteps: Timesteps) -> Latents:
        signal, sigma = self._signal_noise(timesteps, noisy)
        return signal * noisy - sigma * prediction

    def to_noise(self, noisy: Latents, prediction: Latents, timesteps: Timesteps) -> Latents:
        signal, sigma = self._signal_noise(timesteps, noisy)
        return sigma * noisy + signal * prediction


@dataclass(frozen=True)
class RectifiedFlow:
    """z_t = (1 - s) z + s noise with s = (t + 1) / steps; the network predicts noise - z.

    The time is discretised to ``steps`` integers so that every timestep distribution of the
    paper applies unchanged; the network is told the integer t.
    """

    steps: int = 1000

    def _time(self, timesteps: Timesteps, like: Tensor) -> Tensor:
        return _expand((timesteps.to(torch.float64) + 1) / self.steps, like)

    def corrupt(self, clean: Latents, noise: Latents, timesteps: Timesteps) -> Latents:
        time = self._time(timesteps, clean)
        return (1 - time) * clean + time * noise

    def target(self, clean: Latents, noise: Latents, timesteps: Timesteps) -> Latents:
        return noise - clean

    def to_clean(self, noisy: Latents, prediction: Latents, timesteps: Timesteps) -> Latents:
        return noisy - self._time(timesteps, noisy) * prediction

    def to_noise(self, noisy: Latents, prediction: Latents, timesteps: Timesteps) -> Latents:
        return noisy + (1 - self._time(timesteps, noisy)) * prediction
