"""What a model computes in: the type of its weights, and how a GPU multiplies float32."""

from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:  # the command line needs the names alone, at once
    import torch

Precision: TypeAlias = Literal["float32", "float32-exact", "bfloat16", "float16"]
"""``float32`` multiplies in TF32 on GPUs (10 bits of mantissa, sums in float32), several times
faster; ``float32-exact`` does not. On a CPU both are the same."""

LongPrompts: TypeAlias = Literal["cut", "chunks"]
"""Prompts longer than the text encoder lose their end, or are encoded in chunks of 75 tokens."""


def dtype_of(precision: Precision) -> "torch.dtype":
    """The type of the weights."""
    import torch

    dtype: torch.dtype = getattr(torch, precision.removesuffix("-exact"))
    return dtype


def set_precision(precision: Precision, device: "torch.device") -> str:
    """Turns TF32 on or off in this process, for all that runs on GPUs; what computing is now in.

    Nothing changes for a CPU.
    """
    import torch

    name = str(dtype_of(precision)).removeprefix("torch.")
    if device.type != "cuda":
        return name
    fast = precision != "float32-exact"
    torch.backends.cuda.matmul.allow_tf32 = fast
    torch.backends.cudnn.allow_tf32 = fast
    return f"{name} with TF32" if precision == "float32" else name
