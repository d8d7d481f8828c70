"""What a poison does to pixels and frequencies: histograms, bimodality, radial power spectra.

Of arrays, and the pairs of a clean and a changed image from two folders, of any size.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import linear_sum_assignment
from scipy.signal import find_peaks
from torch import Tensor
from torch.nn import functional as F

from safezone.concepts import image_files
from safezone.errors import Notice, UserError
from safezone.images import read_image, to_square

_ALIKE: Final = 20.0
"""Levels of 255 by which the 8 x 8 thumbnails of one image may differ: more than poisons, filters
and purifiers change them, less than other pictures do."""
LEVELS: Final = 255
"""Differences of 8-bit images lie in -255 .. 255; a histogram has one bin for each."""


def levels() -> Float[Tensor, " bins"]:
    """float64 [511]: the differences -255 .. 255, in levels (1/255 of the pixel range)."""
    return torch.arange(-LEVELS, LEVELS + 1, dtype=torch.float64)


def perturbation_counts(
    clean: UInt8[Tensor, "*shape"], changed: UInt8[Tensor, "*shape"]
) -> Int[Tensor, "511"]:
    """int64 [511]: how many values differ by -255 .. 255 levels (figures 7 and 12).

    ``clean``, ``changed``: uint8 of one shape; channels count alike. Raises ValueError otherwise.
    """
    if clean.dtype != torch.uint8 or changed.dtype != torch.uint8 or clean.shape != changed.shape:
        raise ValueError(f"{clean.dtype} {tuple(clean.shape)}, {changed.dtype} {changed.shape}")
    differences = changed.flatten().long() - clean.flatten().long()
    return torch.bincount(differences + LEVELS, minlength=2 * LEVELS + 1)


def bimodality(values: Float[Tensor, " n"], counts: Tensor | None = None) -> float:
    """Sarle's bimodality coefficient (g^2 + 1) / (k + 3 (n - 1)^2 / ((n - 2)(n - 3))).

    g and k: the sample's skewness and excess kurtosis with their usual corrections. 1/3 for a
    Gaussian, 5/9 for a uniform distribution, 1 for two points alike. ``counts``: how often each
    value occurs, by default once. NaN for fewer than four values or values that are all equal.
    Not a test: a skewed distribution with one mode can lie above 5/9.
    """
    weights = torch.ones_like(values) if counts is None else counts
    values, weights = values.double(), weights.double()
    n = float(weights.sum())
    if n < 4:
        return math.nan
    centred = values - (weights * values).sum() / n
    second, third, fourth = (float((weights * centred**p).sum()) / n for p in (2, 3, 4))
    if second <= 0:
        return math.nan
    skewness = math.sqrt(n * (n - 1)) / (n - 2) * third / second**1.5
    excess = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * (fourth / second**2 - 3) + 6)
    return float((skewness**2 + 1) / (excess + 3 * (n - 1) ** 2 / ((n - 2) * (n - 3))))


class Modes(NamedTuple):
    """The two highest modes of a smoothed histogram, or the only one.

    ``places``: in levels, ascending. ``valley``: the lowest height between two modes over the
    lower one's height, in [0, 1]; 1 for a single mode.
    """

    places: tuple[float, ...]
    valley: float


def modes(counts: Int[Tensor, " bins"], width: float = 2.0) -> Modes:
    """The modes of the differences -255 .. 255, smoothed by a Gaussian of ``width`` levels.

    Unlike Sarle's coefficient this does not see the tails: two modes stay two, however far a few
    values lie. A second mode must stand out of what is around it by 2% of the first one's height.
    Raises ValueError for an empty histogram.
    """
    if int(counts.sum()) == 0:
        raise ValueError("the histogram is empty")
    heights: Any = gaussian_filter1d(counts.double().numpy(), width, mode="constant")
    heights = heights / heights.max()
    peaks, properties = find_peaks(heights, prominence=0.02)
    first = int(heights.argmax())
    others = sorted(
        (-prominence, int(peak))
        for peak, prominence in zip(peaks, properties["prominences"], strict=True)
        if int(peak) != first
    )
    if not others:
        return Modes((float(first - LEVELS),), 1.0)
    low, high = sorted((first, others[0][1]))
    valley = heights[low : high + 1].min() / min(heights[low], heights[high])
    return Modes((float(low - LEVELS), float(high - LEVELS)), float(valley))


def share_at_limit(counts: Int[Tensor, " bins"], limit: int) -> float:
    """The share of values whose difference is at least ``limit`` levels, in [0, 1]."""
    return float(counts[levels().abs() >= limit].sum() / counts.sum())


def rapsd(fields: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n radii"]:
    """Radially averaged power spectral density, |FFT2|^2 / (H W), per field (appendix D).

    Averaged over the channels and over all frequencies whose distance from 0, in cycles per
    shorter side, rounds to the radius 0 .. min(H, W) // 2 (Nyquist). White noise of variance s
    has the power s at every radius. Real fields of any size.
    """
    height, width = fields.shape[-2:]
    power = torch.fft.fft2(fields.double()).abs().square().mean(dim=1) / (height * width)
    shorter = min(height, width)
    down, right = (torch.fft.fftfreq(side, dtype=torch.float64) for side in (height, width))
    radius = ((down[:, None].square() + right[None].square()).sqrt() * shorter).round().long()
    inside = radius <= shorter // 2
    rings = radius[inside]  # [frequencies]
    counts = torch.bincount(rings, minlength=shorter // 2 + 1)
    sums = torch.zeros(len(fields), shorter // 2 + 1, dtype=torch.float64)
    sums.index_add_(1, rings, power[:, inside].cpu())
    return sums / counts


def frequencies(radii: int, shorter_side: int) -> Float[Tensor, " radii"]:
    """The radii 0 .. radii - 1 in cycles per pixel (or latent cell)."""
    return torch.arange(radii, dtype=torch.float64) / shorter_side


def resample_spectrum(
    power: Float[Tensor, " own_radii"], shorter_side: int, radii: int, target_side: int
) -> Float[Tensor, " {radii}"]:
    """A spectrum at the frequencies of another size, linear between its own."""
    position = frequencies(radii, target_side) * shorter_side
    lower = position.floor().long().clamp(max=len(power) - 1)
    upper = (lower + 1).clamp(max=len(power) - 1)
    share = (position - lower).clamp(0, 1)
    return power[lower] * (1 - share) + power[upper] * share


def spectrum_distance(power: Float[Tensor, " radii"], reference: Float[Tensor, " radii"]) -> float:
    """Root mean square of the ratio in decibels over all radii but 0; 0 for equal spectra."""
    ratio = 10 * (power[1:] / reference[1:]).log10()
    return float(ratio.square().mean().sqrt())


class Pair(NamedTuple):
    """``clean`` and ``changed``: uint8 [3, height, width] of one shape, of the files ``name``."""

    name: str
    clean: UInt8[Tensor, "3 height width"]
    changed: UInt8[Tensor, "3 height width"]


def read_pairs(clean: Path, changed: Path) -> Iterator[Pair]:
    """The pairs of two folders, matched by the files' stems.

    A clean image of another size than its square partner is cut and resized as ``safezone
    poison`` does (``images.to_square``), so that the folder that a poison was made of can be given
    as it is. Warns at the end of pairs whose contents differ too much to be one image, and names
    the order that fits, if there is one. Raises UserError for folders without images, an image
    without partner, and sizes that do not fit.
    """
    first = {path.stem: path for path in image_files(clean)}
    second = {path.stem: path for path in image_files(changed)}
    for here, there, folder in ((first, second, changed), (second, first, clean)):
        if missing := here.keys() - there.keys():
            raise UserError(
                f"{folder} has no image called {min(missing)}; give two folders with the same names"
            )
    small: list[Float[Tensor, "2 3 8 8"]] = []
    for name, path in first.items():
        before, after = read_image(path), read_image(second[name])
        if before.shape != after.shape:
            if after.shape[0] != after.shape[1]:
                raise UserError(
                    f"{path} has {before.shape[1]} x {before.shape[0]} pixels and {second[name]} "
                    f"{after.shape[1]} x {after.shape[0]}; give images of one size"
                )
            before = to_square(before, after.shape[0])
        images = [torch.as_tensor(each).permute(2, 0, 1).contiguous() for each in (before, after)]
        small.append(torch.stack([F.adaptive_avg_pool2d(each.float(), 8) for each in images]))
        yield Pair(name, *images)
    _warn_of_strangers(list(first), torch.stack(small))


def _warn_of_strangers(names: Sequence[str], small: Float[Tensor, "n 2 3 8 8"]) -> None:
    """Warns where an image's content is not that of the image of its name in the other folder."""
    clean, changed = small.flatten(2).unbind(1)
    distances = torch.cdist(clean, changed, p=1) / clean.shape[1]  # [n, n], in levels of 0..255
    own = distances.diagonal()
    far = [i for i, distance in enumerate(own.tolist()) if distance > _ALIKE]
    if not far:
        return
    _, order = linear_sum_assignment(distances.numpy())
    fitting = [i for i in far if distances[i, order[i]] <= _ALIKE]
    text = f"{len(far)} of {len(names)} images do not show what the image of their name shows"
    if fitting:
        text += ": by content " + ", ".join(f"{names[i]} fits {names[order[i]]}" for i in fitting)
    else:
        text += f", {names[far[0]]} for one: do the two folders belong together?"
    warnings.warn(text, Notice, stacklevel=2)
