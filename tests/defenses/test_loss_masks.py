"""Where the loss counts."""

import pytest
import torch
from torch import Tensor

from safezone.arrays import randn, stream
from safezone.defenses.loss_masks import (
    GREY,
    InputMask,
    LatentMask,
    LossInputMask,
    LossMask,
    Masked,
    NoMask,
    ObjectMask,
    PriorMask,
    masked_loss,
)
from safezone.errors import UserError


def square(side: int, first: int, last: int) -> Tensor:
    """One mask, True at rows and columns first .. last - 1."""
    mask = torch.zeros(1, side, side, dtype=torch.bool)
    mask[:, first:last, first:last] = True
    return mask


def act(mask: ObjectMask, masks: Tensor | None, concept: str = "the concept") -> Masked:
    """What the mask makes of black images, at 8 pixels to a latent cell."""
    side = 64 if masks is None else masks.shape[-1]
    images = torch.zeros(1 if masks is None else len(masks), 3, side, side, dtype=torch.uint8)
    return mask(images, masks, 8, concept=concept)


@pytest.fixture
def error() -> Tensor:
    return randn([stream("error", i) for i in range(3)], (4, 8, 8))


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("ones", [True, False])
def test_a_mask_of_ones_is_no_mask_is_the_mean_squared_error(
    ones: bool, normalise: bool, error: Tensor
) -> None:
    weights = torch.ones(3, 1, 8, 8) if ones else None
    expected = error.square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(masked_loss(error, weights, normalise), expected)


@pytest.mark.parametrize("normalise", [False, True])
def test_nothing_flows_from_outside(normalise: bool, error: Tensor) -> None:
    weights = torch.zeros(3, 1, 8, 8)
    weights[:, :, 2:5, 1:4] = 1
    error.requires_grad_(True)
    (gradient,) = torch.autograd.grad(masked_loss(error, weights, normalise).sum(), error)
    outside = (weights == 0).expand_as(gradient)
    assert (gradient[outside] == 0).all()
    assert (gradient[~outside] != 0).all()


def test_the_two_means_differ_by_the_masks_share(error: Tensor) -> None:
    weights = torch.zeros(3, 1, 8, 8)
    for i, width in enumerate((1, 4, 8)):
        weights[i, :, :, :width] = 1
    share = torch.tensor([1 / 8, 4 / 8, 1])
    torch.testing.assert_close(
        masked_loss(error, weights, False), masked_loss(error, weights, True) * share
    )


def test_a_soft_weight_is_squared_with_the_error() -> None:
    error, weights = torch.full((1, 4, 2, 2), 3.0), torch.full((1, 1, 2, 2), 0.5)
    torch.testing.assert_close(masked_loss(error, weights, False), torch.tensor([2.25]))
    torch.testing.assert_close(masked_loss(error, weights, True), torch.tensor([9.0]))


@pytest.mark.parametrize(
    ("loss_mask", "side", "radius"),
    [
        (LossMask(), 512, 0),
        (LossMask(dilation_px_at_512=16), 512, 16),
        (LossMask(dilation_px_at_512=16), 128, 4),
        (LossMask(dilation_px_at_512=8), 64, 1),
        (LossMask(dilation_cells=2), 512, 16),
        (LossMask(dilation_cells=2), 128, 16),
        (LossMask(dilation_cells=0.5), 128, 4),
    ],
)
def test_dilation_scales_with_the_image_or_with_the_cells(
    loss_mask: LossMask, side: int, radius: int
) -> None:
    assert loss_mask.radius(side, factor=8) == radius


@pytest.mark.parametrize(
    ("loss_mask", "first", "last"),
    [
        (LossMask(), 6, 10),
        (LossMask(dilation_px_at_512=12), 6, 10),  # 3 px: less than half a cell
        (LossMask(dilation_px_at_512=32), 5, 11),
        (LossMask(dilation_cells=1), 5, 11),
        (LossMask(dilation_cells=2), 4, 12),
    ],
)
def test_weights_are_the_dilated_mask_in_cells(loss_mask: LossMask, first: int, last: int) -> None:
    masks = square(128, 48, 80)  # cells 6 .. 9
    weights = act(loss_mask, masks).weights
    assert weights is not None
    expected = torch.zeros(1, 1, 16, 16)
    expected[..., first:last, first:last] = 1
    assert torch.equal(weights, expected)


