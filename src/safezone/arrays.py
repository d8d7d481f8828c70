"""Shape aliases and named random streams.

Conventions of the whole package: images are float32 in [0, 1], shape [batch, 3, height, width];
masks are bool, shape [batch, height, width]; latents are scaled as the model's U-Net sees them,
shape [batch, channels, height / f, width / f].
"""

import hashlib
from collections.abc import Sequence
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int, Real, UInt8
from torch import Tensor

Images: TypeAlias = Float[Tensor, "batch 3 height width"]
Pixels: TypeAlias = UInt8[Tensor, "batch 3 height width"]
Masks: TypeAlias = Bool[Tensor, "batch height width"]
Latents: TypeAlias = Float[Tensor, "batch channels latent_height latent_width"]
Timesteps: TypeAlias = Int[Tensor, " batch"]
Times: TypeAlias = Real[Tensor, " batch"]
"""What a network is told: with flows and some samplers it lies between whole timesteps."""
PerExample: TypeAlias = Float[Tensor, " batch"]


def stream_seed(*names: str | int) -> int:
    """A 63-bit seed that depends on the names alone; the same on every machine."""
    whole = hashlib.sha256("\x1f".join(map(str, names)).encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(whole[:8], "little") >> 1


def stream(*names: str | int) -> torch.Generator:
    """A CPU generator for one named purpose, e.g. ``stream(seed, "poison", image_name)``.

    Two streams with different names are independent; nothing draws from the global state.
    """
    return torch.Generator().manual_seed(stream_seed(*names))


def randn(generators: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Standard normal float32 [len(generators), *shape]: row i is drawn from generator i alone."""
    return torch.stack([torch.randn(tuple(shape), generator=g) for g in generators])


def rand(generators: Sequence[torch.Generator], shape: Sequence[int] = ()) -> Tensor:
    """Uniform [0, 1) float32 [len(generators), *shape]: row i is drawn from generator i alone."""
    return torch.stack([torch.rand(tuple(shape), generator=g) for g in generators])
