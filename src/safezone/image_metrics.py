"""How alike two images are, pixel by pixel: PSNR and SSIM, per example."""

from typing import Final

import torch
from torch import Tensor

from safezone.arrays import Images, PerExample

PEAK: Final = 1.0
"""The largest pixel value of images in [0, 1]."""
WINDOW: Final = 11
"""Pixels along a side of SSIM's window."""


def _same_images(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape or first.ndim != 4:
        raise ValueError(f"images of shapes {tuple(first.shape)} and {tuple(second.shape)}")
    if not (first.is_floating_point() and second.is_floating_point()):
        raise ValueError("images are float in [0, 1]")


def psnr(first: Images, second: Images) -> PerExample:
    """10 log10(1 / MSE) in dB for images in [0, 1], [batch]; infinite for equal images.

    Raises ValueError for unequal shapes or integer images.
    """
    _same_images(first, second)
    error = (first.double() - second.double()).square().mean(dim=(1, 2, 3))
    return (10 * torch.log10(PEAK**2 / error)).float()


def ssim(first: Images, second: Images) -> PerExample:
    """Mean structural similarity (Wang et al. 2004) for images in [0, 1], [batch] in [-1, 1].

    Gaussian window of 11 pixels and sigma 1.5, K1 = 0.01, K2 = 0.03, windows fully inside the
    image only, mean over channels, float64 inside (kornia). Raises ValueError for unequal shapes or
    a side below 11.
    """
    from kornia.metrics import ssim as local  # takes a second to import

    _same_images(first, second)
    if min(first.shape[-2:]) < WINDOW:
        raise ValueError(f"structural similarity needs sides of at least {WINDOW} pixels")
    values = local(first.double(), second.double(), WINDOW, max_val=PEAK, padding="valid")
    return values.mean(dim=(1, 2, 3)).float()
