"""How visible a poison is."""

import torch
from jaxtyping import UInt8
from torch import Tensor

from safezone.arrays import PerExample
from safezone.image_metrics import psnr, ssim
from safezone.images import to_float


def imperceptibility(
    clean: UInt8[Tensor, "batch 3 height width"], poisoned: UInt8[Tensor, "batch 3 height width"]
) -> dict[str, PerExample]:
    """How visible a poison is, per image: a (batch,) of values under each name.

    "psnr" in dB, infinite for equal images; "ssim" in [-1, 1]; "linf": the largest change, pixels
    in [0, 1]; "share_at_bound": the share of values changed by just that much (0 for equal
    images), which is the bound of an l-infinity budget once the poison uses it. Raises ValueError
    for unequal shapes and sides below 11 pixels.
    """
    before, after = to_float(clean), to_float(poisoned)
    levels = (poisoned.to(torch.int16) - clean.to(torch.int16)).flatten(1).abs()
    largest = levels.amax(dim=1)
    at_bound = (levels == largest[:, None]) & (levels > 0)
    return {
        "psnr": psnr(before, after),
        "ssim": ssim(before, after),
        "linf": largest / 255,
        "share_at_bound": at_bound.to(torch.float32).mean(dim=1),
    }
