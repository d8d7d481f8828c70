"""The best noise prediction for Gaussian latents in closed form (appendix B).

Assumed: z ~ N(mu_z, C), noise ~ N(0, I) independent of z, and z_t = s z + sigma noise. Then

    E[noise | z_t] = sigma (s^2 C + sigma^2 I)^-1 (z_t - s mu_z)            (Eq. 10)
    min E|prediction - noise|^2 / d = tr(s^2 C (s^2 C + sigma^2 I)^-1) / d

The paper prints mu_x for mu_z in Eq. 10 and 11. Its Eq. 11 adds I to the covariance, which treats
prediction and noise as independent; they are not, and the error of the best prediction is that of
the conditional distribution, I - sigma^2 (s^2 C + sigma^2 I)^-1, used here.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from safezone.arrays import Latents
from safezone.models.base import Posterior


@dataclass(frozen=True, eq=False)
class GaussianLatents:
    """N(mean, C) with C = directions^T diag(variances) directions + rest I beside them.

    ``mean``: float64 [channels, h, w]. ``directions``: orthonormal [r, d]; ``variances``: [r],
    the whole variance along each; ``rest``: that of every direction orthogonal to them.
    """

    mean: Float[Tensor, "channels h w"]
    directions: Float[Tensor, "r d"]
    variances: Float[Tensor, " r"]
    rest: float

    @property
    def size(self) -> int:
        """d, the number of elements of one latent."""
        return self.mean.numel()

    def optimal_noise(self, noisy: Latents, signal: Tensor, sigma: Tensor) -> Latents:
        """E[noise | z_t] of [batch] noisy latents; ``signal`` and ``sigma``: [batch]."""
        signal, sigma = (value.to(noisy.device).double()[:, None] for value in (signal, sigma))
        centred = noisy.flatten(1).double() - signal * self.mean.flatten().to(noisy.device)
        directions = self.directions.to(noisy.device)
        gain = sigma / (signal**2 * self.variances.to(noisy.device) + sigma**2)  # [batch, r]
        rest = sigma / (signal**2 * self.rest + sigma**2)  # [batch, 1]
        along = centred @ directions.T
        estimate = rest * centred + ((gain - rest) * along) @ directions
        return estimate.view_as(noisy).to(noisy.dtype)

    def _mean_over_directions(self, values: Tensor, rest: Tensor) -> Tensor:
        return (values.sum(dim=-1) + (self.size - len(self.variances)) * rest) / self.size

    def expected_loss(self, signal: Tensor, sigma: Tensor) -> Float[Tensor, " timesteps"]:
        """The least mean squared error per element, float64, for [timesteps] of both."""
        power = signal.double()[:, None] ** 2
        noise = sigma.double()[:, None] ** 2
        along = power * self.variances / (power * self.variances + noise)
        rest = power * self.rest / (power * self.rest + noise)
        return self._mean_over_directions(along, rest[:, 0])

    def expected_norm(self, signal: Tensor, sigma: Tensor) -> Float[Tensor, " timesteps"]:
        """sqrt(E|E[noise | z_t]|^2): the norm of the best prediction, which is d^0.5 for noise."""
        return (self.size * (1 - self.expected_loss(signal, sigma))).clamp(min=0).sqrt()


def measured(posterior: Posterior) -> GaussianLatents:
    """The Gaussian with the measured mean and covariance of images' latents.

    C is the covariance of the posterior means, shrunk towards a multiple of the identity by the
    share under which images left out are most likely (five folds), plus the posteriors' mean
    variance. Unshrunk, every direction not seen in few images would count as known; shrinking for
    the least squared error of C, as Ledoit and Wolf do, lets strong directions drown weak ones,
    which the closed form depends on. ``posterior``: of [images], at least two.
    """
    means = posterior.mean.double().cpu()
    vectors = means.flatten(1)
    folds = torch.arange(len(vectors)) % min(_FOLDS, len(vectors))
    likelihoods = torch.zeros(len(_SHARES), dtype=torch.float64)
    for fold in folds.unique():
        estimate = _principal(vectors[folds != fold])
        likelihoods += torch.stack(
            [estimate.shrunk(share).log_likelihood(vectors[folds == fold]) for share in _SHARES]
        )
    share = _SHARES[int(likelihoods.argmax())]
    whole = _principal(vectors).shrunk(share)
    within = float(posterior.std.double().square().mean())
    return GaussianLatents(
        means.mean(dim=0), whole.directions, whole.variances + within, whole.rest + within
    )


_FOLDS: Final = 5
_SHARES: Final = tuple(10.0 ** (-k / 4) for k in range(25))


@dataclass(frozen=True, eq=False)
class _Principal:
    """Mean [d], directions [r, d], their variances [r] and that of all other directions."""

    mean: Tensor
    directions: Tensor
    variances: Tensor
    rest: float = 0.0

    def shrunk(self, share: float) -> "_Principal":
        """The covariance (1 - share) C + share (tr C / d) I; a share of 1e-6 at least."""
        level = share * float(self.variances.sum()) / self.directions.shape[1]
        return replace(self, variances=(1 - share) * self.variances + level, rest=level)

    def log_likelihood(self, vectors: Float[Tensor, "images d"]) -> Tensor:
        """Of all images together, up to a constant; -inf where nothing varies."""
        if self.rest == 0.0:
            return torch.tensor(-torch.inf, dtype=torch.float64)
        centred = vectors - self.mean
        along = (centred @ self.directions.T).square()
        beside = (centred.square().sum(dim=1) - along.sum(dim=1)).clamp(min=0)
        distance = (along / self.variances).sum(dim=1) + beside / self.rest
        others = vectors.shape[1] - len(self.variances)
        volume = self.variances.log().sum() + others * math.log(self.rest)
        return -0.5 * (distance + volume).sum()


def _principal(vectors: Float[Tensor, "images d"]) -> _Principal:
    mean = vectors.mean(dim=0)
    _, lengths, directions = torch.linalg.svd(vectors - mean, full_matrices=False)
    return _Principal(mean, directions, lengths.square() / len(vectors))


def of_covariance(
    mean: Float[Tensor, "channels h w"], covariance: Float[Tensor, "d d"]
) -> GaussianLatents:
    """The Gaussian of a given covariance, symmetric and non-negative."""
    variances, vectors = torch.linalg.eigh(covariance.double())
    return GaussianLatents(mean.double(), vectors.T.contiguous(), variances.clamp(min=0), 0.0)
