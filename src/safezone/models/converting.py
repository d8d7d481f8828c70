"""Pickled weights of a diffusers folder to safetensors, once, without running what is in them."""

import pickle
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safezone.errors import UserError
from safezone.files import require_new, whole_folder, write_safetensors
from safezone.models.parts import WEIGHT_FILES, fetch_folder, first_line, read_config


def convert(name_or_folder: str | Path, out: Path) -> Path:
    """Writes the folder ``out`` with the same weights as safetensors; returns it.

    ``name_or_folder``: a diffusers folder whose weights are ``.bin`` files, or a hub name, of which
    these are fetched. They are read by ``torch.load(weights_only=True)``, which makes tensors and
    refuses everything else. Configurations and tokenizers are copied; parts that already are
    safetensors, too. Raises UserError for a folder without weights, a file that is more or less
    than weights, and an ``out`` that is not empty.
    """
    require_new(out)
    source = Path(name_or_folder).expanduser()
    if not source.is_dir():
        source = fetch_folder(str(name_or_folder), pickled=True)
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
            (target / part / f"{stem}.bin.index.json").unlink(missing_ok=True)
            ready = sorted((source / part).glob(f"{stem}*.safetensors"))
            for file in ready:
                shutil.copyfile(file, target / part / file.name)
            if not ready:
                weights = _weights(source / part, stem)
                write_safetensors(target / part / f"{stem}.safetensors", weights, {"format": "pt"})
    return out


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
