"""What poisons climb or descend: functions of images, one value per image.

Every objective is ``(model, images, generators, guide) -> (batch,)``. Image i draws its posterior
noise, timestep and noise from ``generators[i]`` alone, so that its value does not depend on the
batch it is in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from safezone.arrays import Images, Latents, PerExample, Timesteps, rand, randn
from safezone.models.base import Conditioning, Model, Posterior


@dataclass(frozen=True)
class Guide:
    """What stays fixed while a poison is made.

    ``conditioning``: of the poison's prompt, one row. ``target``: the image that targeted poisons
    aim at, float [1, 3, height, width] in [0, 1]; ``target_posterior``: its latents.
    """

    conditioning: Conditioning
    target: Images
    target_posterior: Posterior


ModelObjective: TypeAlias = Callable[[Model, Images, Sequence[torch.Generator], Guide], PerExample]


def _repeat(conditioning: Conditioning, batch: int) -> Conditioning:
    """One row of conditioning for each of ``batch`` images."""

    def rows(tensor: Tensor) -> Tensor:
        return tensor.expand(batch, *tensor.shape[1:])

    added = conditioning.added
    return Conditioning(
        rows(conditioning.encoder_hidden_states),
        None if added is None else {key: rows(tensor) for key, tensor in added.items()},
    )


def _noise(generators: Sequence[torch.Generator], like: Latents) -> Latents:
    return randn(generators, like.shape[1:]).to(like)


def _uniform_timesteps(generators: Sequence[torch.Generator], model: Model) -> Timesteps:
    """t uniform over 0 .. steps - 1, int64 [batch]."""
    return (rand(generators) * model.process.steps).long().to(model.device)


def _latents(model: Model, images: Images, generators: Sequence[torch.Generator]) -> Latents:
    """A posterior sample of every image, differentiable in the images."""
    posterior = model.encode(images)
    return posterior.sample(_noise(generators, posterior.mean))


def denoising_loss(
    model: Model, images: Images, generators: Sequence[torch.Generator], guide: Guide
) -> PerExample:
    """Mean over C, H, W of (prediction - target)^2 at one uniform t, one noise and one posterior
    sample per image (AdvDM, Liang et al. 2023; Mist mode 0).

    The gradient passes through the VAE's encoder and the U-Net. For velocity and flow models the
    target is the process's own.
    """
    clean = _latents(model, images, generators)
    timesteps = _uniform_timesteps(generators, model)
    noise = _noise(generators, clean)
    noisy = model.process.corrupt(clean, noise, timesteps)
    prediction = model.predict(noisy, timesteps, _repeat(guide.conditioning, len(images)))
    error = prediction - model.process.target(clean, noise, timesteps)
    return error.square().flatten(1).mean(dim=1)


def encoder_distance(
    model: Model, images: Images, generators: Sequence[torch.Generator], guide: Guide
) -> PerExample:
    """Sum over C, H, W of (z(x) - z(target))^2, a fresh posterior sample of both (Mist mode 1,
    Liang & Wu 2023).

    The gradient passes through the VAE's encoder only; the prompt plays no part.
    """
    latents = _latents(model, images, generators)
    target = guide.target_posterior.sample(_noise(generators, latents))
    return (latents - target).square().flatten(1).sum(dim=1)


def high_contrast_target(size: int) -> Images:
    """A busy pattern of saturated stripes, rings and checks, float [1, 3, size, size] of 0 and 1.

    Deterministic and drawn in units of the side, so that it looks the same at every size: 8 x 8
    tiles whose stripes turn by an eighth of a turn from tile to tile, two complementary colours
    each, inverted in rings around the centre.
    """
    grid = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    column, row = (x * 8).long(), (y * 8).long()
    turn = (3 * column + 5 * row) % 8 * (torch.pi / 8)
    stripes = torch.sin(2 * torch.pi * 28 * (x * turn.cos() + y * turn.sin()))
    checks = ((x * 16).long() + (y * 16).long()) % 2
    rings = (((x - 0.5).square() + (y - 0.5).square()).sqrt() * 12).long() % 2
    phase = (stripes > 0).long() + rings + checks * ((column + row) % 3 == 0)
    colour = (column + 3 * row) % 4  # 0 is black and white; 1..3 set one channel against the rest
    channels = [(phase + (colour == channel + 1).long()) % 2 for channel in range(3)]
    return torch.stack(channels).to(torch.float32)[None]
