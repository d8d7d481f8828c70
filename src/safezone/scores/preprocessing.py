"""Images to what an encoder's network was trained on, in torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from safezone.errors import UserError

_PIL_RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic", 4: "area"}


@dataclass(frozen=True)
class Preprocessing:
    """Resize, centre crop, normalise: uint8 [n, 3, h, w] to float32 [n, 3, crop, crop].

    ``size``: the shorter side after the resize (an int; the aspect is kept) or (height, width).
    ``mode``: ``"area"``, ``"nearest"``, or ``"bilinear"``/``"bicubic"`` with antialiasing, as
    Pillow does. ``crop``: (height, width) cut from the centre, or None. ``mean`` and ``std``: per
    channel, for pixels in [0, 1].
    """

    size: int | tuple[int, int]
    mode: str
    crop: tuple[int, int] | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 height width"]:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images are uint8 [n, 3, h, w], not {images.dtype} {images.shape}")
        pixels = self._cropped(self._resized(images.float() / 255))
        mean = pixels.new_tensor(self.mean).view(1, 3, 1, 1)
        return (pixels - mean) / pixels.new_tensor(self.std).view(1, 3, 1, 1)

    def _resized(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        if isinstance(self.size, int):
            scale = self.size / min(height, width)
            target = (round(height * scale), round(width * scale))
        else:
            target = self.size
        if target == (height, width):
            return pixels
        if self.mode in ("area", "nearest"):
            return functional.interpolate(pixels, size=target, mode=self.mode)
        resized = functional.interpolate(pixels, size=target, mode=self.mode, antialias=True)
        return resized.clamp(0, 1)  # bicubic overshoots; 8-bit images could not

    def _cropped(self, pixels: Tensor) -> Tensor:
        if self.crop is None:
            return pixels
        height, width = self.crop
        if pixels.shape[-2] < height or pixels.shape[-1] < width:
            raise ValueError(f"a crop of {self.crop} from images of {tuple(pixels.shape[-2:])}")
        top, left = (pixels.shape[-2] - height) // 2, (pixels.shape[-1] - width) // 2
        return pixels[..., top : top + height, left : left + width]


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
CENTRED = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

DINOV2 = Preprocessing(256, "bicubic", (224, 224), *IMAGENET)
"""As facebook/dinov2-base was evaluated."""
MINI = Preprocessing((64, 64), "area", None, *CENTRED)
"""As the built-in encoders are trained."""


def clip_preprocessing(size: int) -> Preprocessing:
    """OpenAI CLIP's preprocessing for a vision tower of ``size`` pixels."""
    return Preprocessing(size, "bicubic", (size, size), *OPENAI_CLIP)


def _pair(value: int | Mapping[str, int]) -> int | tuple[int, int]:
    """The forms that ``size`` takes in preprocessor_config.json."""
    if isinstance(value, int):
        return value
    if "shortest_edge" in value:
        return int(value["shortest_edge"])
    return int(value["height"]), int(value["width"])


def _square(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _from_settings(settings: Mapping[str, Any], default: Preprocessing) -> Preprocessing:
    result = default
    if "size" in settings:
        result = replace(result, size=_pair(settings["size"]), crop=None)
    if "crop_size" in settings and settings.get("do_center_crop", True):
        result = replace(result, crop=_square(_pair(settings["crop_size"])))
    if settings.get("crop_pct") is not None and isinstance(result.size, int):
        # ConvNeXt and ResNet: resize to size / crop_pct, then crop to size.
        side = result.size
        result = replace(result, size=int(side / settings["crop_pct"]), crop=(side, side))
    if "resample" in settings:
        result = replace(result, mode=_PIL_RESAMPLE[settings["resample"]])
    if "image_mean" in settings:
        result = replace(result, mean=tuple(settings["image_mean"]))
    if "image_std" in settings:
        result = replace(result, std=tuple(settings["image_std"]))
    return result


def read_preprocessing(folder: Path, default: Preprocessing) -> Preprocessing:
    """The preprocessing that ``preprocessor_config.json`` of a model folder describes.

    Understands size, crop_size, crop_pct, resample, image_mean and image_std; what it does not
    say is ``default``'s. Raises UserError when the file is there and cannot be understood.
    """
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return default
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        return _from_settings(settings, default)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: cannot understand the preprocessing ({error!r}); correct size, crop_size, "
            "resample, image_mean and image_std"
        ) from error
