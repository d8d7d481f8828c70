"""How alike two images are, pixel by pixel: PSNR and SSIM, per example."""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from safezone.arrays import Images, PerExample

PEAK: Final = 1.0
"""The largest pixel value of images in [0, 1]."""


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


def _gaussian_window(size: int, sigma: float) -> Tensor:
    positions = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weights = torch.exp(-positions.square() / (2 * sigma**2))
    return weights / weights.sum()


def ssim(first: Images, second: Images) -> PerExample:
    """Mean structural similarity (Wang et al. 2004) for images in [0, 1], [batch] in [-1, 1].

    Gaussian window of 11 pixels and sigma 1.5, K1 = 0.01, K2 = 0.03, windows fully inside the
    image only, mean over channels. Raises ValueError for unequal shapes or a side below 11.
    """
    _same_images(first, second)
    window = _gaussian_window(11, 1.5)
    channels = first.shape[1]
    if min(first.shape[-2:]) < len(window):
        raise ValueError(f"structural similarity needs sides of at least {len(window)} pixels")
    rows = window.view(1, 1, -1, 1).repeat(channels, 1, 1, 1)
    columns = window.view(1, 1, 1, -1).repeat(channels, 1, 1, 1)

    def blur(images: Tensor) -> Tensor:
        return functional.conv2d(
            functional.conv2d(images, rows, groups=channels), columns, groups=channels
        )

    x, y = first.double(), second.double()
    mean_x, mean_y = blur(x), blur(y)
    variance_x = blur(x * x) - mean_x**2
    variance_y = blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    ratio = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return ratio.mean(dim=(1, 2, 3)).float()
