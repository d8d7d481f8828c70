"""LoRA files: the names that diffusers and kohya's scripts give to a layer's matrices.

Both name every layer by its path in the diffusers model. diffusers (peft) keeps the dots and writes
``lora_A`` (down) and ``lora_B`` (up); kohya's scripts, AUTOMATIC1111 and ComfyUI join the path by
underscores after ``lora_unet_`` or ``lora_te_`` and write ``lora_down``, ``lora_up`` and ``alpha``,
or ``diff`` for a change in full. SDXL in kohya's names has the blocks of the original U-Net and the
text encoders ``lora_te1_`` and ``lora_te2_``.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

import torch
from torch import Tensor

from safezone.errors import UserError
from safezone.models.deltas import Delta, Full, LowRank

# (down, up) by what the programs have called them over the years.
_PAIRS: Final = (
    (".lora_A.weight", ".lora_B.weight"),
    (".lora.down.weight", ".lora.up.weight"),
    (".lora_down.weight", ".lora_up.weight"),
    ("_lora.down.weight", "_lora.up.weight"),
)
_FULL: Final = ".diff"
_KOHYA: Final = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")


def diffusers_key(layer: str) -> str:
    """The layer's path as diffusers' files have it: text encoders have one more level."""
    return re.sub(r"^(text_encoder(?:_2)?)\.", r"\1.text_model.", layer)


def kohya_key(layer: str, xl: bool) -> str:
    """The layer's name in kohya's files; ``xl``: of a model with two text encoders."""
    part, path = layer.split(".", 1)
    if part != "unet":
        number = "" if not xl else "2" if part == "text_encoder_2" else "1"
        return f"lora_te{number}_text_model_{path.replace('.', '_')}"
    if xl:
        path = _original_blocks(path)
    return f"lora_unet_{path.replace('.', '_')}"


def _original_blocks(path: str) -> str:
    """SDXL's attention blocks by their number in the original U-Net."""
    if match := re.match(r"down_blocks\.(\d+)\.attentions\.(\d+)\.", path):
        block = 3 * int(match[1]) + int(match[2]) + 1
        return f"input_blocks.{block}.1.{path[match.end() :]}"
    if match := re.match(r"up_blocks\.(\d+)\.attentions\.(\d+)\.", path):
        return f"output_blocks.{3 * int(match[1]) + int(match[2])}.1.{path[match.end() :]}"
    return path.replace("mid_block.attentions.0.", "middle_block.1.", 1)


def diffusers_lora(deltas: Mapping[str, LowRank]) -> dict[str, Tensor]:
    """The tensors of ``pytorch_lora_weights.safetensors``; the scale is taken into the up matrix,
    since diffusers takes alpha to be the rank."""
    tensors = {}
    for layer, delta in deltas.items():
        key = diffusers_key(layer)
        tensors[f"{key}.lora_A.weight"] = delta.down
        tensors[f"{key}.lora_B.weight"] = delta.scale * delta.up
    return tensors


def kohya_lora(deltas: Mapping[str, Delta], xl: bool) -> dict[str, Tensor]:
    """The tensors of a LoRA in kohya's names; changes in full are ``diff``."""
    tensors = {}
    for layer, delta in deltas.items():
        key = kohya_key(layer, xl)
        if isinstance(delta, Full):
            tensors[f"{key}.diff"] = delta.change
            continue
        tensors[f"{key}.lora_down.weight"] = delta.down
        tensors[f"{key}.lora_up.weight"] = delta.up
        tensors[f"{key}.alpha"] = torch.tensor(delta.scale * len(delta.down))
    return tensors


def is_lora(names: Iterable[str]) -> bool:
    """Whether a file with tensors of these names changes layers."""
    ends = (_FULL, *(end for pair in _PAIRS for end in pair))
    return any(name.endswith(ends) for name in names)


def read_deltas(
    tensors: Mapping[str, Tensor], layers: Iterable[str] | None, path: object
) -> dict[str, Delta]:
    """The changes in a file of diffusers or kohya by the names of ``Model.layers``.

    ``layers``: those of the model, which kohya's names need; None reads diffusers' names only.
    Raises UserError for layers that the model does not have, matrices without their pair, and
    kinds of changes that are not known.
    """
    known = _names(layers)
    left = dict(tensors)
    deltas: dict[str, Delta] = {}
    for name in tensors:
        if name.endswith(_FULL):
            layer = _layer(name.removesuffix(_FULL), known, path)
            deltas[layer] = Full(_matrix(left.pop(name), name, path))
        for down_end, up_end in _PAIRS:
            if not name.endswith(down_end):
                continue
            stem = name.removesuffix(down_end)
            down, up = left.pop(name), left.pop(f"{stem}{up_end}", None)
            if up is None:
                raise UserError(f"{path} has {name} but no {stem}{up_end}; export it again.")
            alpha = left.pop(f"{stem}.alpha", None)
            down, up = _matrix(down, name, path), _matrix(up, name, path)
            scale = 1.0 if alpha is None else float(alpha) / len(down)
            deltas[_layer(stem, known, path)] = LowRank(down, up, scale)
            break
    if left:
        raise UserError(
            f"{path} has {min(left)}, which is no part of a plain LoRA; give a LoRA without "
            "extensions (LoCon, DoRA and the like)."
        )
    return deltas


def _names(layers: Iterable[str] | None) -> dict[str, str] | None:
    """Every name by which a file may call the model's layers."""
    if layers is None:
        return None
    names = list(layers)
    xl = any(name.startswith("text_encoder_2.") for name in names)
    known = {name: name for name in names}
    known |= {diffusers_key(name): name for name in names}
    known |= {kohya_key(name, xl): name for name in names}
    # Older scripts named SDXL's blocks as diffusers does.
    known |= {f"lora_unet_{n[5:].replace('.', '_')}": n for n in names if n.startswith("unet.")}
    return known


def _layer(stem: str, known: Mapping[str, str] | None, path: object) -> str:
    # diffusers' first LoRA files name the attention's processor.
    stem = re.sub(r"to_out$", "to_out.0", stem.replace(".processor.", "."))
    if known is not None:
        if stem not in known:
            raise UserError(
                f"{path} changes {stem}, which the model does not have; use it with the kind of "
                "model it was trained on."
            )
        return known[stem]
    if stem.startswith(_KOHYA):
        raise UserError(f"{path} has kohya's names, which only a model explains; give the model.")
    return stem.replace(".text_model.", ".", 1)


def _matrix(tensor: Tensor, name: str, path: object) -> Tensor:
    """float32 [a, b], also of a 1 x 1 convolution; UserError for others and for NaN."""
    if tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        tensor = tensor[:, :, 0, 0]
    if tensor.ndim != 2 or not tensor.is_floating_point():
        raise UserError(
            f"{path} has {name} of shape {tuple(tensor.shape)}; only changes of linear layers and "
            "1 x 1 convolutions are supported."
        )
    if not torch.isfinite(tensor).all():
        raise UserError(f"{path} holds NaN or infinite values in {name}; train it again.")
    return tensor.float().contiguous()
