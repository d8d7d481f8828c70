"""What an encoder is shown and makes of it."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from safezone.errors import UserError
from safezone.files import digest
from safezone.models.fingerprint import fingerprint
from safezone.reading import parse_json
from safezone.scores.metrics import frechet_distance, kernel_distance, similarity


class Score(NamedTuple):
    """One number with how many generated and reference images it rests on (0: none used)."""

    metric: str
    value: float
    n_generated: int
    n_reference: int


@dataclass(frozen=True, eq=False)
class Pictures:
    """The generated images of one run, their prompts and the clean images of the object.

    ``prompts``: one for each generated image, with ``placeholder`` in it; empty where they are not
    known. ``class_word``: the object's noun. ``vectors``: what was learned for the placeholder,
    float [k, width], k = 0 where the placeholder is a plain word, None where it is not known;
    ``word_vectors``: the rows of the class word in the lookup of the model. Raises ValueError for
    unequal counts or no images.
    """

    generated: UInt8[Tensor, "n 3 h w"]
    prompts: Sequence[str]
    clean: UInt8[Tensor, "m 3 s s"]
    class_word: str = ""
    placeholder: str = ""
    vectors: Float[Tensor, "k width"] | None = None
    word_vectors: Float[Tensor, "words lookup"] | None = None

    def __post_init__(self) -> None:
        n, m = len(self.generated), len(self.clean)
        if not n or not m or len(self.prompts) not in (0, n):
            raise ValueError(
                f"{n} generated images, {len(self.prompts)} prompts, {m} references; give at least "
                "one image on each side and as many prompts as generated images, or none"
            )


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
        # ConvNeXt and ResNet: resize to size / crop_pct, then crop to size; from 384 on neither.
        side = result.size
        larger = (side, side) if side >= 384 else int(side / settings["crop_pct"])
        result = replace(result, size=larger, crop=(side, side))
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
        settings = parse_json(path.read_text(encoding="utf-8"))
        return _from_settings(settings, default)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: cannot understand the preprocessing ({error!r}); correct size, crop_size, "
            "resample, image_mean and image_std"
        ) from error


_BATCH = 64


def in_batches(images: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """``encode`` over at most 64 images at a time, as float32 rows on the CPU.

    Raises ValueError when there are no images.
    """
    if len(images) == 0:
        raise ValueError("no images to encode")
    return torch.cat([encode(batch).float().cpu() for batch in images.split(_BATCH)])


class ImageEncoder(Protocol):
    """Images to features; rows are independent of each other.

    Features are not normalised: cosines do that themselves and Fréchet distances must not.
    """

    @property
    def name(self) -> str:
        """What the encoder is called, for messages and records."""

    def features(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n width"]:
        """float32 features on the CPU of uint8 images [n, 3, h, w]; ValueError for none."""

    def fingerprint(self) -> str:
        """A hash of all weights, the preprocessing and, where there is one, the tokenizer."""


@dataclass(frozen=True, eq=False)
class InstanceEncoder:
    """A network whose features tell objects apart: DINOv2's CLS token, a CNN's pooled output.

    ``pool``: the network's output to [n, d]. ``projection``: a linear map behind it, or None.
    """

    name: str
    network: nn.Module
    pool: Callable[[Any], Tensor]
    preprocessing: Preprocessing
    projection: nn.Linear | None
    device: torch.device

    @torch.no_grad()
    def features(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n width"]:
        def encode(batch: Tensor) -> Tensor:
            rows = self.pool(self.network(self.preprocessing(batch.to(self.device))))
            return rows if self.projection is None else cast(Tensor, self.projection(rows))

        return in_batches(images, encode)

    def fingerprint(self) -> str:
        return fingerprint(self)


class CachedEncoder:
    """An image encoder that remembers the features of the ``capacity`` images last seen.

    Keyed by the pixels' content, within this process; clean references are encoded once.
    """

    def __init__(self, encoder: ImageEncoder, capacity: int = 8192) -> None:
        self.name = encoder.name
        self._encoder = encoder
        self._capacity = capacity
        self._rows: OrderedDict[str, Tensor] = OrderedDict()

    def features(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n width"]:
        keys = [digest(image) for image in images]
        known = {key: self._rows[key] for key in keys if key in self._rows}
        missing = {key: i for i, key in enumerate(keys) if key not in known}  # one index a content
        if missing:
            rows = self._encoder.features(images[list(missing.values())])
            known |= zip(missing, rows, strict=True)
        for key in dict.fromkeys(keys):
            self._rows[key] = known[key]
            self._rows.move_to_end(key)
        while len(self._rows) > self._capacity:
            self._rows.popitem(last=False)
        return torch.stack([known[key] for key in keys])

    def fingerprint(self) -> str:
        return self._encoder.fingerprint()


def measure_instance(encoder: ImageEncoder, pictures: Pictures) -> Iterator[Score]:
    """How like the object the generated images are.

    ``instance_similarity``: mean cosine of all (generated, clean) pairs of features, in [-1, 1].
    ``frechet`` and ``kernel``: distances of the two sets of features; left out with fewer than two
    images on a side.
    """
    n, m = len(pictures.generated), len(pictures.clean)
    ours, clean = encoder.features(pictures.generated), encoder.features(pictures.clean)
    yield Score("instance_similarity", float(similarity(ours, clean).mean()), n, m)
    if min(n, m) > 1:
        yield Score("frechet", frechet_distance(ours, clean), n, m)
        yield Score("kernel", kernel_distance(ours, clean), n, m)
