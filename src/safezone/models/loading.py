"""From a name, folder or file to a model, or to its autoencoder; one sentence when wrong."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open

from safezone.arrays import Images, Latents
from safezone.errors import UserError
from safezone.models.base import Model
from safezone.models.frozen import freeze
from safezone.models.known import BUILTIN, KNOWN, LongPrompts, builtin_folder, hub_name, model_path
from safezone.models.parts import (
    WEIGHT_FILES,
    find_folder,
    first_line,
    pick_device,
    quiet,
    read_config,
    read_part,
    require_side,
    safe_weights,
    vae_dtype,
)

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
    checkpoint (its configurations beside it), then a short name of ``models.known`` ("sd15-rf"),
    and only a string "owner/name" that is none of them is asked of the hub (through its cache).
    ``device``: CUDA where there is one, else the CPU. ``dtype``: of the weights in memory, whatever
    is on the disk; float16 is not valid on the CPU nor for poisons (sign gradients underflow).
    ``long_prompts``: what becomes of prompts longer than the text encoder: their end is cut off, or
    they are encoded in chunks of 75 tokens. Only safetensors are read, and an autoencoder that
    overflows in half precision stays in single. Raises UserError for a folder, name or file that
    cannot be opened.
    """
    chosen = pick_device(device)
    path = model_path(name_or_folder)
    source: Path | str = path
    if path.is_file():
        name, parts = path.stem, _parts_of_file(path, dtype)
    else:
        name, source, folder = _find(name_or_folder)
        parts = _parts_of_folder(folder, dtype)
    require_side(parts["unet"], source)
    from safezone.models.stable import StableDiffusion, StableDiffusionXL

    kind = StableDiffusionXL if "text_encoder_2" in parts else StableDiffusion
    chunked = long_prompts == "chunks"
    return kind(name=name, folder=source, device=chosen, chunked=chunked, **parts)


