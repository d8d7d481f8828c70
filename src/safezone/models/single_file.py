"""Checkpoints in one file, in the names of the original Stable Diffusion code."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from safezone.errors import UserError
from safezone.models.base import Model
from safezone.models.parts import first_line, quiet, read_config, vae_dtype

_XL_KEY = "conditioner.embedders.1.model.ln_final.weight"


def load_single_file(
    path: Path, device: torch.device, dtype: torch.dtype, chunked: bool = False
) -> Model:
    """Opens a ``.safetensors`` checkpoint by diffusers' ``from_single_file``.

    Such a file holds weights alone. The tokenizer and the configurations, the scheduler's
    prediction type among them, come from a folder of the same name beside it (``model/`` for
    ``model.safetensors``: the small files of a diffusers folder) where there is one; else diffusers
    tells the architecture from the weights and takes them from the hub through its cache.

    Raises UserError for a pickled checkpoint, for a file that is none, and when the
    configurations cannot be had.
    """
    if path.suffix != ".safetensors":
        raise UserError(
            f"{path} is a single file but not safetensors, which can run code when opened; give "
            "a .safetensors checkpoint or a diffusers folder"
        )
    try:
        with safe_open(path, framework="pt") as file:
            xl = _XL_KEY in file.keys()  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is a single file that is no safetensors checkpoint") from error
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    from safezone.models.schedulers import process_of, scheduler_config
    from safezone.models.stable import StableDiffusion
    from safezone.models.xl import StableDiffusionXL

    beside = path.with_suffix("")
    options: dict[str, Any] = {"config": str(beside)} if beside.is_dir() else {}
    if not xl:  # a safety checker is no part of the model
        options |= {"safety_checker": None}
    kind = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
    try:
        with quiet():
            pipeline = kind.from_single_file(str(path), torch_dtype=dtype, **options)
    except Exception as error:  # each library has its own family of errors for a damaged file
        raise UserError(
            f"{path} cannot be opened as a checkpoint ({first_line(error)}); put the "
            f"configurations and the tokenizer of its diffusers folder into {beside}, or convert "
            "it to such a folder"
        ) from error
    index = beside / "model_index.json"
    config = scheduler_config(
        {**pipeline.scheduler.config, "_class_name": type(pipeline.scheduler).__name__},
        read_config(index) if index.is_file() else {},
    )
    parts = {
        "name": path.stem,
        "folder": path,
        "unet": pipeline.unet,
        "vae": pipeline.vae.to(vae_dtype(pipeline.vae.config, dtype)),
        "text_encoder": pipeline.text_encoder,
        "tokenizer": pipeline.tokenizer,
        "process": process_of(config),
        "scheduler_config": config,
        "device": device,
        "chunked": chunked,
    }
    if not xl:
        return StableDiffusion(**parts)
    return StableDiffusionXL(
        text_encoder_2=pipeline.text_encoder_2,
        tokenizer_2=pipeline.tokenizer_2,
        zero_empty=bool(pipeline.config.get("force_zeros_for_empty_prompt", False)),
        **parts,
    )
