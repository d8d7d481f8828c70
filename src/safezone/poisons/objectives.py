"""What poisons climb or descend: functions of images, one value per image (``ModelObjective``).

All but the diffusion attack draw one timestep, one noise and one posterior sample an image and
evaluation. All count inside the guide's mask only, where it has one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from safezone.arrays import Draws, Images, Latents, PerExample
from safezone.errors import UserError
from safezone.fields import Checked, Count, Portion, Share
from safezone.models.base import Model
from safezone.models.denoise import Prediction, denoise, predict
from safezone.poisons.guide import Guide, draw_latents, draw_noise, draw_timesteps


def _mean_square(error: Latents, model: Model, guide: Guide) -> PerExample:
    """Mean over C, H, W of the squared error, zeros outside the mask included."""
    return guide.weigh(error, model.factor).square().flatten(1).mean(dim=1)


def _predicted(model: Model, clean: Latents, generators: Draws, guide: Guide) -> Prediction:
    """What the model predicts at a drawn timestep under drawn noise."""
    timesteps = draw_timesteps(generators, model, guide)
    noise = draw_noise(generators, clean)
    return predict(model, clean, noise, timesteps, guide.conditioning_for(len(clean)))


def denoising_loss(model: Model, images: Images, generators: Draws, guide: Guide) -> PerExample:
    """Mean over C, H, W of (prediction - target)^2 (AdvDM, Liang et al. 2023; Mist mode 0).

    The gradient passes through the VAE's encoder and the U-Net. For velocity and flow models the
    target is the process's own.
    """
    clean = draw_latents(model, images, generators)
    return _mean_square(_predicted(model, clean, generators, guide).error, model, guide)


def score_distillation(model: Model, images: Images, generators: Draws, guide: Guide) -> PerExample:
    """Mean over C, H, W of z * (predicted noise - noise), the bracket taken as a constant.

    Its gradient at z is the residual itself, which spares the way back through the U-Net (score
    distillation; Diff-Protect, Xue et al. 2024, with weight 1 at every timestep): it passes
    through the encoder only. The value itself is no loss; only its change at equal draws means
    something. Velocities and flows are turned into noise first.
    """
    clean = draw_latents(model, images, generators)
    with torch.no_grad():
        corrupted = _predicted(model, clean.detach(), generators, guide)
        residual = guide.weigh(corrupted.predicted_noise - corrupted.noise, model.factor)
    return (clean * residual).flatten(1).mean(dim=1)


def encoder_distance(model: Model, images: Images, generators: Draws, guide: Guide) -> PerExample:
    """Sum over C, H, W of (z(x) - z(target))^2, a fresh posterior sample of both (Mist mode 1,
    Liang & Wu 2023).

    The gradient passes through the VAE's encoder only; the prompt plays no part.
    """
    latents = draw_latents(model, images, generators)
    target = guide.target_posterior.sample(draw_noise(generators, latents))
    return guide.weigh(latents - target, model.factor).square().flatten(1).sum(dim=1)


def encoder_norm(model: Model, images: Images, generators: Draws, guide: Guide) -> PerExample:
    """||mu(x) - mu(target)||_2 over C, H, W, posterior means (PhotoGuard's encoder attack,
    Salman et al. 2023).

    Draws nothing. The gradient passes through the VAE's encoder only.
    """
    distance = model.encode(images).mean - guide.target_posterior.mean
    length: Tensor = guide.weigh(distance, model.factor).flatten(1).norm(dim=1)
    return length


@dataclass(frozen=True)
class Fused:
    """``encoder_distance`` - rate * 10^4 * ``denoising_loss`` (Mist's fused mode), to be descended.

    10^4 belongs to the 4 x 64 x 64 latents of a 512 px image; for others it is scaled with their
    number of values, as the sum in the distance is. Both terms share their latents and draws.
    """

    rate: float = 1.0

    def __call__(self, model: Model, images: Images, generators: Draws, guide: Guide) -> PerExample:
        clean = draw_latents(model, images, generators)
        target = guide.target_posterior.sample(draw_noise(generators, clean))
        distance = guide.weigh(clean - target, model.factor).square().flatten(1).sum(dim=1)
        error = _predicted(model, clean, generators, guide).error
        scale = 1e4 * clean[0].numel() / (4 * 64 * 64)
        return distance - self.rate * scale * _mean_square(error, model, guide)


@dataclass(frozen=True)
class TargetPrediction:
    """Mean of (predicted noise - mu(target))^2 (ACE, Zheng et al. 2023), to be descended.

    ``encoder``: the weight of the mean squared distance of latents to the target's that ACE+ adds;
    0 is ACE, 100 the code that its authors released (psyker-team/mist-v2, both terms being means).
    """

    encoder: float = 0.0

    def __call__(self, model: Model, images: Images, generators: Draws, guide: Guide) -> PerExample:
        clean = draw_latents(model, images, generators)
        predicted = _predicted(model, clean, generators, guide).predicted_noise
        aim = guide.target_posterior.mean
        value = _mean_square(predicted - aim, model, guide)
        if self.encoder:
            value = value + self.encoder * _mean_square(clean - aim, model, guide)
        return value


@dataclass(frozen=True)
class EncoderShift:
    """Mean (mu(x) - mu(clean))^2 + spread * mean (log std(x) - log std(clean))^2 (after PID, Li et
    al. 2024), to be ascended.

    No prompt, no target, no draws; the gradient passes through the encoder only. It is zero at the
    clean image, so the start must be "uniform". The released method has several forms of the
    variance's term; this one compares logarithms, so that narrow posteriors count.
    """

    spread: float = 1.0

    def __call__(self, model: Model, images: Images, generators: Draws, guide: Guide) -> PerExample:
        now, before = model.encode(images), guide.clean_posterior
        tiny = torch.finfo(now.std.dtype).tiny
        spread = now.std.clamp_min(tiny).log() - before.std.clamp_min(tiny).log()
        return _mean_square(now.mean - before.mean, model, guide) + self.spread * _mean_square(
            spread, model, guide
        )


def first_step_norm(model: Model, images: Images, generators: Draws, guide: Guide) -> PerExample:
    """||predicted noise||_2 over C, H, W at the first step of sampling, t = T - 1 (DiffusionGuard,
    Choi et al. 2025), to be ascended.

    The released method attacks inpainting models and augments their mask; here the image enters
    through its own latents, of which little is left at T - 1. Raises UserError for a model that has
    nothing left of them there, as rectified flows and velocity models of zero terminal SNR.
    """
    if not float(model.process.signal_noise(torch.tensor([model.process.steps - 1]))[0]):
        raise UserError(
            f"at its last timestep {model.name} sees nothing of an image, so that this poison "
            "cannot reach it; choose another poison or model"
        )
    clean = draw_latents(model, images, generators)
    timesteps = torch.full((len(clean),), model.process.steps - 1, device=model.device)
    noise = draw_noise(generators, clean)
    corrupted = predict(model, clean, noise, timesteps, guide.conditioning_for(len(clean)))
    length: Tensor = guide.weigh(corrupted.predicted_noise, model.factor).flatten(1).norm(dim=1)
    return length


_SMALL_IMAGE: Final = 256 * 256
"""Pixels up to which all activations are kept: a third of the time is worth more than memory."""


@dataclass(frozen=True)
class SampledDistance(Checked):
    """||f(x) - reference||: f is the image after a short denoising run that starts from x
    (PhotoGuard's diffusion attack, Salman et al. 2023, their Eq. 6, for models without inpainting).

    f: encode x (a posterior sample), add fresh noise at t = ``strength`` * T - 1, take
    ``inference_steps`` DDIM steps down to 0 with ``eta`` (1: the full ancestral noise), decode. No
    guidance, which an empty prompt would cancel. ``reference``: "clean", the unpoisoned images
    (to be ascended: the paper's untargeted DA), or "target" (to be descended: the released code,
    grey). ``norm``: "l2" or "l1", summed over pixels, inside the guide's mask only.
    ``checkpointing``: of images of more than 256 x 256 pixels keep only each call's inputs, and
    compute its activations again on the way back; docs/poisons.md has the memory that Stable
    Diffusion 1.5 then needs. Raises FieldError for values out of range.

    Released: l2 norm to a grey target on an inpainting model, 4 steps from pure noise. Without an
    inpainting input nothing of x would be left there, hence ``strength``.
    """

    reference: Annotated[Literal["clean", "target"], Field()] = "clean"
    norm: Annotated[Literal["l1", "l2"], Field()] = "l2"
    inference_steps: Count = 4
    strength: Share = 0.5
    eta: Portion = 1.0
    checkpointing: bool = True

    def __call__(self, model: Model, images: Images, generators: Draws, guide: Guide) -> PerExample:
        difference = self.sample(model, images, generators, guide) - (
            guide.clean if self.reference == "clean" else guide.target
        )
        if guide.masks is not None:
            difference = difference * guide.masks
        order = 2 if self.norm == "l2" else 1
        length: Tensor = torch.linalg.vector_norm(difference.flatten(1), ord=order, dim=1)
        return length

    def timesteps(self, steps: int) -> list[int]:
        """Those of the denoising run, descending, evenly spaced down from strength * steps - 1."""
        first = max(1, round(self.strength * steps))
        return [
            first * (self.inference_steps - i) // self.inference_steps - 1
            for i in range(self.inference_steps)
            if first * (self.inference_steps - i) // self.inference_steps > 0
        ]

    def sample(self, model: Model, images: Images, generators: Draws, guide: Guide) -> Images:
        """f(images), float [batch, 3, height, width], about [0, 1]; differentiable."""

        again = self.checkpointing and images[0, 0].numel() > _SMALL_IMAGE

        def run(function: Callable[..., Any], *inputs: Any) -> Any:
            if not again:
                return function(*inputs)
            return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)

        def encode(pixels: Images) -> tuple[Latents, Latents]:
            posterior = model.encode(pixels)
            return posterior.mean, posterior.std

        mean, std = run(encode, images)
        latents = mean + std * draw_noise(generators, mean)
        conditioning = guide.conditioning_for(len(images))
        timesteps = self.timesteps(model.process.steps)
        first = torch.full((len(images),), timesteps[0], device=model.device)
        clean = denoise(
            model.process,
            lambda noisy, t: run(model.predict, noisy, t, conditioning),
            model.process.corrupt(latents, draw_noise(generators, latents), first),
            timesteps,
            draw=lambda: draw_noise(generators, latents),
            eta=self.eta,
        )
        decoded: Images = run(model.decode, clean)
        return decoded