def _parts_of_folder(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """What a model is made of, from a diffusers folder; UserError as ``load_model``."""
    index = _check_parts(folder)
    # Imported here because it takes seconds, and a wrong name should be told at once.
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    from safezone.models.schedulers import process_of, scheduler_config

    config = read_config(folder / "scheduler" / "scheduler_config.json")
    config = scheduler_config(config, index)
    of_vae = vae_dtype(read_config(folder / "vae" / "config.json"), dtype)
    parts: dict[str, Any] = {"process": process_of(config), "scheduler_config": config}
    kinds: dict[str, Any] = {"text_encoder": CLIPTextModel}
    if "text_encoder_2" in index:
        kinds["text_encoder_2"] = CLIPTextModelWithProjection
        parts["zero_empty"] = bool(index.get("force_zeros_for_empty_prompt", False))
    with quiet():
        parts["unet"] = read_part(UNet2DConditionModel, folder, "unet", torch_dtype=dtype)
        parts["vae"] = read_part(AutoencoderKL, folder, "vae", torch_dtype=of_vae)
        for part, kind in kinds.items():
            parts[part] = read_part(kind, folder, part, dtype=dtype)
            tokenizer = part.replace("text_encoder", "tokenizer")
            parts[tokenizer] = _read_tokenizer(folder, tokenizer, parts[part].config.vocab_size)
    return parts


def _find(name_or_folder: str | Path) -> tuple[str, Path | str, Path]:
    """(name, where the user said it is, the folder on this disk)."""
    if isinstance(name_or_folder, str) and name_or_folder in BUILTIN:
        folder = builtin_folder(name_or_folder)
        return name_or_folder, folder, folder
    path = model_path(name_or_folder)
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
        if part in index and not safe_weights(folder / part, stem):
            if any((folder / part).glob("*.bin")):
                raise UserError(
                    f"{folder / part} has only pickled .bin weights, which models are never opened "
                    f"from; convert them once with `safezone models convert {folder} NEW_FOLDER`"
                )
            if other := sorted((folder / part).glob(f"{stem}.*.safetensors")):
                raise UserError(
                    f"{folder / part} has {other[0].name}, a variant, which is not read; rename it "
                    f"to {stem}.safetensors"
                )
            raise UserError(
                f"{folder / part} has no {stem}.safetensors; a hub model with .bin files only is "
                "converted once by `safezone models convert OWNER/NAME NEW_FOLDER`, one with a "
                "variant such as fp16 only is downloaded to a folder first"
            )
    _check_channels(folder / "unet", read_config(folder / "unet" / "config.json"))
    return index


def _check_channels(where: Path, config: Mapping[str, Any]) -> None:
    """Raises UserError for a U-Net that takes more than noisy latents."""
    taken, given = config.get("in_channels", 4), config.get("out_channels", 4)
    if taken != given:
        raise UserError(
            f"{where} takes {taken} channels for {given}: an inpainting or depth model; "
            "use a text-to-image model"
        )


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


_XL_KEY: Final = "conditioner.embedders.1.model.ln_final.weight"
"""Of SDXL alone, in the names of the original Stable Diffusion code."""


def _parts_of_file(path: Path, dtype: torch.dtype) -> dict[str, Any]:
    """What a model is made of, from a ``.safetensors`` checkpoint, by ``from_single_file``.

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
    _check_channels(path, pipeline.unet.config)
    index = beside / "model_index.json"
    config = scheduler_config(
        {**pipeline.scheduler.config, "_class_name": type(pipeline.scheduler).__name__},
        read_config(index) if index.is_file() else {},
    )
    names = ["unet", "vae", "text_encoder", "tokenizer"]
    parts: dict[str, Any] = {"process": process_of(config), "scheduler_config": config}
    if xl:
        names += ["text_encoder_2", "tokenizer_2"]
        parts["zero_empty"] = bool(pipeline.config.get("force_zeros_for_empty_prompt", False))
    pipeline.vae.to(vae_dtype(pipeline.vae.config, dtype))
    return parts | {name: getattr(pipeline, name) for name in names}


_GIVE = "give mini, a diffusers folder, the folder of a VAE or a hub name owner/name"


class Autoencoder:
    """A frozen AutoencoderKL. ``factor``: pixels per latent cell along one side."""

    def __init__(self, name: str, vae: Any, device: torch.device) -> None:
        self.name, self.device = name, device
        self.factor = int(2 ** (len(vae.config.block_out_channels) - 1))
        freeze(vae.to(device))
        self._vae = vae

    @torch.no_grad()
    def mean_latents(self, images: Images) -> Latents:
        """The posterior's mean, scaled as the denoiser sees it, float32 on the CPU.

        ``images``: [batch, 3, height, width] in [0, 1], sides multiples of ``factor``.
        """
        config = self._vae.config
        mean: Latents = self._vae.encode((images * 2 - 1).to(self.device)).latent_dist.mean
        shift = float(getattr(config, "shift_factor", None) or 0.0)
        return ((mean - shift) * float(config.scaling_factor)).float().cpu()


def load_autoencoder(name_or_folder: str | Path, device: str | None = None) -> Autoencoder:
    """Opens the autoencoder of a built-in model, a diffusers folder, a VAE's own folder or the hub.

    Raises UserError for what cannot be opened. Only safetensors are read.
    """
    from diffusers import AutoencoderKL

    if isinstance(name_or_folder, str) and name_or_folder in BUILTIN:
        path = builtin_folder(name_or_folder)
    else:
        path = find_folder(name_or_folder, "model folder", _GIVE)
    folder = path if (path / "config.json").is_file() else path / "vae"
    if not (folder / "config.json").is_file():
        raise UserError(f"{path} holds neither config.json nor vae/config.json; {_GIVE}")
    config = read_config(folder / "config.json")
    if config.get("_class_name") != "AutoencoderKL":
        raise UserError(f"{folder} holds a {config.get('_class_name')}; give an AutoencoderKL")
    with quiet():
        vae = read_part(AutoencoderKL, folder.parent, folder.name)
    return Autoencoder(str(name_or_folder), vae, pick_device(device))
