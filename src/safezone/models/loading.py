"""From a name or folder to a model: finding the files, checking them, one sentence when wrong."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from safezone.errors import UserError
from safezone.models.base import Model
from safezone.models.builtin import BUILTIN, builtin_folder

PARTS: Final = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
WEIGHTS: Final = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
XL_PARTS: Final = (*PARTS, "text_encoder_2", "tokenizer_2")
XL_WEIGHTS: Final = {**WEIGHTS, "text_encoder_2": "model"}
# Full-precision safetensors, whole or in shards, and the small text files beside them.
HUB_FILES: Final = (
    "model_index.json",
    "scheduler/*.json",
    # A pixel model of super-resolution and the four-fold upscaler.
    "image_noising_scheduler/*.json",
    "low_res_scheduler/*.json",
    "tokenizer/*",
    "tokenizer_2/*",
    *(f"{part}/config.json" for part in XL_WEIGHTS),
    *(f"{part}/{stem}.safetensors" for part, stem in XL_WEIGHTS.items()),
    *(f"{part}/{stem}-?????-of-?????.safetensors" for part, stem in XL_WEIGHTS.items()),
    *(f"{part}/{stem}.safetensors.index.json" for part, stem in XL_WEIGHTS.items()),
)


def load_model(
    name_or_folder: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Model:
    """Opens a Stable Diffusion 1.x, 2.x or XL like model: built-in name, folder, file or hub name.

    A built-in name (``"mini"``) comes first, then an existing diffusers folder or single-file
    checkpoint (``safezone.models.single_file``), and only a string "owner/name" that is neither is
    asked of the hub (through its cache). ``device``: CUDA where
    there is one, else the CPU. ``dtype``: of the weights in memory, whatever is on the disk;
    float16 is not valid on the CPU nor for poisons (sign gradients underflow). Only safetensors
    are read, and an autoencoder that overflows in half precision stays in single. Raises
    UserError for a folder, name or file that cannot be opened.
    """
    chosen = pick_device(device)
    path = Path(name_or_folder).expanduser()
    if path.is_file():
        from safezone.models.single_file import load_single_file

        return load_single_file(path, chosen, dtype)
    name, source, folder = _find(name_or_folder)
    index = _check_parts(folder)
    # Imported here because it takes seconds, and a wrong name should be told at once.
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    from safezone.models.schedulers import process_of
    from safezone.models.stable import StableDiffusion
    from safezone.models.xl import StableDiffusionXL

    scheduler_config = read_config(folder / "scheduler" / "scheduler_config.json")
    vae_config = read_config(folder / "vae" / "config.json")
    process = process_of(scheduler_config)
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
            "scheduler_config": scheduler_config,
            "device": chosen,
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


def vae_dtype(config: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
    """The autoencoder's type: SDXL's overflows in float16, as its configuration says."""
    overflows = dtype == torch.float16 and config.get("force_upcast", True)
    return torch.float32 if overflows else dtype


def _find(name_or_folder: str | Path) -> tuple[str, Path | str, Path]:
    """(name, where the user said it is, the folder on this disk)."""
    path = Path(name_or_folder).expanduser()
    if isinstance(name_or_folder, str) and name_or_folder in BUILTIN:
        folder = builtin_folder(name_or_folder)
        return name_or_folder, folder, folder
    if path.is_dir():
        return path.resolve().name, path, path
    if isinstance(name_or_folder, str) and re.fullmatch(r"\w[\w.-]*/[\w.-]+", name_or_folder):
        return name_or_folder, name_or_folder, fetch_folder(name_or_folder)
    raise UserError(
        f"there is no model folder {str(name_or_folder)!r}; give a diffusers folder, "
        f"a checkpoint file, a hub name owner/name, or a built-in model ({', '.join(BUILTIN)})"
    )


def fetch_folder(name: str) -> Path:
    """The hub's snapshot of ``name`` in the local cache, without pickled weights."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))
    except GatedRepoError as error:
        raise UserError(
            f"the hub model {name} is gated; accept its licence on its page and log in to the hub"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(f"there is no folder and no hub model called {name}") from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"there is no folder {name}, and it can not be fetched from the hub as a model: "
            "check the name and the connection, or download it to a folder first"
        ) from error


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
    xl = "text_encoder_2" in index
    for part in XL_PARTS if xl else PARTS:
        if part not in index or not (folder / part).is_dir():
            raise UserError(f"{folder} is incomplete: it has no {part} folder")
    for part, stem in (XL_WEIGHTS if xl else WEIGHTS).items():
        if not any((folder / part).glob(f"{stem}*.safetensors")):
            if any((folder / part).glob("*.bin")):
                raise UserError(
                    f"{folder / part} has only pickled .bin weights, which are never opened; "
                    "convert them with save_pretrained(..., safe_serialization=True)"
                )
            raise UserError(f"{folder / part} has no {stem}.safetensors")
    config = read_config(folder / "unet" / "config.json")
    if config.get("in_channels", 4) != config.get("out_channels", 4):
        raise UserError(
            f"{folder / 'unet'} takes {config['in_channels']} channels for "
            f"{config.get('out_channels', 4)}: an inpainting or depth model; "
            "use a text-to-image model"
        )
    return index


def read_config(file: Path) -> Mapping[str, Any]:
    """The JSON object in a configuration file; UserError when it is none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is missing or not valid JSON") from error
    if not isinstance(value, dict):
        raise UserError(f"{file} is not a JSON object")
    return value


def read_part(kind: Any, folder: Path, part: str, **options: Any) -> Any:
    """One module with all its weights; from_pretrained alone would fill gaps with random values."""
    try:
        module, report = kind.from_pretrained(
            str(folder),
            subfolder=part,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # each library has its own family of errors for a damaged file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(f"{folder / part} cannot be opened as {kind.__name__}: {reason}") from error
    gaps = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if gaps:
        raise UserError(f"{folder / part} lacks {len(gaps)} weights, the first is {gaps[0]}")
    return module


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


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device of that name, by default CUDA where there is one; UserError if it is none."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"the device {str(device)!r} is not available here; try cpu") from error
    return chosen


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of the loading libraries, whose state is put back afterwards."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
