"""Masks: dilation as Pillow does it, latent cells, GrabCut, the preview."""

import sys
from itertools import pairwise
from typing import get_args

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from safezone.concepts.masks import (
    SURE,
    Hint,
    LatentMaskMode,
    cut_out,
    dilate,
    draw_preview,
    grabcut,
    iou,
    latent_mask,
    one_object,
    scaled_radius,
)
from safezone.errors import UserError
from safezone.miniworld import novel_concepts, render

MODES: tuple[LatentMaskMode, ...] = get_args(LatentMaskMode)


def random_masks(count: int, height: int, width: int, seed: int, density: float) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((count, height, width)) < density)


@settings(max_examples=50, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    radius=st.integers(0, 9),
    seed=st.integers(0, 99),
    density=st.sampled_from([0.0, 0.01, 0.1, 0.9, 1.0]),
)
def test_dilate_is_pillows_max_filter(
    height: int, width: int, radius: int, seed: int, density: float
) -> None:
    masks = random_masks(2, height, width, seed, density)
    grown = dilate(masks, radius)
    assert grown.dtype == torch.bool
    for mask, result in zip(masks, grown, strict=True):
        picture = Image.fromarray(mask.numpy().astype(np.uint8) * 255)
        expected = np.asarray(picture.filter(ImageFilter.MaxFilter(2 * radius + 1))) > 0
        np.testing.assert_array_equal(result.numpy(), expected)


@pytest.mark.parametrize("pixels", [8, 16, 24])
def test_dilate_at_the_papers_size(pixels: int) -> None:
    mask = torch.zeros(1, 64, 512, dtype=torch.bool)
    mask[0, 20:25, 300] = True
    picture = Image.fromarray(mask[0].numpy().astype(np.uint8) * 255)
    expected = np.asarray(picture.filter(ImageFilter.MaxFilter(2 * pixels + 1))) > 0
    np.testing.assert_array_equal(dilate(mask, scaled_radius(pixels, 512))[0].numpy(), expected)


def test_dilate_refuses_a_negative_radius() -> None:
    with pytest.raises(ValueError, match="-1"):
        dilate(torch.ones(1, 4, 4, dtype=torch.bool), -1)


@pytest.mark.parametrize(
    ("pixels", "size", "radius"),
    [(16, 512, 16), (16, 128, 4), (8, 128, 2), (16, 64, 2), (2, 128, 1), (16, 768, 24), (0, 64, 0)],
)
def test_radius_scales_with_the_image(pixels: float, size: int, radius: int) -> None:
    assert scaled_radius(pixels, size) == radius


def test_radius_must_not_be_negative() -> None:
    with pytest.raises(UserError, match="-16 px is negative; give 0 or more"):
        scaled_radius(-16, 512)


def cell_with(covered: int, side: int = 8) -> Tensor:
    """One cell of 8 x 8 pixels, the first ``covered`` of them True; a second, full cell below."""
    mask = torch.ones(1, 2 * side, side, dtype=torch.bool)
    mask[0, :side] = (torch.arange(side * side) < covered).view(side, side)
    return mask


@pytest.mark.parametrize(
    ("mode", "covered", "weight"),
    [
        ("area", 31, 0.0),
        ("area", 32, 1.0),
        ("soft", 31, 31 / 64),
        ("soft", 0, 0.0),
        ("nearest", 36, 0.0),
        ("nearest", 37, 1.0),
        ("any", 0, 0.0),
        ("any", 1, 1.0),
    ],
)
def test_latent_modes_by_covered_pixels(mode: LatentMaskMode, covered: int, weight: float) -> None:
    weights = latent_mask(cell_with(covered), 8, mode)
    assert weights.shape == (1, 1, 2, 1)
    assert weights.flatten().tolist() == [weight, 1.0]


