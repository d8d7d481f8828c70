"""One property for every transform; what each is known to do."""

import pytest
import torch
from torch import Tensor

from safezone.arrays import rand, stream
from safezone.errors import UserError
from safezone.image_metrics import psnr
from safezone.images import jpeg, to_float, to_uint8
from safezone.poisons import transform
from safezone.poisons.transforms import (
    TRANSFORMS,
    Blur,
    Crop,
    DifferentiableJpeg,
    Flip,
    InTurn,
    Shrink,
)

NAMES = [*TRANSFORMS, "jpeg25", "jpeg+resize+crop+flip+blur"]


def streams(count: int, purpose: str = "t") -> list[torch.Generator]:
    return [stream(purpose, i) for i in range(count)]


@pytest.fixture
def images() -> Tensor:
    """Smooth, float [3, 3, 32, 32] in [0, 1]."""
    coarse = rand(streams(3, "images"), (3, 4, 4))
    return torch.nn.functional.interpolate(coarse, size=32, mode="bilinear")


@pytest.fixture
def masks() -> Tensor:
    found = torch.zeros(3, 1, 32, 32)
    found[:, :, 8:20, 4:16] = 1
    return found


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_the_shape_passes_a_gradient_and_draws_for_each_image_alone(
    name: str, images: Tensor, masks: Tensor
) -> None:
    operation = transform(name)
    images.requires_grad_(True)
    found, moved = operation(images, masks, streams(3))
    assert moved is not None
    assert (found.shape, moved.shape) == (images.shape, masks.shape)
    assert ((moved == 0) | (moved == 1)).all()
    (gradient,) = torch.autograd.grad(found[1].sum(), images)
    assert gradient[1].isfinite().all()
    assert gradient[1].abs().sum() > 0
    assert not gradient[[0, 2]].any()
    alone, mask_alone = operation(images[2:], masks[2:], streams(3)[2:])
    assert mask_alone is not None
    torch.testing.assert_close(alone, found[2:], atol=1e-5, rtol=0)
    assert torch.equal(mask_alone, moved[2:])
    again, none = operation(images, None, streams(3))
    assert torch.equal(again, found)
    assert none is None


@pytest.mark.parametrize("name", ["crop", "flip", "crop+flip"])
def test_a_mask_moves_with_its_image(name: str, masks: Tensor) -> None:
    pictures = masks.expand(-1, 3, -1, -1)
    found, moved = transform(name)(pictures, masks, streams(3))
    assert moved is not None
    assert ((found.mean(dim=1, keepdim=True) > 0.5) == (moved > 0.5)).double().mean() > 0.97
    assert not torch.equal(moved, masks)


@pytest.mark.parametrize("quality", [25, 60, 90])
def test_the_differentiable_jpeg_is_close_to_the_real_one(quality: int, images: Tensor) -> None:
    pixels = to_uint8(images)
    found, _ = transform(f"jpeg{quality}")(to_float(pixels), None, streams(3))
    real = to_float(jpeg(pixels, quality))
    assert (psnr(found, real) > psnr(to_float(pixels), real) + 3).all()


def test_transforms_compose_from_left_to_right_and_are_values() -> None:
    composed = Flip() + Crop() + Blur()
    assert composed == InTurn((Flip(), Crop(), Blur())) == transform("flip + CROP+blur")
    assert transform("jpeg40") == DifferentiableJpeg(40, 40)
    assert Flip() + (Crop() + Blur()) == composed


def test_a_whole_crop_and_a_full_rescale_change_nothing(images: Tensor, masks: Tensor) -> None:
    for operation in (Crop(low=1.0), Shrink(1.0, 1.0), Blur(0.05, 0.05)):
        found, moved = operation(images, masks, streams(3))
        torch.testing.assert_close(found, images, atol=1e-5, rtol=0)
        assert moved is not None
        assert torch.equal(moved, masks)


@pytest.mark.parametrize("text", ["", "jpg", "jpeg0", "jpeg101", "flip+", "jpegx"])
def test_an_unknown_transform_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"no transform|quality of the transform"):
        transform(text)


def test_ranges_that_make_no_sense_are_refused() -> None:
    for wrong in (lambda: Shrink(0.9, 0.5), lambda: Crop(0.0), lambda: Blur(0.1, 80)):
        with pytest.raises(UserError, match=r"(low|high) is .*; give"):
            wrong()