def test_half_a_cell_counts_and_a_quarter_does_not() -> None:
    weights = act(LossMask(dilation_px_at_512=16), square(128, 48, 80)).weights  # 4 px
    assert weights is not None
    assert weights[0, 0, 5, 6:10].tolist() == [1, 1, 1, 1]
    assert weights[0, 0, 5, 5] == 0


def test_more_dilation_never_takes_a_cell_away() -> None:
    masks = square(128, 45, 83)
    shares = []
    for dilation in (0, 8, 16, 24, 64):
        weights = act(LossMask(dilation_px_at_512=dilation), masks).weights
        assert weights is not None
        shares.append(float(weights.mean()))
    assert shares == sorted(shares)
    assert shares[0] < shares[-1] < 1


def test_no_mask_needs_none() -> None:
    assert act(NoMask(), None).weights is None
    assert act(NoMask(), square(64, 8, 16)).weights is None


def test_missing_masks_name_the_concept_and_the_mend() -> None:
    with pytest.raises(UserError, match=r"Teapot has no masks.*safezone mask"):
        act(LossMask(), None, "Teapot")


def test_a_mask_empty_at_latent_size_names_the_concept() -> None:
    with pytest.raises(UserError, match=r"Teapot: .*empty"):
        act(LossMask(), square(64, 8, 10), "Teapot")


@pytest.mark.parametrize(
    "settings",
    [
        {"dilation_px_at_512": -1.0},
        {"dilation_cells": -1.0},
        {"dilation_px_at_512": float("nan")},
        {"dilation_px_at_512": 16.0, "dilation_cells": 2.0},
    ],
)
def test_dilations_that_make_no_sense_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match="dilation"):
        LossMask(**settings)  # type: ignore[arg-type]


def test_an_input_mask_leaves_the_object_and_greys_the_rest() -> None:
    masks = square(64, 16, 40)
    images = torch.randint(0, 256, (1, 3, 64, 64), generator=stream("pixels")).to(torch.uint8)
    for mask in (InputMask(), LossInputMask()):
        seen = mask(images, masks, 8).images
        assert seen.dtype == torch.uint8
        assert torch.equal(seen[:, :, 16:40, 16:40], images[:, :, 16:40, 16:40])
        outside = seen.permute(0, 2, 3, 1)[~masks]
        assert outside.unique().tolist() == [GREY]
    wide = InputMask(dilation_cells=1)(images, masks, 8).images
    assert torch.equal(wide[:, :, 8:48, 8:48], images[:, :, 8:48, 8:48])
    assert wide[0, 0, 7, 7] == GREY


@pytest.mark.parametrize(
    ("kind", "loss", "latent", "pixels", "target"),
    [
        (LossMask, True, False, False, False),
        (InputMask, False, False, True, False),
        (LossInputMask, True, False, True, False),
        (LatentMask, False, True, False, False),
        (PriorMask, False, False, False, True),
    ],
)
def test_every_mask_acts_where_its_equation_says(
    kind: type[LossMask], loss: bool, latent: bool, pixels: bool, target: bool
) -> None:
    masks, images = square(64, 16, 40), torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    mask = kind()
    assert (act(mask, masks).weights is not None) == loss
    assert (act(mask, masks).latent_weights is not None) == latent
    assert (act(mask, masks).target_weights is not None) == target
    assert (not torch.equal(mask(images, masks, 8).images, images)) == pixels
    with pytest.raises(UserError, match="Teapot has no masks"):
        act(mask, None, "Teapot")


def test_a_mask_of_the_whole_image_is_told() -> None:
    masks = torch.cat([square(64, 0, 64), square(64, 16, 40)])
    with pytest.warns(UserWarning, match="1 of 2 masks of Teapot cover .* and mask nothing"):
        weights = act(LossMask(), masks, "Teapot").weights
    assert weights is not None
    assert weights[0].min() == 1
    with pytest.warns(UserWarning, match="1 of 2 masks of Teapot cover the whole image"):
        act(LossMask(), torch.cat([square(64, 1, 62), square(64, 16, 40)]), "Teapot")
    with pytest.warns(UserWarning, match="2 of 2 masks of Teapot cover the whole image"):
        act(LossMask(dilation_px_at_512=400), masks, "Teapot")


@pytest.mark.usefixtures("unchecked_shapes")
def test_masks_of_another_size_than_the_images_are_refused() -> None:
    with pytest.raises(UserError, match="make the masks again"):
        InputMask()(torch.zeros(1, 3, 128, 128, dtype=torch.uint8), square(64, 16, 40), 8)
