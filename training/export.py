"""From checkpoints to the folders that ship: plain diffusers and transformers, half precision."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from safezone.files import whole_folder
from training.denoiser import new_scheduler


def averaged(module: nn.Module, name: str, checkpoint: Path) -> None:
    """Loads the moving averages of ``name`` from a training checkpoint into ``module``."""
    prefix = f"ema/{name}."
    found = {k.removeprefix(prefix): v for k, v in load_file(checkpoint).items() if prefix in k}
    missing = module.load_state_dict(found, strict=False).missing_keys
    trained = {key for key, parameter in module.named_parameters() if parameter.requires_grad}
    if lost := sorted(trained & set(missing)):
        raise RuntimeError(f"{checkpoint} lacks {lost[0]}; run the stage that trains it again")


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """``write`` fills a temporary folder that then takes the place of ``folder``."""
    with whole_folder(folder, replace=True) as temporary:
        write(temporary)


def export_pipeline(
    folder: Path,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    scale: float,
    words: Path,
) -> None:
    """A folder that stock diffusers opens; ``words``: the tokenizer's folder."""
    vae.register_to_config(scaling_factor=round(scale, 6))
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16, silence_dtype_warnings=True)

    def write(target: Path) -> None:
        pipeline.save_pretrained(target, safe_serialization=True)
        _nest_text_model(target / "text_encoder" / "model.safetensors")
        _load_as_float(target / "text_encoder" / "config.json")
        for name in ("vocab.json", "merges.txt"):  # for readers older than tokenizer.json
            shutil.copyfile(words / name, target / "tokenizer" / name)

    replace_folder(folder, write)
    pipeline.to(torch.float32)


def _nest_text_model(path: Path) -> None:
    """Gives the text encoder's keys the ``text_model.`` prefix that every version reads."""
    tensors = {
        key if key.startswith("text_model.") else f"text_model.{key}": value
        for key, value in load_file(path).items()
    }
    save_file(tensors, path, {"format": "pt"})


def _load_as_float(config: Path) -> None:
    """transformers loads in the type that the config names, the U-Net beside it in float32."""
    settings = json.loads(config.read_text())
    settings["dtype"] = "float32"
    config.write_text(json.dumps(settings, indent=2) + "\n")
