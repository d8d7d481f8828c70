"""What everything does with a denoiser: compare one prediction, or walk down the timesteps."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from safezone.arrays import Latents, Times
from safezone.models.base import Conditioning, Model
from safezone.models.process import Process

Time = TypeVar("Time")


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network makes of clean latents that were corrupted with known noise."""

    process: Process
    clean: Latents
    noise: Latents
    timesteps: Times
    noisy: Latents
    raw: Latents
    """As ``Model.predict`` gives it."""

    @property
    def error(self) -> Latents:
        """The raw prediction minus its target: what the model was trained to make small."""
        return self.raw - self.process.target(self.clean, self.noise, self.timesteps)

    @property
    def predicted_noise(self) -> Latents:
        """The noise that the prediction stands for, comparable between all kinds of models."""
        return self.process.to_noise(self.noisy, self.raw, self.timesteps)


def predict(
    model: Model,
    clean: Latents,
    noise: Latents,
    timesteps: Times,
    conditioning: Conditioning,
) -> Prediction:
    """Corrupts clean latents and asks the model once; differentiable in latents and conditioning.

    All have one leading batch axis.
    """
    noisy = model.process.corrupt(clean, noise, timesteps)
    raw = model.predict(noisy, timesteps, conditioning)
    return Prediction(model.process, clean, noise, timesteps, noisy, raw)


def walk(
    noisy: Latents,
    times: Iterable[Time],
    predict: Callable[[Latents, Time], Latents],
    step: Callable[[Latents, Latents, Time, Time | None], Latents],
) -> Latents:
    """Denoises along ``times``: ``step(noisy, predict(noisy, now), now, next)`` again and again.

    The next time of the last one is None.
    """
    for now, following in pairwise([*times, None]):
        assert now is not None
        noisy = step(noisy, predict(noisy, now), now, following)
    return noisy


def denoise(
    process: Process,
    predict: Callable[[Latents, Times], Latents],
    noisy: Latents,
    timesteps: Sequence[int],
    *,
    draw: Callable[[], Latents] | None = None,
    eta: float = 0.0,
    limit: Callable[[Latents], Latents] | None = None,
) -> Latents:
    """From ``noisy``, at ``timesteps[0]``, down the list to the clean latents.

    ``predict``: noisy latents and timesteps [batch] to the raw prediction. ``draw``: fresh noise
    for each step; it and ``eta``, ``limit`` as ``Process.step`` has them. The last timestep gives
    the clean latents themselves.
    """

    def step(noisy: Latents, prediction: Latents, now: Times, following: Times | None) -> Latents:
        if following is None:
            clean = process.to_clean(noisy, prediction, now)
            return clean if limit is None else limit(clean)
        fresh = None if draw is None else draw()
        return process.step(noisy, prediction, now, following, fresh=fresh, eta=eta, limit=limit)

    rows: list[Tensor] = [torch.full((len(noisy),), t, device=noisy.device) for t in timesteps]
    return walk(noisy, rows, predict, step)
