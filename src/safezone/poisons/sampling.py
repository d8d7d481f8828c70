"""The diffusion attack: a gradient through encoder, several denoising steps and decoder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from safezone.arrays import Images, Latents, PerExample
from safezone.fields import Checked, Count, Share
from safezone.models.base import Model
from safezone.models.denoise import denoise
from safezone.poisons.guide import Guide, draw_noise


@dataclass(frozen=True)
class SampledDistance(Checked):
    """||f(x) - reference||: f is the image after a short denoising run that starts from x
    (PhotoGuard's diffusion attack, Salman et al. 2023, their Eq. 6, for models without inpainting).

    f: encode x (a posterior sample), add fresh noise at t = ``strength`` * T - 1, take
    ``inference_steps`` DDIM steps down to 0 with ``eta`` (1: the full ancestral noise), decode. No
    guidance, which an empty prompt would cancel. ``reference``: "clean", the unpoisoned images
    (to be ascended: the paper's untargeted DA), or "target" (to be descended: the released code,
    grey). ``norm``: "l2" or "l1", summed over pixels, inside the guide's mask only.
    ``checkpointing``: keep only each call's inputs and compute its activations again on the way
    back; docs/poisons.md has the memory that Stable Diffusion 1.5 then needs. Raises FieldError for
    values out of range.

    Released: l2 norm to a grey target on an inpainting model, 4 steps from pure noise. Without an
    inpainting input nothing of x would be left there, hence ``strength``.
    """

    reference: Annotated[Literal["clean", "target"], Field()] = "clean"
    norm: Annotated[Literal["l1", "l2"], Field()] = "l2"
    inference_steps: Count = 4
    strength: Share = 0.5
    eta: Annotated[float, Field(ge=0, le=1)] = 1.0
    checkpointing: bool = True

    def __call__(
        self, model: Model, images: Images, generators: Sequence[torch.Generator], guide: Guide
    ) -> PerExample:
        """One value an image; see the class."""
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

    def sample(
        self, model: Model, images: Images, generators: Sequence[torch.Generator], guide: Guide
    ) -> Images:
        """f(images), float [batch, 3, height, width], about [0, 1]; differentiable."""

        def run(function: Callable[..., Any], *inputs: Any) -> Any:
            if not self.checkpointing:
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
