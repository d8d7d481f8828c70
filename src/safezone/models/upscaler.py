"""Stable Diffusion's four-fold upscaler, for purifiers that work on a smaller image."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from safezone.arrays import Images
from safezone.errors import UserError
from safezone.models.fingerprint import fingerprint
from safezone.models.parts import find_folder, first_line, pick_device, quiet


@dataclass(frozen=True, eq=False)
class Upscaler:
    """diffusers' StableDiffusionUpscalePipeline with its networks in view.

    ``steps``: denoising steps, 75 as stock; ``guidance``: 9 as stock; ``noise_level``: 20 of
    1000, the noise put on the small image.
    """

    pipeline: Any
    unet: Any
    vae: Any
    text_encoder: Any
    steps: int = 75
    guidance: float = 9.0
    noise_level: int = 20

    def __call__(
        self, images: Images, generator: torch.Generator
    ) -> Float[Tensor, "batch 3 4*height 4*width"]:
        """[1, 3, h, w] in [0, 1] to [1, 3, 4 h, 4 w]; prompt "a picture"."""
        large: Tensor = self.pipeline(
            prompt="a picture",
            image=images,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            noise_level=self.noise_level,
            generator=generator,
            output_type="pt",
        ).images
        return large.to(images)

    def fingerprint(self) -> str:
        """A hash of all weights, configurations and settings."""
        return fingerprint(self)


@lru_cache(maxsize=1)
def load_upscaler(name_or_folder: str, device: str | None = None) -> Upscaler:
    """A folder or hub name like stabilityai/stable-diffusion-x4-upscaler; safetensors only.

    Raises UserError for what cannot be opened.
    """
    path = find_folder(name_or_folder, "upscaler's folder", "give a diffusers one or a hub name")
    from diffusers import StableDiffusionUpscalePipeline

    try:
        with quiet():
            pipeline = StableDiffusionUpscalePipeline.from_pretrained(
                str(path), use_safetensors=True, local_files_only=True
            )
    except Exception as error:  # each library has its own family of errors for a damaged file
        reason = first_line(error)
        raise UserError(f"{path} cannot be opened as a four-fold upscaler: {reason}") from error
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(pick_device(device))
    return Upscaler(pipeline, pipeline.unet, pipeline.vae, pipeline.text_encoder)
