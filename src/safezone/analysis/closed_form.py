"""The best noise prediction for Gaussian latents in closed form (appendix B).

Assumed: z ~ N(mu_z, C), noise ~ N(0, I) independent of z, and z_t = s z + sigma noise. Then

    E[noise | z_t] = sigma (s^2 C + sigma^2 I)^-1 (z_t - s mu_z)            (Eq. 10)
    min E|prediction - noise|^2 / d = tr(s^2 C (s^2 C + sigma^2 I)^-1) / d

The paper prints mu_x for mu_z in Eq. 10 and 11. Its Eq. 11 adds I to the covariance, which treats
prediction and noise as independent; they are not, and the error of the best prediction is that of
the conditional distribution, I - sigma^2 (s^2 C + sigma^2 I)^-1, used here.

It is exact for one image, and estimated for many where they suffice.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from safezone.arrays import Timesteps
from safezone.models.base import Posterior
from safezone.models.process import Process

IMAGES_PER_ELEMENT: Final = 2
"""From fewer images the covariance is mostly estimation error."""
_FOLDS: Final = 5
_SHARES: Final = tuple(10.0 ** (-k / 4) for k in range(25))


@dataclass(frozen=True, eq=False)
class GaussianLatents:
    """N(mean, C) with C = directions^T diag(variances) directions + rest I beside them.

    ``mean``: float64 [channels, h, w]. ``directions``: orthonormal [r, d]; ``variances``: [r],
    the whole variance along each; ``rest``: that of every direction orthogonal to them.
    """

    mean: Float[Tensor, "channels h w"]
    directions: Float[Tensor, "r d"]
    variances: Float[Tensor, " r"]
    rest: float = 0.0

    @property
    def size(self) -> int:
        """d, the number of elements of one latent."""
        return self.mean.numel()

    def expected_loss(self, signal: Tensor, sigma: Tensor) -> Float[Tensor, " timesteps"]:
        """The least mean squared error per element, float64, for [timesteps] of both."""
        power = signal.double()[:, None] ** 2
        noise = sigma.double()[:, None] ** 2
        along = power * self.variances / (power * self.variances + noise)
        rest = (power * self.rest / (power * self.rest + noise))[:, 0]
        return (along.sum(dim=-1) + (self.size - len(self.variances)) * rest) / self.size

    def expected_norm(self, signal: Tensor, sigma: Tensor) -> Float[Tensor, " timesteps"]:
        """sqrt(E|E[noise | z_t]|^2): the norm of the best prediction, which is d^0.5 for noise."""
        return (self.size * (1 - self.expected_loss(signal, sigma))).clamp(min=0).sqrt()

    def shrunk(self, share: float) -> "GaussianLatents":
        """The covariance (1 - share) C + share (tr C / d) I; a share of 1e-6 at least."""
        level = share * float(self.variances.sum()) / self.size
        return replace(self, variances=(1 - share) * self.variances + level, rest=level)

    def log_likelihood(self, latents: Float[Tensor, "images channels h w"]) -> Tensor:
        """Of all images together, up to a constant; -inf where nothing varies."""
        if self.rest == 0.0:
            return torch.tensor(-torch.inf, dtype=torch.float64)
        centred = (latents - self.mean).flatten(1)
        along = (centred @ self.directions.T).square()
        beside = (centred.square().sum(dim=1) - along.sum(dim=1)).clamp(min=0)
        distance = (along / self.variances).sum(dim=1) + beside / self.rest
        others = self.size - len(self.variances)
        volume = self.variances.log().sum() + others * math.log(self.rest)
        return -0.5 * (distance + volume).sum()


def _principal(latents: Float[Tensor, "images channels h w"]) -> GaussianLatents:
    """The mean of some images and the directions in which they vary."""
    mean = latents.mean(dim=0)
    _, lengths, directions = torch.linalg.svd((latents - mean).flatten(1), full_matrices=False)
    return GaussianLatents(mean, directions, lengths.square() / len(latents))


def measured(posterior: Posterior) -> GaussianLatents:
    """The Gaussian with the measured mean and covariance of images' latents.

    C is the covariance of the posterior means, shrunk towards a multiple of the identity by the
    share under which images left out are most likely (five folds), plus the posteriors' mean
    variance. Unshrunk, every direction not seen in few images would count as known; shrinking for
    the least squared error of C, as Ledoit and Wolf do, lets strong directions drown weak ones,
    which the closed form depends on. ``posterior``: of [images], at least two.
    """
    means = posterior.mean.double().cpu()
    folds = torch.arange(len(means)) % min(_FOLDS, len(means))
    likelihoods = torch.zeros(len(_SHARES), dtype=torch.float64)
    for fold in folds.unique():
        estimate = _principal(means[folds != fold])
        likelihoods += torch.stack(
            [estimate.shrunk(share).log_likelihood(means[folds == fold]) for share in _SHARES]
        )
    whole = _principal(means).shrunk(_SHARES[int(likelihoods.argmax())])
    within = float(posterior.std.double().square().mean())
    return replace(whole, variances=whole.variances + within, rest=whole.rest + within)


@dataclass(frozen=True, eq=False)
class ClosedForm:
    """``loss`` per element and ``prediction_norm`` of the best prediction, [timesteps].

    ``images``: how many the mean and covariance were measured on.
    """

    loss: Float[Tensor, " timesteps"]
    prediction_norm: Float[Tensor, " timesteps"]
    images: int


@dataclass(frozen=True, eq=False)
class Theory:
    """By data set: the closed form of many images, or why there is none; that of ``one_image``."""

    curves: Mapping[str, ClosedForm]
    left_out: Mapping[str, str]
    one_image: Mapping[str, ClosedForm]


def of_one_image(posterior: Posterior, process: Process, timesteps: Timesteps) -> ClosedForm:
    """The exact case: latents of one image, z ~ N(mean, std^2), drawn from its posterior.

    Per element the least squared error is s^2 std^2 / (s^2 std^2 + sigma^2) (Eq. 10 with a diagonal
    covariance). No assumption is made and no image is too large; it is what a model would reach
    that knew the image, so any model's loss on these latents lies above it in expectation. Of
    several images the mean of their curves, each by itself; the root of the mean squared norm.
    """
    signal, sigma = process.signal_noise(timesteps)
    power = (signal.double() ** 2)[:, None] * posterior.std.cpu().double().flatten() ** 2
    loss = (power / (power + (sigma.double() ** 2)[:, None])).mean(dim=1)
    elements = posterior.mean[0].numel()
    return ClosedForm(loss, (elements * (1 - loss)).sqrt(), len(posterior.mean))


def closed_forms(
    posteriors: Mapping[str, Posterior],
    process: Process,
    timesteps: Timesteps,
    single: Mapping[str, Posterior] | None = None,
) -> Theory:
    """The closed form of every data set with at least two images for each latent element.

    ``single``: images whose own, exact forms are wanted; by default the same.

    The covariance measured on fewer, shrunk as ``measured`` does, raises the weak directions: at
    low timesteps the closed form is then too high, up to twice on Gaussian latents whose variances
    span four orders of magnitude. Such data sets are in ``left_out`` with the reason.
    """
    curves, left_out = {}, {}
    for name, posterior in posteriors.items():
        images, elements = len(posterior.mean), posterior.mean[0].numel()
        if images < IMAGES_PER_ELEMENT * elements:
            left_out[name] = (
                f"C from {images} images for {elements} latent elements would be mostly estimation "
                "error, and the closed form an over-estimate at low timesteps; it takes at least "
                f"{IMAGES_PER_ELEMENT * elements} images"
            )
            continue
        latents = measured(posterior)
        signal, sigma = process.signal_noise(timesteps)
        curves[name] = ClosedForm(
            latents.expected_loss(signal, sigma), latents.expected_norm(signal, sigma), images
        )
    alone = {
        name: of_one_image(each, process, timesteps)
        for name, each in (posteriors if single is None else single).items()
    }
    return Theory(curves, left_out, alone)