def test_nearest_is_pillows() -> None:
    masks = random_masks(1, 48, 48, seed=5, density=0.5)
    picture = Image.fromarray(masks[0].numpy().astype(np.uint8))
    expected = np.asarray(picture.resize((6, 6), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(latent_mask(masks, 8, "nearest")[0, 0].numpy(), expected)


@pytest.mark.parametrize("mode", MODES)
def test_latent_masks_do_not_depend_on_neighbours(mode: LatentMaskMode) -> None:
    masks = random_masks(3, 32, 32, seed=1, density=0.6)
    together = latent_mask(masks, 4, mode)
    assert together.dtype == torch.float32
    assert together.shape == (3, 1, 8, 8)
    assert 0 <= together.min() <= together.max() <= 1
    for index in range(3):
        assert torch.equal(latent_mask(masks[index : index + 1], 4, mode)[0], together[index])


def test_threshold_orders_area_masks() -> None:
    masks = random_masks(1, 32, 32, seed=2, density=0.5)
    kept = [latent_mask(masks, 4, threshold=t).sum().item() for t in (0.3, 0.5, 0.6)]
    assert all(more >= fewer for more, fewer in pairwise(kept))


def test_a_mask_empty_at_latent_size_is_refused() -> None:
    masks = torch.ones(2, 16, 16, dtype=torch.bool)
    masks[1] = False
    masks[1, 0, 0] = True
    assert latent_mask(masks, 8, "any")[1].sum() == 1
    with pytest.raises(UserError, match=r"mask 2 of 2 is empty at latent size.*dilate it"):
        latent_mask(masks, 8)


def test_sides_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match=r"100 x 100 pixels .* multiple of 8"):
        latent_mask(torch.ones(1, 100, 100, dtype=torch.bool), 8)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(UserError, match="'bilinear' is unknown; give area, soft, nearest or any"):
        latent_mask(torch.ones(1, 16, 16, dtype=torch.bool), 8, "bilinear")  # type: ignore[arg-type]


def disc(height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """An orange disc with a hole of the background's colour, on green noise, and its mask."""
    y, x = np.mgrid[:height, :width]
    radius = np.hypot(y - height / 2, x - width / 2) / min(height, width)
    noise = np.random.default_rng(0).integers(-20, 20, (height, width, 3))
    colours = np.where((radius < 0.28)[..., None], [230, 130, 20], [40, 130, 60])
    colours = np.where((radius < 0.05)[..., None], [40, 130, 60], colours)
    return (colours + noise).clip(0, 255).astype(np.uint8), radius < 0.28


@pytest.mark.parametrize(("height", "width"), [(96, 96), (80, 140), (500, 420)])
def test_grabcut_finds_the_object_and_fills_holes(height: int, width: int) -> None:
    image, mask = disc(height, width)
    found = grabcut(image)
    assert found.dtype == np.bool_
    assert found.shape == (height, width)
    assert iou(found, mask) > 0.93


@pytest.mark.parametrize("index", [3, 5, 6])
def test_grabcut_does_not_depend_on_what_was_drawn_before(index: int) -> None:
    image = render(novel_concepts()[index].scenes[0]).image
    masks = []
    for seed in (1, 2, 3):
        cv2.setRNGSeed(seed)
        masks.append(grabcut(image))
    assert all(np.array_equal(mask, masks[0]) for mask in masks)


def test_grabcut_mostly_agrees_with_the_mini_worlds_masks() -> None:
    agreement = []
    for novel in novel_concepts()[:5]:
        picture = render(novel.scenes[0])
        agreement.append(iou(grabcut(picture.image), picture.mask >= 128))
    assert np.median(agreement) > 0.6


def box_around(mask: NDArray[np.bool_], margin: int = 2) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the mask, with a margin."""
    down, across = np.nonzero(mask)
    height, width = mask.shape
    left, right = max(0, across.min() - margin), min(width, across.max() + 1 + margin)
    top, bottom = max(0, down.min() - margin), min(height, down.max() + 1 + margin)
    return int(left), int(top), int(right), int(bottom)


def test_a_box_helps_on_the_mini_worlds_masks() -> None:
    gains = []
    for novel in novel_concepts()[3:]:
        picture = render(novel.scenes[0])
        mask = picture.mask >= 128
        without = iou(grabcut(picture.image), mask)
        hinted = iou(grabcut(picture.image, Hint(box=box_around(mask))), mask)
        assert hinted >= without - 0.01, novel.name  # an outline's pixels, where both are right
        gains.append(hinted - without)
    assert np.mean(gains) > 0.1
    assert max(gains) > 0.3


def two_discs() -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]:
    """A large disc in the middle, a small one in the corner, and the mask of each."""
    y, x = np.mgrid[:120, :160]
    large = np.hypot(y - 60, x - 75) < 32
    small = np.hypot(y - 22, x - 132) < 14
    colours = np.where((large | small)[..., None], [220, 60, 40], [50, 110, 70])
    noise = np.random.default_rng(1).integers(-15, 15, (*large.shape, 3))
    return (colours + noise).clip(0, 255).astype(np.uint8), large, small


@pytest.mark.parametrize(
    ("hint", "give"),
    [
        (Hint(), "give a box, a point or a mask file"),
        (Hint(box=(1, 1, 8, 8)), "give another box or point or a mask file"),
        (Hint(point=(1, 1)), "give another box or point or a mask file"),
    ],
)
def test_what_to_give_where_nothing_is_found_is_not_what_was_given(hint: Hint, give: str) -> None:
    with pytest.raises(UserError, match=f"covers 0% of the image.; {give}"):
        one_object(np.zeros((9, 9), dtype=np.bool_), "SAM", hint)


@pytest.mark.parametrize("hint", ["a point", "a box", "both"])
def test_a_hint_says_which_of_two_things_is_meant(hint: str) -> None:
    image, large, small = two_discs()
    assert iou(grabcut(image), large) > 0.95
    box = None if hint == "a point" else box_around(small, 4)
    point = None if hint == "a box" else (132, 22)
    cutout = cut_out(image, Hint(box, point))
    assert iou(cutout.mask, small) > 0.95
    assert cutout.sureness > 0.95


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Hint(box=(0, 0, 161, 10)), r"the box 0 0 161 10 .* image of 160 x 120 pixels"),
        (Hint(box=(10, 10, 10, 20)), "the box 10 10 10 20"),
        (Hint(box=(-1, 0, 9, 9)), "the box -1 0 9 9"),
        (Hint(point=(160, 0)), r"the point 160 0 .* image of 160 x 120 pixels"),
        (Hint(point=(0, -1)), "the point 0 -1"),
    ],
)
def test_a_hint_outside_the_image_is_refused(hint: Hint, words: str) -> None:
    with pytest.raises(UserError, match=words):
        cut_out(two_discs()[0], hint)


@pytest.mark.parametrize(
    ("name", "right", "sure"), [("TwoToneHouse", True, True), ("PartyFish", False, False)]
)
def test_a_mask_is_as_sure_as_what_other_starts_agree_with(
    name: str, right: bool, sure: bool
) -> None:
    (novel,) = (each for each in novel_concepts() if each.name == name)
    picture = render(novel.scenes[0])
    cutout = cut_out(picture.image)
    others = [iou(cutout.mask, grabcut(picture.image, reach=reach)) for reach in (0.6, 0.7)]
    assert cutout.sureness == min(others)
    assert (iou(cutout.mask, picture.mask >= 128) > 0.9) == right
    assert (cutout.sureness >= SURE) == sure


def test_grabcut_refuses_an_image_without_an_object() -> None:
    with pytest.raises(UserError, match=r"no clear object .* give .* a mask file"):
        grabcut(np.full((64, 64, 3), 128, dtype=np.uint8))


def test_grabcut_without_opencv_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match="needs OpenCV; install opencv-python-headless"):
        grabcut(disc(32, 32)[0])


@pytest.mark.parametrize(
    ("first", "second", "value"),
    [([1, 1, 0], [1, 1, 0], 1.0), ([1, 1, 0], [0, 1, 1], 1 / 3), ([1, 0, 0], [0, 0, 1], 0.0)],
)
def test_iou(first: list[int], second: list[int], value: float) -> None:
    assert iou(np.array([first]) > 0, np.array([second]) > 0) == value


def test_iou_of_empty_masks_is_one_and_shapes_must_agree() -> None:
    empty = np.zeros((2, 2), dtype=np.bool_)
    assert iou(empty, empty) == 1.0
    with pytest.raises(ValueError, match="cannot be compared"):
        iou(empty, empty[:1])


def test_preview_shows_kept_cells_as_they_are_and_darkens_the_rest() -> None:
    image = np.full((32, 32, 3), 200, dtype=np.uint8)
    mask = np.zeros((32, 32), dtype=np.bool_)
    mask[8:24, 8:24] = True
    preview = draw_preview(image, mask, 8)
    assert preview.shape == image.shape
    assert preview.dtype == np.uint8
    assert preview[12, 12].tolist() == [200, 200, 200]
    assert preview[4, 4].tolist() == [90, 90, 90]
    assert preview[8, 8].tolist() == preview[23, 23].tolist() == [255, 0, 200]
    assert preview[16, 12].tolist() not in ([200, 200, 200], [90, 90, 90])


def test_preview_of_an_empty_mask_is_dark() -> None:
    image = np.full((16, 16, 3), 200, dtype=np.uint8)
    assert (draw_preview(image, np.zeros((16, 16), dtype=np.bool_), 8) == 90).all()
