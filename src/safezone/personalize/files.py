"""Adapters on disk: one safetensors file each, ours or another program's."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from safezone.errors import UserError
from safezone.files import write_safetensors
from safezone.models.base import Model
from safezone.models.deltas import Delta, Full, LowRank
from safezone.personalize.adapters import HISTORY, Adapter, History
from safezone.personalize.lora_files import diffusers_lora, finite_tensor, is_lora, read_deltas
from safezone.reading import parse_json

EMB_PARAMS: Final = "emb_params"
"""The key of kohya's scripts and AUTOMATIC1111."""
_NO_WORDS: Final = ("", EMB_PARAMS, "clip_l", "clip_h", "string_to_param.*")
_XL_KEYS: Final = ("clip_l", "clip_g")


def check_placeholder(model: Model, placeholder: str) -> None:
    """Raises UserError unless the placeholder can become a new token of the model.

    It must not be empty, hold white space or be a token that the model's tokenizer already has:
    stock programs refuse an embedding with such a name or change the meaning of that word.
    """
    if not placeholder or re.search(r"\s", placeholder):
        raise UserError(
            f"The placeholder {placeholder!r} is empty or has white space; choose one like "
            "<my-toy>."
        )
    tokenizer = getattr(model, "tokenizer", None)
    known = tokenizer is not None and placeholder in tokenizer.get_vocab()
    if known or len(model.word_vectors(placeholder)) < 2:
        raise UserError(
            f"The placeholder {placeholder!r} is already a word of the model's tokenizer; choose "
            f"another, such as <{placeholder.strip('<>') or 'concept'}-1>."
        )


def embedding_tensors(adapter: Adapter, key: str = "") -> dict[str, Tensor]:
    """One tensor, [n, width], under ``key`` or the placeholder; for SDXL ``clip_l``, ``clip_g``.

    diffusers' ``load_textual_inversion`` takes the key as the word, of SD 1.x and 2.x. The other
    programs take the file's name and any key, but InvokeAI, which knows ``EMB_PARAMS`` only.
    """
    if len(adapter.widths) > 1:
        parts = adapter.vectors.split(adapter.widths, dim=1)
        return dict(zip(_XL_KEYS, parts, strict=True))
    return {key or adapter.placeholder: adapter.vectors}


def read_vectors(tensors: Mapping[str, Tensor], path: Path) -> tuple[str, Tensor, tuple[int, ...]]:
    """The placeholder, its vectors, float32 [n, width], and the widths of their parts, if several.

    The file holds one tensor, [n, width] or [width], under the placeholder, or SDXL's ``clip_l``
    and ``clip_g``. Under these and other keys that are no word (``emb_params``, ComfyUI's
    ``clip_l`` alone, AUTOMATIC1111's ``string_to_param.*``) the placeholder is the file's name in
    angle brackets. Raises UserError when it holds anything else.
    """
    if set(_XL_KEYS) == set(tensors):
        parts = [checked_vectors(tensors[key], path) for key in _XL_KEYS]
        if len(parts[0]) != len(parts[1]):
            raise UserError(f"{path} has unequal numbers of vectors; export the embedding again.")
        widths = tuple(part.shape[1] for part in parts)
        return f"<{path.stem}>", torch.cat(parts, dim=1), widths
    if EMB_PARAMS in tensors:
        tensors = {EMB_PARAMS: tensors[EMB_PARAMS]}
    tensors = {key: value for key, value in tensors.items() if key != "string_to_token.*"}
    if len(tensors) != 1:
        raise UserError(
            f"{path} holds {len(tensors)} tensors, an embedding holds one; give an embedding file."
        )
    ((key, vectors),) = tensors.items()
    placeholder = f"<{path.stem}>" if key.strip() in _NO_WORDS else key
    return placeholder, checked_vectors(vectors, path), ()


def checked_vectors(vectors: Tensor, path: Path) -> Tensor:
    """float32 [n, width]; UserError for anything else."""
    if vectors.ndim == 1:
        vectors = vectors[None]
    if vectors.ndim != 2 or not vectors.is_floating_point() or not vectors.numel():
        raise UserError(
            f"{path} holds a {vectors.dtype} tensor of shape {tuple(vectors.shape)}, not "
            "[vectors, width]; give an embedding file."
        )
    return finite_tensor(vectors, "its vectors", path)


