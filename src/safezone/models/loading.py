"""From a name or folder to a model: finding the files, checking them, one sentence when wrong."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from safezone.errors import UserError
from safezone.models.base import Model
from safezone.models.builtin import BUILTIN, builtin_folder
from safezone.models.known import KNOWN, hub_name
from safezone.models.parts import (
    WEIGHT_FILES,
    find_folder,
    pick_device,
    quiet,
    read_config,
    read_part,
    vae_dtype,
)
from safezone.models.precision import LongPrompts
from safezone.models.single_file import load_single_file

_PARTS: Final = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_XL_PARTS: Final = (*_PARTS, "text_encoder_2", "tokenizer_2")


def load_model(
    name_or_folder: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    long_prompts: LongPrompts = "cut",
) -> Model:
    """Opens a Stable Diffusion 1.x, 2.x or XL like model: built-in name, folder, file or hub name.

    A built-in name (``"mini"``) comes first, then an existing diffusers folder or single-file
    checkpoint (``safezone.models.single_file``), then a short name of ``models.known`` ("sd15-rf"),
    and only a string "owner/name" that is none of them is asked of the hub (through its cache).
    ``device``: CUDA where there is one, else the CPU. ``dtype``: of the weights in memory, whatever
    is on the disk; float16 is not valid on the CPU nor for poisons (sign gradients underflow).
    ``long_prompts``: what becomes of prompts longer than the text encoder: their end is cut off, or
    they are encoded in chunks of 75 tokens. Only safetensors are read, and an autoencoder that
    overflows in half precision stays in single. Raises UserError for a folder, name or file that
    cannot be opened.
    """
    chosen = pick_device(device)
    path = Path(name_or_folder).expanduser()
    if path.is_file():
        return load_single_file(path, chosen, dtype, long_prompts == "chunks")
    name, source, folder = _find(name_or_folder)
    index = _check_parts(folder)
    # Imported here because it takes seconds, and a wrong name should be told at once.
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    from safezone.models.schedulers import process_of, scheduler_config
    from safezone.models.stable import StableDiffusion
    from safezone.models.xl import StableDiffusionXL

    config = read_config(folder / "scheduler" / "scheduler_config.json")
    config = scheduler_config(config, index)
    vae_config = read_config(folder / "vae" / "config.json")
    process = process_of(config)
    with quiet():
        text_encoder = read_part(CLIPTextModel, folder, "text_encoder", dtype=dtype)
        parts = {
            "name": name,
            "folder": source,
            "unet": read_part(UNet2DConditionModel, folder, "unet", torch_dtype=dtype),
            "vae": read_part(
                AutoencoderKL, folder, "vae", torch_dtype=vae_dtype(vae_config, dtype)
            ),
            "text_encoder": text_encoder,
            "tokenizer": _read_tokenizer(folder, "tokenizer", text_encoder.config.vocab_size),
            "process": process,
            "scheduler_config": config,
            "device": chosen,
            "chunked": long_prompts == "chunks",
        }
        if "text_encoder_2" not in index:
            return StableDiffusion(**parts)
        second = read_part(CLIPTextModelWithProjection, folder, "text_encoder_2", dtype=dtype)
        return StableDiffusionXL(
            text_encoder_2=second,
            tokenizer_2=_read_tokenizer(folder, "tokenizer_2", second.config.vocab_size),
            zero_empty=bool(index.get("force_zeros_for_empty_prompt", False)),
            **parts,
        )


def _find(name_or_folder: str | Path) -> tuple[str, Path | str, Path]:
    """(name, where the user said it is, the folder on this disk)."""
    if isinstance(name_or_folder, str) and name_or_folder in BUILTIN:
        folder = builtin_folder(name_or_folder)
        return name_or_folder, folder, folder
    path = Path(name_or_folder).expanduser()
    if path.is_dir():
        return path.resolve().name, path, path
    name = hub_name(name_or_folder) if isinstance(name_or_folder, str) else name_or_folder
    give = (
        "give a diffusers folder, a checkpoint file, a hub name owner/name, a built-in model "
        f"({', '.join(BUILTIN)}) or a known one ({', '.join(KNOWN)})"
    )
    return str(name), str(name), find_folder(name, "model folder", give)


def _check_parts(folder: Path) -> Mapping[str, Any]:
    """The index; UserError unless it is a text-to-image pipeline with CLIP text encoders."""
    if not (folder / "model_index.json").is_file():
        raise UserError(f"{folder} is not a diffusers folder: it has no model_index.json")
    index = read_config(folder / "model_index.json")
    if "text_encoder_3" in index or "transformer" in index:
        raise UserError(
            f"{folder} holds a {index.get('_class_name')}; "
            "only pipelines like Stable Diffusion 1.x, 2.x and XL are supported"
        )
    for part in _XL_PARTS if "text_encoder_2" in index else _PARTS:
        if part not in index or not (folder / part).is_dir():
            raise UserError(f"{folder} is incomplete: it has no {part} folder")
    for part, stem in WEIGHT_FILES.items():
        if part in index and not any((folder / part).glob(f"{stem}*.safetensors")):
            if any((folder / part).glob("*.bin")):
                raise UserError(
                    f"{folder / part} has only pickled .bin weights, which models are never opened "
                    f"from; convert them once with `safezone models convert {folder} NEW_FOLDER`"
                )
            raise UserError(
                f"{folder / part} has no {stem}.safetensors; a hub model with .bin files only is "
                "converted once by `safezone models convert OWNER/NAME NEW_FOLDER`"
            )
    config = read_config(folder / "unet" / "config.json")
    if config.get("in_channels", 4) != config.get("out_channels", 4):
        raise UserError(
            f"{folder / 'unet'} takes {config['in_channels']} channels for "
            f"{config.get('out_channels', 4)}: an inpainting or depth model; "
            "use a text-to-image model"
        )
    return index


def _read_tokenizer(folder: Path, part: str, vocabulary: int) -> Any:
    """The CLIP tokenizer; one without its vocabulary files loads silently with a few tokens."""
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(
            str(folder), subfolder=part, local_files_only=True
        )
    except Exception as error:  # as above
        raise UserError(
            f"{folder / part} cannot be opened as a CLIP tokenizer: "
            "it needs vocab.json and merges.txt"
        ) from error
    if not 256 <= len(tokenizer) <= vocabulary:
        raise UserError(
            f"{folder / part} has {len(tokenizer)} tokens and the text encoder "
            f"{vocabulary}: they do not belong together or files are missing"
        )
    return tokenizer
