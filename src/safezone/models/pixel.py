"""What purifiers run on: diffusion models of pixels, and Stable Diffusion's four-fold upscaler.

``load_pixel_model`` opens the built-in model of pixels, a UNet2DModel or DeepFloyd IF-II.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from safezone.arrays import Images, Timesteps, randn
from safezone.errors import UserError
from safezone.files import write_safetensors
from safezone.models.fingerprint import fingerprint
from safezone.models.frozen import freeze
from safezone.models.known import WEIGHTS
from safezone.models.parts import (
    find_folder,
    first_line,
    pick_device,
    quiet,
    read_config,
    read_part,
    require_side,
)
from safezone.models.process import Epsilon

MINI_PIXEL: Final = "mini-pixel"
PROMPT_FILE: Final = "prompt_embeds.safetensors"

Denoiser: TypeAlias = Callable[[Images, Timesteps], Images]
"""Noisy images in [-1, 1] (as ``process.corrupt`` makes them) to their noise."""


@dataclass(frozen=True, eq=False)
class PixelModel(ABC):
    """A frozen diffusion model of pixels that predicts noise, on images scaled to [-1, 1]."""

    name: str
    unet: Any
    process: Epsilon
    device: torch.device

    @property
    def image_size(self) -> int:
        """Side of the images that it was trained on; others may work."""
        return int(self.unet.config.sample_size)

    @abstractmethod
    def denoiser(self, images: Images, generators: Sequence[torch.Generator]) -> Denoiser:
        """The network for these images, [batch, 3, h, w] in [0, 1], whose noisy versions follow.

        A model of super-resolution looks at them shrunk, noised once from ``generators``; others
        ignore them.
        """

    def fingerprint(self) -> str:
        """A hash of all weights, configurations and settings."""
        return fingerprint(self)


class PixelUNet(PixelModel):
    """An unconditional model: diffusers' UNet2DModel with three channels."""

    def denoiser(self, images: Images, generators: Sequence[torch.Generator]) -> Denoiser:
        def predict(noisy: Images, timesteps: Timesteps) -> Images:
            output: Tensor = self.unet(noisy.to(self.unet.dtype), timesteps).sample
            return output[:, :3].to(noisy.dtype)  # some learn the variance beside it

        return predict


@dataclass(frozen=True, eq=False)
class SuperResolution(PixelModel):
    """DeepFloyd IF, stage II: denoises under guidance with the shrunk image in view (PDMPure).

    ``prompt``: [2, length, width], the text embeddings of the empty prompt and of "a picture".
    ``guidance``: classifier-free guidance, 7 in PDMPure. ``level``: the timestep of the noise on
    the shrunk image (0.25 of the steps).
    """

    low_process: Epsilon
    prompt: Tensor
    guidance: float = 7.0
    level: float = 0.25
    low_side: float = 0.25

    def denoiser(self, images: Images, generators: Sequence[torch.Generator]) -> Denoiser:
        size = images.shape[-2:]
        small = F.interpolate(images * 2 - 1, scale_factor=self.low_side, mode="area")
        low = F.interpolate(small, size=size, mode="bilinear", align_corners=True)
        level = torch.full((len(images),), int(self.level * self.low_process.steps))
        noise = randn(generators, low.shape[1:]).to(low.device)
        low = self.low_process.corrupt(low, noise, level.to(low.device))
        states = self.prompt.repeat_interleave(len(images), dim=0)

        def predict(noisy: Images, timesteps: Timesteps) -> Images:
            rows = torch.cat([noisy, low], dim=1).repeat(2, 1, 1, 1).to(self.unet.dtype)
            output = self.unet(
                rows,
                timesteps.repeat(2),
                encoder_hidden_states=states.to(self.unet.dtype),
                class_labels=level.repeat(2).to(rows.device),
            ).sample[:, :3]
            empty, prompted = output.to(noisy.dtype).chunk(2)
            guided: Tensor = empty + self.guidance * (prompted - empty)
            return guided

        return predict


