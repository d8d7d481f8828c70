"""Learned token vectors as values and as the file that other programs read."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from safezone.errors import UserError
from safezone.models.base import Model
from safezone.personalize.adapters import Adapter

_PROVENANCE = "safezone"
_A1111_KEY = "emb_params"


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


def save_embedding(adapter: Adapter, path: Path) -> None:
    """Writes one safetensors file with one key, the placeholder, holding float32 [n, width].

    This is what diffusers' ``load_textual_inversion``, AUTOMATIC1111, ComfyUI and kohya's scripts
    read for Stable Diffusion 1.x and 2.x. The provenance is JSON in the file's metadata. Written
    whole or not at all. Raises UserError unless the path ends in .safetensors.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"{path} must end in .safetensors; other programs go by that.")
    metadata = {
        _PROVENANCE: json.dumps(
            {"class_word": adapter.class_word, "provenance": dict(adapter.provenance)}
        ),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        vectors = adapter.vectors.detach().float().cpu().contiguous()
        save_file({adapter.placeholder: vectors}, temporary, metadata)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_embedding(path: Path) -> Adapter:
    """Reads an embedding that we, diffusers or AUTOMATIC1111 wrote as safetensors.

    The file holds one tensor, [n, width] or [width], under the placeholder; under
    AUTOMATIC1111's key ``emb_params`` the placeholder is the file's name in angle brackets.
    Without our metadata the class word is empty.

    Raises UserError for a file that is no safetensors file (pickled embeddings are never opened),
    or holds anything else.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; check the spelling of the file's name.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not a safetensors file; convert the embedding to safetensors, since other "
            "formats can run code when opened."
        ) from error
    if _A1111_KEY in tensors:
        tensors = {f"<{path.stem}>": tensors[_A1111_KEY]}
    if {"clip_l", "clip_g"} <= tensors.keys():
        raise UserError(f"{path} is an SDXL embedding; give one for Stable Diffusion 1.x or 2.x.")
    if len(tensors) != 1:
        raise UserError(
            f"{path} holds {len(tensors)} tensors, an embedding holds one; give an embedding file."
        )
    ((placeholder, vectors),) = tensors.items()
    if vectors.ndim == 1:
        vectors = vectors[None]
    if vectors.ndim != 2 or not vectors.is_floating_point() or not vectors.numel():
        raise UserError(
            f"{path} holds a {vectors.dtype} tensor of shape {tuple(vectors.shape)}, not "
            "[vectors, width]; give an embedding file."
        )
    if not torch.isfinite(vectors).all():
        raise UserError(f"{path} holds NaN or infinite values; train the embedding again.")
    own = _own_metadata(metadata, path)
    return Adapter(
        vectors.float(), placeholder, own.get("class_word", ""), own.get("provenance", {})
    )


def _own_metadata(metadata: Mapping[str, str], path: Path) -> Mapping[str, Any]:
    """What ``save_embedding`` wrote beside the tensor, or nothing."""
    if _PROVENANCE not in metadata:
        return {}
    try:
        own = json.loads(metadata[_PROVENANCE])
    except ValueError as error:
        raise UserError(f"{path} has broken safezone metadata; export it again.") from error
    return own if isinstance(own, dict) else {}
