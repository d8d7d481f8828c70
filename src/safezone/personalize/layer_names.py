"""What other programs call the layers of a Stable Diffusion model.

We name a layer by its part and its path in the diffusers model. diffusers adds ``text_model`` to
the paths of text encoders. kohya's scripts join the path by underscores after ``lora_unet_`` or
``lora_te_``; of SDXL they take the original U-Net's blocks, and ``lora_te1_``, ``lora_te2_``.
ComfyUI's own files have the original U-Net's path after ``diffusion_model.``; peft's folders have
the path alone.
"""

import re
from collections.abc import Iterable
from typing import Final

_BLOCKS: Final = (("down_blocks", "input_blocks", 1), ("up_blocks", "output_blocks", 0))
"""Ours, the original's, and its number of the first layer; every block counts as three."""
_EMBEDDINGS: Final = (
    ("time_embedding.linear_", "time_embed."),
    ("add_embedding.linear_", "label_emb.0."),
)
_RESNETS: Final = {"time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
_COMFY_ENCODERS: Final = {"text_encoder": ("clip_l", "clip_h"), "text_encoder_2": ("clip_g",)}


def diffusers_key(layer: str) -> str:
    """The layer's name in diffusers' files."""
    return re.sub(r"^(text_encoder(?:_2)?)\.", r"\1.text_model.", layer)


def kohya_key(layer: str, xl: bool) -> str:
    """The layer's name in kohya's files; ``xl``: of a model with two text encoders."""
    part, path = layer.split(".", 1)
    if part != "unet":
        number = "" if not xl else "2" if part == "text_encoder_2" else "1"
        return f"lora_te{number}_text_model_{path.replace('.', '_')}"
    return f"lora_unet_{(original_path(path) if xl else path).replace('.', '_')}"


def original_path(path: str) -> str:
    """A layer's path in the original U-Net, from its path in that of diffusers."""
    for before, after in _EMBEDDINGS:
        if path.startswith(before):
            return f"{after}{2 * (int(path[len(before) :]) - 1)}"
    if match := re.match(r"mid_block\.(attentions|resnets)\.(\d+)\.(.+)", path):
        block = "1" if match[1] == "attentions" else str(2 * int(match[2]))
        return f"middle_block.{block}.{_RESNETS.get(match[3], match[3])}"
    for ours, original, first in _BLOCKS:
        if match := re.match(rf"{ours}\.(\d+)\.(attentions|resnets)\.(\d+)\.(.+)", path):
            block = f"{original}.{3 * int(match[1]) + int(match[3]) + first}"
            return f"{block}.{int(match[2] == 'attentions')}.{_RESNETS.get(match[4], match[4])}"
    return path


def names_of(layers: Iterable[str]) -> dict[str, str]:
    """Every name by which a file may call the model's layers, to ours."""
    ours = list(layers)
    xl = is_xl(ours)
    known: dict[str, str] = {}
    for name in ours:
        part, path = name.split(".", 1)
        others = [name, diffusers_key(name), kohya_key(name, xl)]
        if part == "unet":
            original = original_path(path)
            others += [path, f"diffusion_model.{original}"]
            # ComfyUI takes the original's names for all models, older scripts diffusers' for SDXL.
            others += [f"lora_unet_{each.replace('.', '_')}" for each in (original, path)]
        else:
            others += [
                f"text_encoders.{encoder}.transformer.text_model.{path}"
                for encoder in _COMFY_ENCODERS[part]
            ]
        known |= dict.fromkeys(others, name)
    return known


def is_xl(layers: Iterable[str]) -> bool:
    """Whether the names are of SDXL: two text encoders, or attention of more than one block."""
    return any(
        re.match(r"text_encoder_2\.|unet\..*transformer_blocks\.[1-9]", name) for name in layers
    )
