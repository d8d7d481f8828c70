"""Where the U-Net's cross-attention looks for each token, recorded beside an unchanged pass."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class AttentionRecord:
    """What one pass has attended to. ``layers``: [batch, length, h, w] each, means over heads."""

    layers: list[Float[Tensor, "batch length h w"]] = field(default_factory=list)

    def maps(self, size: int) -> Float[Tensor, "batch length size size"]:
        """The mean over layers, each brought to ``size`` cells a side (bilinear).

        At every cell the tokens' shares sum to 1. Raises ValueError when nothing was recorded, or
        more than one batch size.
        """
        if not self.layers or len({len(layer) for layer in self.layers}) != 1:
            raise ValueError("record one pass before asking for its maps")
        resized = [
            functional.interpolate(layer, (size, size), mode="bilinear", align_corners=False)
            for layer in self.layers
        ]
        return torch.stack(resized).mean(dim=0)


@contextmanager
def record_cross_attention(unet: Any) -> Iterator[AttentionRecord]:
    """Records every cross-attention of a diffusers U-Net while the block runs.

    Queries and keys are computed a second time, so the pass itself is the same to the bit. For
    square latents. Raises ValueError for a U-Net without cross-attention.
    """
    record = AttentionRecord()
    layers = [m for name, m in unet.named_modules() if name.endswith("attn2")]
    if not layers:
        raise ValueError("this U-Net has no cross-attention")

    def watch(layer: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        context = named.get("encoder_hidden_states")
        if context is not None:
            record.layers.append(_shares(layer, inputs[0], context))

    handles = [layer.register_forward_pre_hook(watch, with_kwargs=True) for layer in layers]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _shares(layer: Any, hidden: Tensor, context: Tensor) -> Float[Tensor, "batch length h w"]:
    """softmax(Q K^T / sqrt(d)) of one layer, averaged over its heads."""
    if layer.norm_cross:
        context = layer.norm_encoder_hidden_states(context)
    query = layer.head_to_batch_dim(layer.to_q(hidden))
    key = layer.head_to_batch_dim(layer.to_k(context))
    scores = layer.get_attention_scores(query, key).float()  # [batch x heads, cells, length]
    batch, cells = hidden.shape[:2]
    side = math.isqrt(cells)
    mean: Tensor = scores.view(batch, -1, cells, scores.shape[-1]).mean(
        dim=1
    )  # [batch, cells, length]
    return mean.transpose(1, 2).reshape(batch, -1, side, side)
