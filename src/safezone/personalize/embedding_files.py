"""Learned token vectors as the tensors that other programs read."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from safezone.errors import UserError
from safezone.models.base import Model
from safezone.personalize.adapters import Adapter
from safezone.personalize.lora_files import finite_tensor

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
