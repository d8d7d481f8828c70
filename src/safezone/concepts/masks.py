"""Masks of the object: made by GrabCut, dilated, brought to latent size, drawn."""

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from safezone.arrays import Masks
from safezone.errors import UserError

LatentMaskMode = Literal["area", "soft", "nearest", "any"]

SURE: Final = 0.9
"""A made mask that is less sure than this should be looked at."""
_GRABCUT_SIDE = 384
_OUTLINE = (255, 0, 200)
_CELL = (255, 220, 0)


@dataclass(frozen=True)
class Hint:
    """Where the object is, in pixels of the upright image: a box around it, a point on it."""

    box: tuple[int, int, int, int] | None = None
    """Left, top, right, bottom; the right and bottom edges are outside."""
    point: tuple[int, int] | None = None
    """Across and down."""

    def require_inside(self, height: int, width: int) -> None:
        """Raises UserError when the box or the point is not in an image of this size."""
        if self.box is not None:
            left, top, right, bottom = self.box
            if not (0 <= left < right <= width and 0 <= top < bottom <= height):
                raise UserError(
                    f"the box {left} {top} {right} {bottom} (left, top, right, bottom) is not in "
                    f"the image of {width} x {height} pixels; give another"
                )
        if self.point is not None and not (
            0 <= self.point[0] < width and 0 <= self.point[1] < height
        ):
            raise UserError(
                f"the point {self.point[0]} {self.point[1]} (across, down) is not in the image of "
                f"{width} x {height} pixels; give another"
            )

    def scaled(self, across: float, down: float) -> "Hint":
        """The hint in an image resized by these factors."""
        box, point = self.box, self.point
        if box is not None:
            left, top = math.floor(box[0] * across), math.floor(box[1] * down)
            box = (left, top, math.ceil(box[2] * across), math.ceil(box[3] * down))
        if point is not None:
            point = (int(point[0] * across), int(point[1] * down))
        return Hint(box, point)


NO_HINT: Final = Hint()


@dataclass(frozen=True, eq=False)
class Cutout:
    """A mask that was made, bool [h, w], and how sure its maker is of it, in [0, 1]."""

    mask: NDArray[np.bool_]
    sureness: float


def one_object(mask: NDArray[np.bool_], maker: str, hint: Hint = NO_HINT) -> NDArray[np.bool_]:
    """The part of a made mask with the hint's point on it, else the largest, its holes filled.

    Raises UserError, naming the ``maker``, when it covers less than 1% or more than 95%.
    """
    labels, count = ndimage.label(mask)
    if count:
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        label = 0 if hint.point is None else labels[hint.point[1], hint.point[0]]
        mask = np.asarray(ndimage.binary_fill_holes(labels == (label or sizes.argmax())))
    share = float(mask.mean())
    if not 0.01 <= share <= 0.95:
        give = "a box, a point" if hint == NO_HINT else "another box or point"
        raise UserError(
            f"{maker} found no clear object (it covers {share:.0%} of the image); give {give} or a "
            "mask file"
        )
    return mask