@lru_cache(maxsize=4)
def load_pixel_model(name_or_folder: str, device: str | None = None) -> PixelModel:
    """The built-in ``mini-pixel``, a diffusers folder or a hub name; opened once in a process.

    A folder holds ``unet`` (a UNet2DModel of three channels, or DeepFloyd IF-II's conditional one
    of six) and ``scheduler``; IF-II also ``image_noising_scheduler``, and its T5 encoder or the
    file that ``cache_prompt`` wrote. Raises UserError for what cannot be opened, and names the
    command that makes the built-in weights where they are missing.
    """
    folder = _folder(name_or_folder)
    chosen = pick_device(device)
    from diffusers import UNet2DConditionModel, UNet2DModel

    process = _process(folder / "scheduler")
    config = read_config(folder / "unet" / "config.json")
    channels = config.get("in_channels")
    if channels == 3:
        with quiet():
            unet = read_part(UNet2DModel, folder, "unet")
        require_side(unet, folder)
        freeze(unet.to(chosen))
        return PixelUNet(name_or_folder, unet, process, chosen)
    if channels != 6 or config.get("_class_name") != "UNet2DConditionModel":
        raise UserError(
            f"{folder / 'unet'} is a {config.get('_class_name')} of {channels} channels; give an "
            "unconditional model of pixels, or stage II of DeepFloyd IF"
        )
    with quiet():
        unet = read_part(UNet2DConditionModel, folder, "unet")
        prompt = _prompt(folder)
    require_side(unet, folder)
    freeze(unet.to(chosen))
    low_process = _process(folder / "image_noising_scheduler")
    return SuperResolution(name_or_folder, unet, process, chosen, low_process, prompt.to(chosen))


def _folder(name_or_folder: str) -> Path:
    if name_or_folder == MINI_PIXEL:
        folder = WEIGHTS / MINI_PIXEL
        if not (folder / "unet" / "config.json").is_file():
            raise UserError(
                f"the weights of the built-in pixel model are missing at {folder}; make them with "
                "`python -m training --stage corpus --stage pixel --work work-train`"
            )
        return folder
    give = f"give a diffusers folder of a pixel model, a hub name owner/name, or {MINI_PIXEL}"
    path = find_folder(name_or_folder, "pixel model", give)
    for part in ("unet", "scheduler"):
        if not (path / part).is_dir():
            raise UserError(f"{path} has no folder {part}; {give}")
    return path


def _process(folder: Path) -> Epsilon:
    from safezone.models.schedulers import process_of

    process = process_of(read_config(folder / "scheduler_config.json"))
    if not isinstance(process, Epsilon):
        raise UserError(f"{folder} is not of a model that predicts noise; purifiers need one")
    return process


def _prompt(folder: Path) -> Tensor:
    """[2, length, width], from the cache file or else from the T5 encoder of the folder."""
    if (folder / PROMPT_FILE).is_file():
        try:
            embeds = load_file(folder / PROMPT_FILE).get("prompt_embeds")
        except (SafetensorError, OSError):
            embeds = None
        if embeds is None or embeds.ndim != 3 or len(embeds) != 2:
            raise UserError(
                f"{folder / PROMPT_FILE} holds no prompt_embeds [2, length, width]; remove it and "
                "make it again"
            )
        return embeds
    if not (folder / "text_encoder").is_dir():
        raise UserError(
            f"{folder} has neither a text_encoder nor {PROMPT_FILE}; download the first or make "
            "the second with safezone.models.pixel.cache_prompt on another machine"
        )
    from transformers import AutoTokenizer, T5EncoderModel

    try:
        untyped: Any = AutoTokenizer
        tokenizer = untyped.from_pretrained(folder / "tokenizer", local_files_only=True)
    except Exception as error:  # each library has its own family of errors for a damaged file
        raise UserError(f"{folder / 'tokenizer'} cannot be opened as T5's tokenizer") from error
    encoder = read_part(T5EncoderModel, folder, "text_encoder", dtype=torch.float32).eval()
    tokens = tokenizer(
        ["", "a picture"],
        padding="max_length",
        max_length=77,
        truncation=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        states = encoder(tokens.input_ids, attention_mask=tokens.attention_mask)
    output: Tensor = states.last_hidden_state
    return output


def cache_prompt(folder: Path) -> Path:
    """Writes the two prompt embeddings of an IF-II folder beside its parts; the file.

    With it the T5-XXL encoder (some 10 GB) is never loaded again, nor needed in the folder.
    """
    with quiet():
        embeds = _prompt(folder)
    write_safetensors(folder / PROMPT_FILE, {"prompt_embeds": embeds})
    return folder / PROMPT_FILE


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
