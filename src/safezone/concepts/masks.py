"""Masks of the object: made by GrabCut, dilated, brought to latent size, drawn."""

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from safezone.arrays import Masks
from safezone.errors import UserError

LatentMaskMode = Literal["area", "soft", "nearest", "any"]

_GRABCUT_SIDE = 384
_OUTLINE = (255, 0, 200)
_CELL = (255, 220, 0)


def _largest_filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part with its holes filled."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(ndimage.binary_fill_holes(labels == sizes.argmax()), dtype=np.bool_)


def one_object(mask: NDArray[np.bool_], maker: str) -> NDArray[np.bool_]:
    """The largest connected part of a made mask with its holes filled.

    Raises UserError, naming the ``maker``, when it covers less than 1% or more than 95%.
    """
    found = _largest_filled(mask)
    share = float(found.mean())
    if not 0.01 <= share <= 0.95:
        raise UserError(
            f"{maker} found no clear object (it covers {share:.0%} of the image); "
            "give a mask file instead"
        )
    return found


def _centre_prior(height: int, width: int) -> NDArray[np.uint8]:
    """GrabCut's start: certain background at the rim, likely object in the centre ellipse."""
    import cv2

    y, x = np.mgrid[:height, :width]
    reach = np.hypot((2 * y + 1) / height - 1, (2 * x + 1) / width - 1)
    prior = np.where(reach < 0.8, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    rim = max(1, round(0.02 * min(height, width)))
    inner = np.zeros((height, width), dtype=np.bool_)
    inner[rim:-rim, rim:-rim] = True
    prior[~inner] = cv2.GC_BGD
    return prior


def grabcut(image: NDArray[np.uint8], iterations: int = 5) -> NDArray[np.bool_]:
    """A mask of the thing in the middle: uint8 [h, w, 3] to bool [h, w]; the same every time.

    GrabCut (Rother et al., 2004) from a centre ellipse, on at most 384 pixels a side; then the
    largest connected part with its holes filled. Not valid for objects away from the middle or
    coloured like what is behind them: look at :func:`draw_preview`. Raises UserError when the
    result covers less than 1% or more than 95% of the image, or when OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            "GrabCut needs OpenCV; install opencv-python-headless or give mask files"
        ) from error
    height, width = image.shape[:2]
    scale = min(1.0, _GRABCUT_SIDE / max(height, width))
    small_size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small = cv2.resize(image, small_size, interpolation=cv2.INTER_AREA)
    prior = _centre_prior(small_size[1], small_size[0])
    cv2.setRNGSeed(0)  # GrabCut starts from k-means, which draws from OpenCV's own generator
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(
        np.ascontiguousarray(small[..., ::-1]), prior, (0, 0, 1, 1), background, foreground,
        iterations, cv2.GC_INIT_WITH_MASK,
    )  # fmt: skip
    found = one_object((prior == cv2.GC_FGD) | (prior == cv2.GC_PR_FGD), "GrabCut")
    full = cv2.resize(found.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(full >= 0.5)


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
    if radius == 0:
        return masks.clone()
    grown = masks.unsqueeze(1).to(torch.float32)
    # The square window is separable: rows, then columns.
    grown = F.max_pool2d(grown, (1, 2 * radius + 1), stride=1, padding=(0, radius))
    grown = F.max_pool2d(grown, (2 * radius + 1, 1), stride=1, padding=(radius, 0))
    return grown.squeeze(1) > 0.5


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
