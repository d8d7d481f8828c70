"""A perturbation that looks like a natural image's detail: blurred region by region."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from safezone.arrays import Images
from safezone.errors import UserError


@dataclass(frozen=True)
class NaturalSpectrum:
    """Blurs the perturbation of each region until its spectrum falls as the clean region's does
    (after BlurGuard, 2511.00143).

    ``regions``: tiles along a side. ``sigmas``: the Gaussian blurs to choose from, standard
    deviations in pixels, from weak to strong. A tile gets the weakest blur with which white noise
    has no larger share of its power above an eighth of the sampling rate than the tile's own grey
    levels have (their mean and a Hann window's leakage left out), or the strongest. Tiles blend
    into each other. Blurs average, so that an l-infinity budget stays kept. BlurGuard takes the
    regions from a segmentation and fits each blur; this one needs no network. Raises UserError for
    settings out of range.
    """

    regions: int = 4
    sigmas: tuple[float, ...] = (0.0, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)

    def __post_init__(self) -> None:
        if self.regions < 1 or not self.sigmas or list(self.sigmas) != sorted(set(self.sigmas)):
            raise UserError("The noise is shaped in at least 1 region, with blurs that grow.")
        if self.sigmas[0] < 0:
            raise UserError(f"The blur {self.sigmas[0]} is negative; give 0 or more pixels.")

    def fit(self, clean: Images) -> Callable[[Tensor], Tensor]:
        """The linear map of perturbations, [batch, 3, height, width], of these clean images."""
        choice = functional.one_hot(self.choose(clean), len(self.sigmas)).to(clean)
        weights = functional.interpolate(
            choice.permute(0, 3, 1, 2), clean.shape[-2:], mode="bilinear", align_corners=False
        )  # [batch, sigmas, height, width], of sum 1

        def shape(delta: Tensor) -> Tensor:
            blurred = torch.stack([_blur(delta, sigma) for sigma in self.sigmas], dim=1)
            return (blurred * weights[:, :, None]).sum(dim=1)

        return shape

    def choose(self, clean: Images) -> Tensor:
        """Which of ``sigmas`` each tile gets, int64 [batch, regions, regions]."""
        tiles = _tiles(clean.mean(dim=1), self.regions)  # [batch, regions, regions, h, w]
        height, width = tiles.shape[-2:]
        frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width))
        frequency = frequency.to(clean)  # of each cell of a Fourier transform, in cycles a pixel
        rise, run = (torch.hann_window(n + 2, periodic=False)[1:-1] for n in (height, width))
        window = (rise[:, None] * run).to(clean)
        detail = (tiles - tiles.mean(dim=(-2, -1), keepdim=True)) * window
        own = _high_share(torch.fft.fft2(detail).abs().square(), frequency)
        blurs = torch.tensor(self.sigmas).to(clean)[:, None, None]
        noise = _high_share(torch.exp(-((2 * torch.pi * blurs * frequency) ** 2)), frequency)
        low_enough = noise <= own[..., None]  # [batch, regions, regions, sigmas]
        low_enough[..., -1] = True
        return low_enough.to(torch.int8).argmax(dim=-1)


_HIGH = 1 / 8
"""The frequency, in cycles a pixel, above which power counts as high."""


def _blur(values: Tensor, sigma: float) -> Tensor:
    from kornia.filters import gaussian_blur2d  # takes a second to import

    if sigma == 0:
        return values
    reach = min(2 * round(3 * sigma) + 1, 2 * (min(values.shape[-2:]) - 1) + 1)
    blurred: Tensor = gaussian_blur2d(values, reach, (sigma, sigma))
    return blurred


def _tiles(grey: Tensor, regions: int) -> Tensor:
    """[batch, h, w] to [batch, regions, regions, h / regions, w / regions], the rest cut off."""
    height, width = (side // regions for side in grey.shape[-2:])
    if min(height, width) < 4:
        raise UserError(f"{regions} regions along a side are too many for this image; give fewer.")
    cut = grey[:, : height * regions, : width * regions].contiguous()
    return cut.view(len(cut), regions, height, regions, width).transpose(2, 3)


def _high_share(power: Tensor, frequency: Tensor) -> Tensor:
    """What share of the power, [..., height, width], lies above ``_HIGH``; the mean left out."""
    total = (power * (frequency > 0)).sum(dim=(-2, -1))
    high = (power * (frequency > _HIGH)).sum(dim=(-2, -1))
    return high / total.clamp_min(torch.finfo(power.dtype).tiny)
