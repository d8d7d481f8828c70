"""Adapters as other programs read them, and the loss where a format cannot hold all."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from safezone.errors import UserError
from safezone.models.deltas import Delta, Full, LowRank
from safezone.personalize.adapters import Adapter
from safezone.personalize.embedding_files import embedding_tensors
from safezone.personalize.files import EMBEDDING, LORA, write_tensors
from safezone.personalize.lora_files import diffusers_lora, kohya_lora

FORMATS: Final = ("diffusers", "kohya")
"""diffusers' names; those of kohya's scripts, which AUTOMATIC1111 and ComfyUI read as well."""


@dataclass(frozen=True)
class Exported:
    """``error``: how far the written changes are from the learned ones, relative, in the Frobenius
    norm over all layers; None where they are the same."""

    files: tuple[Path, ...]
    error: float | None


def export_adapter(
    adapter: Adapter, folder: Path, name: str, form: str, *, rank: int | None = None
) -> Exported:
    """Writes the adapter for other programs; ``form``: one of ``FORMATS``.

    diffusers: ``learned_embeds.safetensors`` and ``pytorch_lora_weights.safetensors``. kohya:
    ``<name>.safetensors``, and ``<name>-lora.safetensors`` where there are both; in AUTOMATIC1111
    and ComfyUI the file's name is then the word for the prompt. ``rank``: changes in full (Custom
    Diffusion) become the nearest changes of that rank, by singular values, and the error is told;
    None writes them whole where the format can (kohya's ``diff``) and raises UserError where not.
    """
    if form not in FORMATS:
        raise UserError(f"there is no file format {form!r}; choose one of: {', '.join(FORMATS)}")
    deltas, error = dict(adapter.deltas), None
    if rank is not None:
        deltas, error = low_rank(deltas, rank)
    files = []
    if len(adapter.vectors):
        path = folder / (EMBEDDING if form == "diffusers" else f"{name}.safetensors")
        write_tensors(path, embedding_tensors(adapter), replace(adapter, deltas={}))
        files.append(path)
    if deltas:
        written = replace(adapter, deltas=deltas)
        if form == "diffusers":
            path, tensors = folder / LORA, diffusers_lora(_all_low_rank(deltas))
        else:
            path = folder / f"{name}{'-lora' if files else ''}.safetensors"
            tensors = kohya_lora(deltas, xl=len(adapter.widths) > 1)
        write_tensors(path, tensors, replace(written, vectors=adapter.vectors[:0]))
        files.append(path)
    return Exported(tuple(files), error)


def _all_low_rank(deltas: Mapping[str, Delta]) -> dict[str, LowRank]:
    found = {name: each for name, each in deltas.items() if isinstance(each, LowRank)}
    if len(found) < len(deltas):
        raise UserError(
            "diffusers' LoRA files hold no changes in full, as Custom Diffusion makes them; give a "
            "rank, such as 64, to write the nearest changes of that rank."
        )
    return found


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
        kept = min(rank, len(s))
        root = s[:kept].sqrt()
        result[name] = LowRank((root[:, None] * v[:kept]).float(), (u[:, :kept] * root).float())
        lost += float(s[kept:].square().sum())
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
    low = {name: each for name, each in adapter.deltas.items() if isinstance(each, LowRank)}
    if low:
        pipeline.load_lora_weights(diffusers_lora(low))
    for name, delta in adapter.deltas.items():
        if isinstance(delta, Full):
            _add(pipeline, name, delta.change)


@torch.no_grad()
def _add(pipeline: Any, name: str, change: Tensor) -> None:
    part, path = name.split(".", 1)
    module = getattr(pipeline, part)
    weight = getattr(module, "text_model", module).get_submodule(path).weight
    weight += change.to(weight).view_as(weight)
