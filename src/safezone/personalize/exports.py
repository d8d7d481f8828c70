"""Adapters as other programs read them, and the loss where a format cannot hold all."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from safezone.errors import UserError
from safezone.models.deltas import Delta, Full, LowRank
from safezone.personalize.adapters import Adapter
from safezone.personalize.files import EMB_PARAMS, EMBEDDING, LORA, embedding_tensors, write_tensors
from safezone.personalize.layer_names import is_xl
from safezone.personalize.lora_files import diffusers_lora, kohya_lora

FORMATS: Final = ("diffusers", "kohya")
"""diffusers' names; those of kohya's scripts, which AUTOMATIC1111 and ComfyUI read as well."""


_VERSIONS: Final = {768: "sd_v1", 1024: "sd_v2"}
"""kohya's names of models by the width of their text encoder's output."""
_XL: Final = "sdxl_base_v1-0"


@dataclass(frozen=True)
class Exported:
    """What was written, and what its user must know.

    ``error``: how far the written changes are from the learned ones, relative, in the Frobenius
    norm over all layers; None where they are the same. ``words``: what stands for the concept in
    the other program's prompts. ``limits``: sentences about programs that do not read all of it.
    """

    files: tuple[Path, ...]
    error: float | None
    words: str
    limits: tuple[str, ...] = ()


def prompt_name(name: str) -> str:
    """The name without what cannot be written in a prompt: spaces, commas, brackets, colons."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "concept"


def require_form(adapter: Adapter, form: str, rank: int | None) -> None:
    """Raises UserError for an unknown form and for changes that the form cannot hold."""
    if form not in FORMATS:
        raise UserError(f"there is no file format {form!r}; choose one of: {', '.join(FORMATS)}")
    whole = any(isinstance(each, Full) for each in adapter.deltas.values())
    if whole and form == "diffusers" and rank is None:
        raise UserError(
            "diffusers' LoRA files hold no changes in full, as Custom Diffusion makes them; give a "
            "rank, such as 64, to write the nearest changes of that rank."
        )


def export_adapter(
    adapter: Adapter, folder: Path, name: str, form: str, *, rank: int | None = None
) -> Exported:
    """Writes the adapter for other programs; ``form``: one of ``FORMATS``.

    diffusers: ``learned_embeds.safetensors`` and ``pytorch_lora_weights.safetensors``. kohya:
    ``<name>.safetensors``, and ``<name>-lora.safetensors`` where there are both, the name as
    ``prompt_name`` has it; in AUTOMATIC1111 and ComfyUI it is then the word for the prompt.
    ``rank``: changes in full (Custom Diffusion) become the nearest changes of that rank, by
    singular values; None writes them whole where the format can (kohya's ``diff``).

    Raises UserError as ``require_form`` does, with nothing written.
    """
    require_form(adapter, form, rank)
    deltas, error = dict(adapter.deltas), None
    if rank is not None:
        deltas, error = low_rank(deltas, rank)
    whole = any(isinstance(each, Full) for each in deltas.values())
    name, xl = prompt_name(name), len(adapter.widths) > 1 or is_xl(adapter.deltas)
    words, key, limits = adapter.words, "", []
    embedding, lora = folder / EMBEDDING, folder / LORA
    if form == "kohya":
        embedding, key = folder / f"{name}.safetensors", EMB_PARAMS
        lora = folder / f"{name}{'-lora' if len(adapter.vectors) else ''}.safetensors"
        if len(adapter.vectors):
            words = words.replace(adapter.placeholder, name)
            limits.append(f"ComfyUI's prompts call it embedding:{name}")
        if whole:
            limits.append("kohya's scripts read no whole changes: give a rank for them")
    elif len(adapter.vectors) and xl:
        limits.append(
            "load_textual_inversion reads no SDXL embeddings: use "
            "safezone.personalize.load_into_pipeline"
        )
    files = []
    if len(adapter.vectors):
        write_tensors(embedding, embedding_tensors(adapter, key), replace(adapter, deltas={}))
        files.append(embedding)
    if deltas:
        changes = replace(adapter, deltas=deltas, vectors=adapter.vectors[:0])
        if form == "diffusers":
            write_tensors(lora, diffusers_lora(deltas, adapter.convolutions), changes)
        else:
            tensors = kohya_lora(deltas, xl, adapter.convolutions)
            write_tensors(lora, tensors, changes, _kohya_metadata(deltas, xl))
        files.append(lora)
    return Exported(tuple(files), error, words, tuple(limits))


