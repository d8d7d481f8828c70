"""What the object's masks do in training: to the loss, to the input, to the noisy latents."""

import warnings
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeAlias

from jaxtyping import Float
from torch import Tensor

from safezone.arrays import Latents, Masks, PerExample, Pixels
from safezone.concepts.masks import LatentMaskMode, dilate, latent_mask, scaled_radius
from safezone.errors import Notice, UserError
from safezone.fields import Checked, Share, Weight

Weights = Float[Tensor, "batch 1 latent_height latent_width"]

GREY = 128
"""What stands outside an input mask: 0 in the encoder's [-1, 1], to the nearest of 256 levels."""


class Masked(NamedTuple):
    """What a mask makes of a concept; None stands for 1 everywhere, all weights are in [0, 1].

    ``images``: what the encoder sees. ``weights``: what the error is multiplied with.
    ``target_weights``: where the target is the image's own; elsewhere it is what the model
    predicted before the training. ``latent_weights``: what the noisy latents are multiplied with.
    """

    images: Pixels
    weights: Weights | None = None
    target_weights: Weights | None = None
    latent_weights: Weights | None = None


@dataclass(frozen=True)
class NoMask:
    """What a defense does with the object's masks: here nothing. The base of all others.

    ``normalise``: whether the loss is divided by the mask's area (``masked_loss``).
    """

    normalise = False

    def __call__(
        self, images: Pixels, masks: Masks | None, factor: int, *, concept: str = "the concept"
    ) -> Masked:
        """Of images and their masks, bool [batch, height, width].

        ``factor``: pixels to a latent cell along one side. ``concept`` names the concept in errors.
        Raises UserError when masks are needed and there are none, one is empty at latent size, or
        they are not of the images' size.
        """
        return Masked(images)


ObjectMask: TypeAlias = NoMask
"""Any of the masks here, each of which extends the one that does nothing."""


@dataclass(frozen=True)
class LossMask(Checked, NoMask):
    """The loss counts inside the concept's mask, dilated (LM, LM-D; Eq. 12, Appendices I and J).

    ``dilation_px_at_512``: pixels on each side for images of side 512, scaled with the side (the
    paper's 16 are 2 latent cells at 512 px and f = 8, 4 px at 128 px); or instead
    ``dilation_cells`` in latent cells, whatever the image's side. ``mode`` is how a mask comes to
    latent size (``concepts.masks.latent_mask``), ``threshold`` what share of a cell makes it
    count. ``normalise``: see ``masked_loss``. Warns of a mask that, dilated and at the size where
    it counts, covers all.
    """

    dilation_px_at_512: Weight = 0.0
    dilation_cells: Weight | None = None
    mode: LatentMaskMode = "area"
    threshold: Share = 0.5
    normalise: bool = False

    in_loss: ClassVar[bool] = True
    in_input: ClassVar[bool] = False
    in_latents: ClassVar[bool] = False
    in_target: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dilation_px_at_512 and self.dilation_cells is not None:
            raise UserError(
                "The mask has its dilation both in pixels at 512 and in latent cells; "
                "give one of them."
            )

    def radius(self, side: int, factor: int) -> int:
        """Dilation in pixels for images of this side."""
        if self.dilation_cells is not None:
            return round(self.dilation_cells * factor)
        return scaled_radius(self.dilation_px_at_512, side)

    def grown(self, masks: Masks | None, factor: int, concept: str) -> Masks:
        """The dilated masks, bool [batch, side, side]; UserError when there are none."""
        if masks is None:
            raise UserError(
                f"{concept} has no masks, which this defense needs; make them with "
                "`safezone mask`, put your own into its folder masks/ or choose a defense "
                "without lm, im, lim, zm or mpp."
            )
        return dilate(masks, self.radius(masks.shape[-1], factor))

    def cells(self, masks: Masks | None, factor: int, concept: str) -> Weights:
        """Float [batch, 1, side / factor, side / factor] in [0, 1]."""
        grown = self.grown(masks, factor, concept)
        try:
            cells = latent_mask(grown, factor, mode=self.mode, threshold=self.threshold)
        except UserError as error:
            raise UserError(f"{concept}: {error}") from error
        used = grown if self.in_input and not self.in_loss else cells
        if whole := int((used.flatten(1).amin(1) == 1).sum()):
            warnings.warn(
                f"{whole} of {len(grown)} masks of {concept} cover the whole image, dilated and at "
                "latent size as they are, and mask nothing; look at them with `safezone mask "
                "--preview`.",
                Notice,
                stacklevel=4,
            )
        return cells

    def __call__(
        self, images: Pixels, masks: Masks | None, factor: int, *, concept: str = "the concept"
    ) -> Masked:
        cells = self.cells(masks, factor, concept)
        if self.in_input:
            grown = self.grown(masks, factor, concept)
            if grown.shape[-2:] != images.shape[-2:] or len(grown) != len(images):
                raise UserError(
                    f"{concept} has {len(images)} images of {tuple(images.shape[-2:])} pixels and "
                    f"{len(grown)} masks of {tuple(grown.shape[-2:])}; make the masks again."
                )
            images = images.where(grown[:, None].to(images.device), GREY)
        return Masked(
            images,
            cells if self.in_loss else None,
            cells if self.in_target else None,
            cells if self.in_latents else None,
        )


@dataclass(frozen=True)
class LossInputMask(LossMask):
    """The loss counts inside the mask, and the encoder sees grey outside it (LIM; Eq. 14)."""

    in_input = True


@dataclass(frozen=True)
class InputMask(LossMask):
    """The encoder sees grey outside the mask; the loss counts everywhere (IM; Eq. 13).

    An input x in [-1, 1] times the mask is 0 outside: the grey between black and white.
    """

    in_loss = False
    in_input = True


@dataclass(frozen=True)
class LatentMask(LossMask):
    """The noisy latents are 0 outside the mask; the loss counts everywhere (ZM; Eq. 15)."""

    in_loss = False
    in_latents = True


@dataclass(frozen=True)
class PriorMask(LossMask):
    """Outside the mask the training's target is what the model predicted before it (masked prior
    preservation, as in trainers of LoRAs); the loss counts everywhere.

    What lies outside is neither learned nor forgotten. With textual inversion the model before the
    training reads the word that the vectors started from. Takes a pass more through the network
    at every step, without a gradient.
    """

    in_loss = False
    in_target = True


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
