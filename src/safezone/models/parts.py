"""What all loaders share: finding a folder, reading or converting its parts, choosing a device."""

import pickle
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from safezone.errors import UserError
from safezone.files import require_new, whole_folder, write_json, write_safetensors
from safezone.models.known import hub_name, model_path
from safezone.reading import parse_json

WEIGHT_FILES: Final[Mapping[str, str]] = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
"""The parts with weights, and how their files are called."""


def _pickled(stem: str) -> str:
    """How the same weights are called as ``.bin``: transformers' are ``pytorch_model.bin``."""
    return "pytorch_model" if stem == "model" else stem


# The small text files beside full-precision weights, which are whole or in shards.
_HUB_FILES: Final = (
    "model_index.json",
    "scheduler/*.json",
    # A pixel model of super-resolution and the four-fold upscaler.
    "image_noising_scheduler/*.json",
    "low_res_scheduler/*.json",
    "tokenizer/*",
    "tokenizer_2/*",
    *(f"{part}/config.json" for part in WEIGHT_FILES),
)


def find_folder(name_or_folder: str | Path, what: str, give: str) -> Path:
    """An existing folder, or the hub's snapshot of a string owner/name.

    Raises UserError, which calls it ``what`` and says to ``give`` something else, for any other.
    """
    path = model_path(name_or_folder)
    if path.is_dir():
        return path
    if isinstance(name_or_folder, str) and re.fullmatch(r"\w[\w.-]*/[\w.-]+", name_or_folder):
        return fetch_folder(name_or_folder)
    raise UserError(f"there is no {what} {str(name_or_folder)!r}; {give}")


def first_line(error: Exception) -> str:
    """What a library says went wrong, on one line."""
    return (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")


def fetch_folder(name: str, pickled: bool = False) -> Path:
    """The hub's snapshot of ``name`` in the local cache; without pickled weights, or with."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        files = [(part, stem, "safetensors") for part, stem in WEIGHT_FILES.items()]
        if pickled:
            files += [(part, _pickled(stem), "bin") for part, stem in WEIGHT_FILES.items()]
        weights = [
            f"{part}/{stem}{end.format(suffix)}"
            for part, stem, suffix in files
            for end in (".{}", "-?????-of-?????.{}", ".{}.index.json")
        ]
        return Path(snapshot_download(name, allow_patterns=[*_HUB_FILES, *weights]))
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


def read_config(file: Path) -> Mapping[str, Any]:
    """The JSON object in a configuration file; UserError when it is none."""
    try:
        value = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is missing or not valid JSON") from error
    if not isinstance(value, dict):
        raise UserError(f"{file} is not a JSON object")
    return value


def require_side(unet: Any, where: Path | str) -> None:
    """Raises UserError for a U-Net that does not say how large the images are that it makes."""
    size = unet.config.sample_size
    if not isinstance(size, int):
        raise UserError(
            f"the U-Net of {where} has the sample_size {size!r}; write into its config.json one "
            "whole number, the side of what it was trained on (64 for Stable Diffusion 1.5)"
        )


def safe_weights(folder: Path, stem: str) -> list[Path]:
    """A part's safetensors, whole or in shards; variants such as ``.fp16`` are not read."""
    whole = folder / f"{stem}.safetensors"
    return [whole] if whole.is_file() else sorted(folder.glob(f"{stem}-*.safetensors"))


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
        raise UserError(
            f"{folder / part} cannot be opened as {kind.__name__}: {first_line(error)}"
        ) from error
    gaps = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if gaps:
        raise UserError(f"{folder / part} lacks {len(gaps)} weights, the first is {gaps[0]}")
    return module


def vae_dtype(config: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
    """The autoencoder's type: SDXL's overflows in float16, as its configuration says."""
    overflows = dtype == torch.float16 and config.get("force_upcast", True)
    return torch.float32 if overflows else dtype


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
    visible = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if visible:
            logging.enable_progress_bar()


def convert(name_or_folder: str | Path, out: Path) -> Path:
    """Writes the folder ``out`` with the same weights as safetensors; returns it.

    ``name_or_folder``: a diffusers folder whose weights are ``.bin`` files, else a short name or a
    hub name, of which these are fetched. They are read by ``torch.load(weights_only=True)``, which
    makes tensors and refuses everything else. Configurations and tokenizers are copied; parts that
    already are safetensors, too; a safety checker is left out. Raises UserError for a folder
    without weights, a file that is more or less than weights, and an ``out`` that is not empty.
    """
    require_new(out)
    source = model_path(name_or_folder)
    if not source.is_dir():
        source = fetch_folder(hub_name(str(name_or_folder)), pickled=True)
    parts = {part: stem for part, stem in WEIGHT_FILES.items() if (source / part).is_dir()}
    if not (source / "model_index.json").is_file() or not parts:
        raise UserError(f"{source} is not a diffusers folder: it has no model_index.json or parts")
    with whole_folder(out) as target:
        for file in sorted(source.rglob("*")):
            place = target / file.relative_to(source)
            if file.is_file() and file.suffix in (".json", ".txt", ".model"):
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)
        for part, stem in parts.items():
            (target / part / f"{_pickled(stem)}.bin.index.json").unlink(missing_ok=True)
            ready = safe_weights(source / part, stem)
            for file in ready:
                shutil.copyfile(file, target / part / file.name)
            if not ready:
                weights = _weights(source / part, _pickled(stem))
                write_safetensors(target / part / f"{stem}.safetensors", weights, {"format": "pt"})
        _leave_out(source, target, {*parts})
    return out


def _leave_out(source: Path, target: Path, parts: set[str]) -> None:
    """Takes what was not converted, such as a safety checker, out of a pipeline's list of parts,
    and its folder away: diffusers opens no pipeline of which a listed part is missing."""
    index = dict(read_config(target / "model_index.json"))
    for name, listed in index.items():
        if not isinstance(listed, list) or name in parts:
            continue
        folder = source / name
        if not folder.is_dir() or any(folder.glob("*.bin")) or any(folder.glob("*.safetensors")):
            index[name] = [None, None]
            shutil.rmtree(target / name, ignore_errors=True)
    if index.get("safety_checker") == [None, None]:
        index["requires_safety_checker"] = False
    write_json(target / "model_index.json", index)


def _weights(folder: Path, stem: str) -> dict[str, Tensor]:
    """All tensors of a part, from one file or from shards."""
    index = folder / f"{stem}.bin.index.json"
    names = {f"{stem}.bin"}
    if index.is_file():
        names = set(dict(read_config(index).get("weight_map", {})).values())
    weights: dict[str, Tensor] = {}
    for name in sorted(names):
        weights |= _tensors(folder / name)
    return weights


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings(action="ignore"):  # of pickles of another protocol
            content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{file.parent} has neither {file.name} nor safetensors") from error
    except (pickle.UnpicklingError, EOFError, OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{file} holds more or less than weights: {first_line(error)}") from error
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{file} is not a table of weights by name; give a diffusers folder")
    return {str(name): value.clone() for name, value in content.items()}  # two may share memory