def other_width(adapter: Adapter) -> int:
    """The width of its text encoder where no Stable Diffusion has it, as of the built-in models.

    0 where one has it, and where nothing tells.
    """
    if len(adapter.widths) > 1 or is_xl(adapter.deltas):
        return 0
    width = adapter.vectors.shape[1] if len(adapter.vectors) else _text_width(adapter.deltas)
    return 0 if width in _VERSIONS else width


def _text_width(deltas: Mapping[str, Delta]) -> int:
    """The width of the text encoder's output; 0 where no layer tells it."""
    widths = {
        delta.shape[1]
        for name, delta in deltas.items()
        if re.search(r"attn2\.to_[kv]$|^text_encoder\..*[qkv]_proj$", name)
    }
    return max(widths, default=0)


def _kohya_metadata(deltas: Mapping[str, Delta], xl: bool) -> dict[str, str]:
    """What AUTOMATIC1111 sorts LoRAs by; nothing where no layer tells the kind of model."""
    version = _XL if xl else _VERSIONS.get(_text_width(deltas))
    if version is None:
        return {}
    return {"ss_base_model_version": version, "ss_v2": str(version == "sd_v2")}


def low_rank(deltas: Mapping[str, Delta], rank: int) -> tuple[dict[str, Delta], float | None]:
    """Changes in full as the nearest ones of this rank (Eckart & Young), and the relative error.

    The error is None when nothing was in full. Raises UserError for a rank below 1.
    """
    if rank < 1:
        raise UserError(f"rank is {rank}; give at least 1.")
    result: dict[str, Delta] = {}
    lost = total = 0.0
    for name, delta in deltas.items():
        if not isinstance(delta, Full):
            result[name] = delta
            continue
        u, s, v = torch.linalg.svd(delta.change.double(), full_matrices=False)
        most = min(rank, len(s))
        root = s[:most].sqrt()
        result[name] = LowRank((root[:, None] * v[:most]).float(), (u[:, :most] * root).float())
        lost += float(s[most:].square().sum())
        total += float(s.square().sum())
    error: float | None = None
    if any(isinstance(each, Full) for each in deltas.values()):
        error = (lost / total) ** 0.5 if total else 0.0
    return result, error


def load_into_pipeline(pipeline: Any, adapter: Adapter) -> None:
    """Puts an adapter into a stock Stable Diffusion (XL) pipeline of diffusers, in one call.

    Token vectors become new tokens of every text encoder, under the placeholder; low-rank changes
    are loaded as a LoRA; changes in full are added to the weights of the U-Net, which diffusers
    cannot load itself. Prompts then need ``adapter.words``. Raises UserError when the pipeline has
    another number of text encoders than the adapter has kinds of vectors.
    """
    if len(adapter.vectors):
        encoders = [(pipeline.text_encoder, pipeline.tokenizer)]
        if getattr(pipeline, "text_encoder_2", None) is not None:
            encoders.append((pipeline.text_encoder_2, pipeline.tokenizer_2))
        widths = adapter.widths or (adapter.vectors.shape[1],)
        if len(widths) != len(encoders):
            raise UserError(
                f"The adapter {adapter.placeholder} is for {len(widths)} text encoders and the "
                f"pipeline has {len(encoders)}; use it with the kind of model it was trained on."
            )
        parts = adapter.vectors.split(widths, dim=1)
        for (encoder, tokenizer), vectors in zip(encoders, parts, strict=True):
            pipeline.load_textual_inversion(
                {adapter.placeholder: vectors},
                token=adapter.placeholder,
                text_encoder=encoder,
                tokenizer=tokenizer,
            )
    if tensors := diffusers_lora(adapter.deltas, adapter.convolutions):
        pipeline.load_lora_weights(tensors)
    for name, delta in adapter.deltas.items():
        if isinstance(delta, Full):
            _add(pipeline, name, delta.change)


@torch.no_grad()
def _add(pipeline: Any, name: str, change: Tensor) -> None:
    part, path = name.split(".", 1)
    module = getattr(pipeline, part)
    weight = getattr(module, "text_model", module).get_submodule(path).weight
    weight += change.to(weight).view_as(weight)
