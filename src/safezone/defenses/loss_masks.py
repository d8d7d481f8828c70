"""Where the training loss counts."""

from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from safezone.arrays import Latents, Masks, PerExample
from safezone.errors import UserError
from safezone.masks import LatentMaskMode, dilate, latent_mask, scaled_radius

Weights = Float[Tensor, "batch 1 latent_height latent_width"]


class LatentWeights(Protocol):
    """Masks at pixel size to weights at latent size; None stands for 1 everywhere."""

    @property
    def normalise(self) -> bool: ...

    def weights(
        self, masks: Masks | None, factor: int, *, concept: str = "the concept"
    ) -> Weights | None: ...


@dataclass(frozen=True)
class NoMask:
    """The loss counts everywhere; masks are not needed."""

    @property
    def normalise(self) -> bool:
        return False

    def weights(
        self, masks: Masks | None, factor: int, *, concept: str = "the concept"
    ) -> Weights | None:
        """None: all ones."""
        return None


@dataclass(frozen=True)
class LossMask:
    """The loss counts inside the concept's mask, dilated (LM, LM-D; Appendix J).

    ``dilation_px_at_512``: pixels on each side for images of side 512, scaled with the side (the
    paper's 16 are 2 latent cells at 512 px and f = 8, 4 px at 128 px); or instead
    ``dilation_cells`` in latent cells, whatever the image's side. ``mode`` is how a mask comes to
    latent size (``safezone.masks.latent_mask``), ``threshold`` what share of a cell makes it
    count. ``normalise``: see ``masked_loss``.
    """

    dilation_px_at_512: float = 0.0
    dilation_cells: float | None = None
    mode: LatentMaskMode = "area"
    threshold: float = 0.5
    normalise: bool = False

    def __post_init__(self) -> None:
        if self.dilation_px_at_512 and self.dilation_cells is not None:
            raise UserError(
                "The loss mask has its dilation both in pixels at 512 and in latent cells; "
                "give one of them."
            )
        if not (self.dilation_px_at_512 >= 0 and (self.dilation_cells or 0) >= 0):
            raise UserError("The loss mask's dilation is negative; give 0 or more.")

    def radius(self, side: int, factor: int) -> int:
        """Dilation in pixels for images of this side."""
        if self.dilation_cells is not None:
            return round(self.dilation_cells * factor)
        return scaled_radius(self.dilation_px_at_512, side)

    def weights(
        self, masks: Masks | None, factor: int, *, concept: str = "the concept"
    ) -> Weights | None:
        """Float [batch, 1, side / factor, side / factor] in [0, 1].

        Raises UserError when there are no masks, or one is empty at latent size.
        """
        if masks is None:
            raise UserError(
                f"{concept} has no masks, which a loss mask needs; make them with "
                "`safezone mask`, put your own into its folder masks/ or choose a defense "
                "without lm."
            )
        grown = dilate(masks, self.radius(masks.shape[-1], factor))
        try:
            return latent_mask(grown, factor, mode=self.mode, threshold=self.threshold)
        except UserError as error:
            raise UserError(f"{concept}: {error}") from error


def masked_loss(error: Latents, weights: Weights | None, normalise: bool = False) -> PerExample:
    """Mean over all latent elements of (error * weights)^2 (Eq. 7), per example.

    ``error``: prediction - target, [batch, channels, h, w]; ``weights``: [batch, 1, h, w] or None
    for ones. The mean runs over the cells outside the mask too, as zeros; ``normalise`` divides by
    the mask's share of the area (the mean of weights^2), so that small concepts weigh as much as
    large ones.
    """
    if weights is None:
        return error.square().flatten(1).mean(dim=1)
    loss = (error * weights).square().flatten(1).mean(dim=1)
    return loss / weights.square().flatten(1).mean(dim=1) if normalise else loss