EMBEDDING: Final = "learned_embeds.safetensors"
LORA: Final = "pytorch_lora_weights.safetensors"
CUSTOM_DIFFUSION: Final = "custom_diffusion.safetensors"
ADAPTER_FILES: Final = (EMBEDDING, LORA, CUSTOM_DIFFUSION)
"""The file of an adapter in its folder: token vectors, low-rank changes, changes in full."""

_OURS = "safezone"


def save_adapter(adapter: Adapter, folder: Path) -> Path:
    """Writes the adapter into the folder under its kind's name, whole or not at all.

    ``learned_embeds.safetensors`` and ``pytorch_lora_weights.safetensors`` are diffusers' files;
    ``custom_diffusion.safetensors`` is our own: ``<layer>.diff`` for each changed layer and the
    token vectors under the placeholder. Beside it ``history.safetensors``, where there is one.
    """
    tensors: dict[str, Tensor]
    low_rank = all(isinstance(each, LowRank) for each in adapter.deltas.values())
    if not adapter.deltas:
        path, tensors = folder / EMBEDDING, embedding_tensors(adapter)
    elif low_rank and not len(adapter.vectors):
        path, tensors = folder / LORA, diffusers_lora(adapter.deltas, adapter.convolutions)
    else:
        path = folder / CUSTOM_DIFFUSION
        tensors = {f"{name}.diff": each.weight() for name, each in adapter.deltas.items()}
        if len(adapter.vectors):
            tensors[adapter.placeholder] = adapter.vectors
    write_tensors(path, tensors, adapter)
    if adapter.history is not None:
        adapter.history.save(folder)
    return path


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    adapter: Adapter,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """One safetensors file, float32, with the adapter's provenance as JSON in its metadata.

    ``metadata``: what other programs look for beside it. Written whole or not at all. Raises
    UserError unless the path ends in .safetensors.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"{path} must end in .safetensors; other programs go by that.")
    ours: dict[str, Any] = {
        "class_word": adapter.class_word,
        "provenance": dict(adapter.provenance),
    }
    if adapter.deltas or adapter.widths or adapter.placeholder not in tensors:
        ours |= {
            "placeholder": adapter.placeholder,
            "trigger": adapter.trigger,
            "widths": list(adapter.widths),
        }
    floats = {name: each.float() for name, each in tensors.items()}
    write_safetensors(path, floats, {_OURS: json.dumps(ours), **metadata})


def save_embedding(adapter: Adapter, path: Path) -> None:
    """Writes the token vectors as the embedding file that other programs read."""
    write_tensors(path, embedding_tensors(adapter), replace(adapter, deltas={}))


def load_embedding(path: Path) -> Adapter:
    """Reads an embedding that we, diffusers or AUTOMATIC1111 wrote as safetensors.

    Raises UserError as ``load_adapter`` does, and for a file that changes layers.
    """
    adapter = load_adapter(path)
    if adapter.deltas:
        raise UserError(f"{path} is a LoRA or the like; give an embedding file.")
    return adapter


def load_adapter(path: Path, model: Model | None = None) -> Adapter:
    """Reads an embedding, a LoRA or a Custom Diffusion file: ours or another program's.

    ``model``: what it is for; LoRAs in other names than diffusers' need it. Without our metadata
    the class word is empty and so is a LoRA's trigger.

    Raises UserError for a file that is no safetensors file (pickled ones are never opened), holds
    anything else, or does not fit the model.
    """
    metadata, tensors = read_tensors(path)
    ours = _own(metadata, path)
    deltas: Mapping[str, Delta] = {}
    convolutions: frozenset[str] = frozenset()
    placeholder = str(ours.get("placeholder", ""))
    if is_lora(tensors):
        vectors = torch.zeros(0, 0 if model is None else model.embedding_width)
        if placeholder in tensors:  # Custom Diffusion
            vectors = checked_vectors(tensors.pop(placeholder), path)
        layers = None if model is None else model.layers
        deltas, convolutions = read_deltas(tensors, metadata, layers, path)
        if len(vectors):
            deltas = {
                name: replace(each, frozen_start=True) if isinstance(each, Full) else each
                for name, each in deltas.items()
            }
        widths = tuple(ours.get("widths", ()))
        if model is not None and len(model.embedding_widths) > 1:
            widths = model.embedding_widths
        if len(vectors) and widths and sum(widths) != vectors.shape[1]:
            raise UserError(f"{path} has broken safezone metadata; export it again.")
    else:
        key, vectors, widths = read_vectors(tensors, path)
        placeholder = placeholder or key
    adapter = Adapter(
        vectors,
        placeholder,
        str(ours.get("class_word", "")),
        ours.get("provenance", {}),
        deltas,
        str(ours.get("trigger", "")),
        widths,
        convolutions=convolutions,
    )
    if model is not None:
        check_fits(adapter, model, path)
    return adapter


def read_adapter(folder: Path) -> Adapter:
    """The adapter that ``save_adapter`` wrote into the folder; UserError when there is none."""
    for name in ADAPTER_FILES:
        if (folder / name).is_file():
            return load_adapter(folder / name)
    raise UserError(f"{folder} holds none of {', '.join(ADAPTER_FILES)}; train it again.")


def read_history(folder: Path) -> History:
    """The vectors on the way to the adapter in the folder; UserError when they are not there."""
    _, tensors = read_tensors(folder / HISTORY)
    if set(tensors) != {"steps", "vectors"}:
        raise UserError(f"{folder / HISTORY} holds no token vectors; train the run again.")
    return History(tensors["steps"], tensors["vectors"])


def check_fits(adapter: Adapter, model: Model, path: Path | None = None) -> None:
    """Raises UserError unless the vectors and the changed layers are as the model's."""
    what = path or f"The adapter {adapter.words}"
    if len(adapter.vectors) and adapter.vectors.shape[1] != model.embedding_width:
        raise UserError(
            f"{what} has {adapter.vectors.shape[1]} numbers a vector, the model {model.name} "
            f"{model.embedding_width}; use it with the kind of model it was trained on."
        )
    for name, delta in adapter.deltas.items():
        if model.layers.get(name) != delta.shape:
            raise UserError(
                f"{what} changes {name} of {delta.shape[0]} x {delta.shape[1]}, which the model "
                f"{model.name} does not have; use it with the kind of model it was trained on."
            )


