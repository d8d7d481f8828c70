"""What a model computes in: the type of its weights, and how a GPU multiplies float32."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

import torch

Precision: TypeAlias = Literal["float32", "float32-exact", "bfloat16", "float16"]
"""``float32`` multiplies in TF32 on GPUs (10 bits of mantissa, sums in float32), several times
faster; ``float32-exact`` does not. On a CPU both are the same."""

LongPrompts: TypeAlias = Literal["cut", "chunks"]
"""Prompts longer than the text encoder lose their end, or are encoded in chunks of 75 tokens."""

DTYPES: Final[Mapping[str, torch.dtype]] = MappingProxyType(
    {
        "float32": torch.float32,
        "float32-exact": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }
)


def set_precision(precision: Precision, device: torch.device) -> str:
    """Turns TF32 on or off in this process, for all that runs on GPUs; what computing is now in.

    Nothing changes for a CPU.
    """
    name = str(DTYPES[precision]).removeprefix("torch.")
    if device.type != "cuda":
        return name
    fast = precision != "float32-exact"
    torch.backends.cuda.matmul.allow_tf32 = fast
    torch.backends.cudnn.allow_tf32 = fast
    return f"{name} with TF32" if precision == "float32" else name
