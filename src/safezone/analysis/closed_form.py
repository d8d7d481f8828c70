"""The closed form of appendix B for measured latents, where there are images enough for it."""

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
    """By data set: the closed form, or why there is none."""

    curves: Mapping[str, ClosedForm]
    left_out: Mapping[str, str]


def closed_forms(
    posteriors: Mapping[str, Posterior], process: Process, timesteps: Timesteps
) -> Theory:
    """The closed form of every data set with at least two images for each latent element.

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
    return Theory(curves, left_out)
