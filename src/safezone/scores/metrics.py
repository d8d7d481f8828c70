"""Pure functions of features; metrics of pairs come back per example, (batch,)."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from safezone.arrays import PerExample

CLIP_SCORE_WEIGHT = 2.5
"""The w of CLIPScore (Hessel et al. 2021)."""


def cosine_similarity(
    first: Float[Tensor, "n width"], second: Float[Tensor, "m width"]
) -> Float[Tensor, "n m"]:
    """cos(first[i], second[j]) of all pairs, in [-1, 1]; a zero row has cosine 0 to everything.

    Features of any scale, [n, width] and [m, width]. Raises ValueError when the widths differ.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"features of shapes {tuple(first.shape)} and {tuple(second.shape)}")
    return functional.normalize(first, dim=1) @ functional.normalize(second, dim=1).T


def similarity(
    generated: Float[Tensor, "n width"],
    reference: Float[Tensor, "m width"],
    reduce: Literal["mean", "max"] = "mean",
) -> PerExample:
    """Cosine of every generated image to the references, [n] in [-1, 1].

    ``mean`` over the references, so that the mean of the result is the mean over all pairs (the
    DINO similarity of DreamBooth), or ``max`` for the nearest reference. Raises ValueError when
    there is no reference.
    """
    if len(reference) == 0:
        raise ValueError("no reference features")
    pairs = cosine_similarity(generated, reference)  # [n, m]
    if reduce == "mean":
        return pairs.mean(dim=1)
    if reduce == "max":
        return pairs.amax(dim=1)
    raise ValueError(f"reduce is mean or max, not {reduce!r}")


def clip_score(cosine: PerExample) -> PerExample:
    """2.5 max(cos, 0) (CLIPScore, Hessel et al. 2021), in [0, 2.5], of cosines in [-1, 1]."""
    return CLIP_SCORE_WEIGHT * cosine.clamp(min=0)


def _centred(features: Tensor) -> tuple[Tensor, Tensor]:
    """The mean [d] and a factor F [min(n, d), d] with F^T F = the unbiased covariance."""
    mean = features.mean(dim=0)
    factor = (features - mean) / (len(features) - 1) ** 0.5
    if factor.shape[0] > factor.shape[1]:
        factor = torch.linalg.qr(factor, mode="r").R
    return mean, factor


def _two_sets(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"features of shapes {tuple(first.shape)} and {tuple(second.shape)}")
    if len(first) < 2 or len(second) < 2:
        raise ValueError("a distance between distributions needs at least two rows on both sides")
    return first.double(), second.double()


def frechet_distance(
    generated: Float[Tensor, "n width"], reference: Float[Tensor, "m width"]
) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) in float64; on Inception features, FID.

    With S_a = A^T A and S_b = B^T B the nonzero eigenvalues of S_a S_b are the squared singular
    values of A B^T, so the trace of the root is their sum: exact for n < width, where the
    covariances are singular. Then it is strongly biased upward all the same: only compare values
    of equal counts. Raises ValueError for fewer than two rows on a side.
    """
    first, second = _two_sets(generated, reference)
    (mean_a, factor_a), (mean_b, factor_b) = _centred(first), _centred(second)
    root_trace = torch.linalg.svdvals(factor_a @ factor_b.T).sum()
    value = (mean_a - mean_b).square().sum() + (
        factor_a.square().sum() + factor_b.square().sum() - 2 * root_trace
    )
    return max(float(value), 0.0)


def kernel_distance(
    generated: Float[Tensor, "n width"], reference: Float[Tensor, "m width"]
) -> float:
    """Unbiased squared MMD with k(x, y) = (x.y / width + 1)^3 in float64.

    On Inception features, KID (Binkowski et al. 2018); one estimate over all rows, no subsets.
    Unbiased also for few rows, hence below 0 at times. Raises ValueError for fewer than two rows
    on a side.
    """
    first, second = _two_sets(generated, reference)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def mean_off_diagonal(gram: Tensor) -> Tensor:
        return (gram.sum() - gram.diagonal().sum()) / (len(gram) * (len(gram) - 1))

    value = (
        mean_off_diagonal(kernel(first, first))
        + mean_off_diagonal(kernel(second, second))
        - 2 * kernel(first, second).mean()
    )
    return float(value)