def read_tensors(path: Path) -> tuple[Mapping[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a safetensors file; UserError when it is none."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; check the spelling of the file's name.")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {
                name: file.get_tensor(name).clone()
                for name in file.keys()  # noqa: SIM118
            }
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a safetensors file: {_instead(path)}.") from error


_PICKLED: Final = "it is pickled, which can run code when opened; convert it to safetensors"
_BEGINNINGS: Final = (
    (b"version https://git-lfs", "it is a pointer of Git LFS; download the file itself"),
    (b"<", "it is a web page; download it again, signed in where that is needed"),
    (b"\x80", _PICKLED),
    (b"PK\x03\x04", _PICKLED),
)


def _instead(path: Path) -> str:
    """What the file is, from its first bytes, and what to do."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        return f"it cannot be read ({error.strerror}); check its permissions"
    if not start:
        return "it is empty; download it again"
    header = start[8:9] == b"{"  # after the length, whose first byte may be any
    for beginning, sentence in _BEGINNINGS:
        if start.lstrip().startswith(beginning) and not header:
            return sentence
    return "it is cut short or damaged; download it again"


def _own(metadata: Mapping[str, str], path: Path) -> Mapping[str, Any]:
    """What ``write_tensors`` wrote beside the tensors, or nothing."""
    if _OURS not in metadata:
        return {}
    try:
        own = parse_json(metadata[_OURS])
        widths = [int(width) for width in own.get("widths", [])]
        return {**own, "provenance": dict(own.get("provenance", {})), "widths": widths}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} has broken safezone metadata; export it again.") from error