def _prior(height: int, width: int, reach: float, hint: Hint) -> NDArray[np.uint8]:
    """GrabCut's start: certain background at the rim or outside the box, likely object inside."""
    import cv2

    left, top, right, bottom = hint.box or (0, 0, width, height)
    y, x = np.mgrid[:height, :width]
    across = (2 * (x - left) + 1) / (right - left) - 1
    down = (2 * (y - top) + 1) / (bottom - top) - 1
    inside = np.hypot(across, down) < reach * (1.0 if hint.box is None else 1.25)
    prior = np.where(inside, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    if hint.box is not None:
        prior[(abs(across) > 1) | (abs(down) > 1)] = cv2.GC_BGD
    else:
        rim = max(1, round(0.02 * min(height, width)))
        prior[:rim] = prior[-rim:] = prior[:, :rim] = prior[:, -rim:] = cv2.GC_BGD
    if hint.point is not None:
        spot = np.hypot(x - hint.point[0], y - hint.point[1]) < 0.03 * min(height, width)
        prior[spot] = cv2.GC_FGD
    return prior


def grabcut(
    image: NDArray[np.uint8], hint: Hint = NO_HINT, *, reach: float = 0.8
) -> NDArray[np.bool_]:
    """A mask of the thing in the middle, or where the hint says: uint8 [h, w, 3] to bool [h, w].

    GrabCut (Rother et al., 2004; five iterations) from an ellipse of ``reach`` times the image's
    or the box's half sides, on at most 384 pixels a side; then one connected part with its holes
    filled; the same every time. Not valid for objects coloured like what is behind them: look at
    :func:`draw_preview`. Raises UserError when the result covers less than 1% or more than 95% of
    the image, when the hint is outside it, or when OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            "GrabCut needs OpenCV; install opencv-python-headless or give mask files"
        ) from error
    height, width = image.shape[:2]
    hint.require_inside(height, width)
    scale = min(1.0, _GRABCUT_SIDE / max(height, width))
    small_size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small = cv2.resize(image, small_size, interpolation=cv2.INTER_AREA)
    small_hint = hint.scaled(small_size[0] / width, small_size[1] / height)
    prior = _prior(small_size[1], small_size[0], reach, small_hint)
    cv2.setRNGSeed(0)  # GrabCut starts from k-means, which draws from OpenCV's own generator
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(
        np.ascontiguousarray(small[..., ::-1]), prior, (0, 0, 1, 1), background, foreground,
        5, cv2.GC_INIT_WITH_MASK,
    )  # fmt: skip
    likely = (prior == cv2.GC_FGD) | (prior == cv2.GC_PR_FGD)
    object_ = one_object(likely, "GrabCut", small_hint)
    full = cv2.resize(object_.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(full >= 0.5)


def cut_out(image: NDArray[np.uint8], hint: Hint = NO_HINT) -> Cutout:
    """``grabcut``'s mask; sure is what smaller starts, of reach 0.6 and 0.7, agree with.

    The sureness is the smaller of their intersections over union with the mask; 0 when one of
    them finds no object. Of 28 photographs with masks judged by eye, 14 of the 15 that are wrong
    in part have less than 0.9, and 3 of the 13 right ones. Raises UserError as ``grabcut`` does.
    """
    mask = grabcut(image, hint)
    sureness = 1.0
    for reach in (0.6, 0.7):
        try:
            sureness = min(sureness, iou(mask, grabcut(image, hint, reach=reach)))
        except UserError:
            sureness = 0.0
    return Cutout(mask, sureness)


def iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks of one shape, in [0, 1]; 1 when both are empty."""
    if first.shape != second.shape:
        raise ValueError(f"masks of shapes {first.shape} and {second.shape} cannot be compared")
    union = int(np.count_nonzero(first | second))
    return 1.0 if union == 0 else int(np.count_nonzero(first & second)) / union


def scaled_radius(pixels_at_512: float, size: int) -> int:
    """The paper's dilation radius, stated for 512 pixels, in whole pixels of ``size`` ones.

    floor(r size / 512 + 1/2). Raises UserError when it is negative.
    """
    if pixels_at_512 < 0:
        raise UserError(f"a mask dilation of {pixels_at_512} px is negative; give 0 or more")
    return math.floor(pixels_at_512 * size / 512 + 0.5)


def dilate(masks: Masks, radius: int) -> Masks:
    """Grows masks by ``radius`` pixels to each side: Pillow's ``MaxFilter(2 * radius + 1)``.

    The window is a square, so corners grow by the diagonal. ``masks``: bool [n, h, w]. Raises
    ValueError when the radius is negative.
    """
    if radius < 0:
        raise ValueError(f"a mask cannot be dilated by {radius} pixels")
    window = (1, 2 * radius + 1, 2 * radius + 1)
    return torch.from_numpy(ndimage.maximum_filter(masks.cpu().numpy(), window)).to(masks.device)


def _cells(masks: Masks, factor: int, mode: LatentMaskMode, threshold: float) -> Tensor:
    """float32 [n, 1, h / factor, w / factor]; may be empty."""
    height, width = masks.shape[-2:]
    if height % factor or width % factor:
        raise UserError(
            f"masks of {height} x {width} pixels do not divide into the model's cells of "
            f"{factor} px; choose an image size that is a multiple of {factor}"
        )
    weights = masks.unsqueeze(1).to(torch.float32)
    match mode:
        case "soft":
            return F.avg_pool2d(weights, factor)
        case "area":
            return (F.avg_pool2d(weights, factor) >= threshold).to(torch.float32)
        case "nearest":
            return weights[..., factor // 2 :: factor, factor // 2 :: factor].contiguous()
        case "any":
            return F.max_pool2d(weights, factor)
        case _:
            raise UserError(f"mask mode {mode!r} is unknown; give area, soft, nearest or any")


def latent_mask(
    masks: Masks, factor: int, mode: LatentMaskMode = "area", threshold: float = 0.5
) -> Tensor:
    """Masks at latent size: bool [n, S, S] to float32 [n, 1, S / factor, S / factor] in [0, 1].

    ``area``: 1 where the object covers at least ``threshold`` of the cell; ``soft``: the covered
    share itself; ``nearest``: the pixel at the cell's centre; ``any``: 1 where a single pixel is
    covered. Raises UserError when a mask is empty at latent size (its loss would be zero) or when
    the sides are no multiples of ``factor``.
    """
    weights = _cells(masks, factor, mode, threshold)
    empty = (weights.flatten(1).sum(1) == 0).nonzero().flatten().tolist()
    if empty:
        raise UserError(
            f"mask {empty[0] + 1} of {len(masks)} is empty at latent size ({factor} px a cell); "
            "draw it larger, dilate it, or use mask mode soft or any"
        )
    return weights


def draw_preview(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], factor: int
) -> NDArray[np.uint8]:
    """The image with the mask's outline and the latent cells that it keeps, uint8 [h, w, 3].

    Cells of ``factor`` pixels of which the mask covers at least half are framed, the rest is
    darkened. An empty mask keeps no cell. ``image``: uint8 [h, w, 3]; ``mask``: bool [h, w].
    """
    kept = _cells(torch.from_numpy(mask)[None], factor, "area", 0.5)[0, 0].bool().numpy()
    inside = kept.repeat(factor, axis=0).repeat(factor, axis=1)
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    frame = inside & ((y % factor == 0) | (x % factor == 0))
    outline = mask & ~ndimage.binary_erosion(mask, border_value=1)
    picture = image.astype(np.float32) * np.where(inside, 1.0, 0.45)[..., None]
    picture[frame] = 0.6 * picture[frame] + 0.4 * np.array(_CELL, dtype=np.float32)
    picture[outline] = _OUTLINE
    return np.rint(picture).clip(0, 255).astype(np.uint8)
