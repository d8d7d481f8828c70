"""The closed form of appendix B: exact for one image, estimated for many where they suffice."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from jaxtyping import Float
from torch import Tensor

from safezone.analysis.gaussian import measured
from safezone.arrays import Timesteps
from safezone.models.base import Posterior
from safezone.models.process import Process

IMAGES_PER_ELEMENT: Final = 2
"""From fewer images the covariance is mostly estimation error."""


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
