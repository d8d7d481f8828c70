"""A folder looked at: a score for each image, and what to train it with."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from jaxtyping import UInt8
from torch import Tensor

from safezone.concepts import image_files, mask_files
from safezone.errors import UserError
from safezone.images import read_image, to_square
from safezone.inspection.detector import Detector, PoisonKind
from safezone.inspection.network import network_features
from safezone.inspection.pixels import SMALLEST, pixel_features
from safezone.models.base import Model

_PASS: Final = 4
"""Images that the networks see at once."""
ADVICE: Final[Mapping[PoisonKind, tuple[str, str]]] = {
    "fine": ("szt", "jpeg+t600"),
    "broad": ("lm+t600", "t600"),
    "nothing": ("nominal", "nominal"),
}
"""What to train with, where there are masks and where there are none: JPEG takes high frequencies
only; the timesteps and the mask help against both."""


@dataclass(frozen=True)
class Finding:
    """What is told of one image. ``score``: in [0, 1]; ``flagged``: above the threshold."""

    name: str
    score: float
    flagged: bool
    kind: PoisonKind
    features: Mapping[str, float]


def features_of(folder: Path, model: Model | None) -> dict[str, Mapping[str, float]]:
    """The features of every image of a folder by its file's name.

    Pixels are looked at in the file's own size, or, with a model, as the square that it is trained
    on, which a poison was made for. Raises UserError as the reader of images does, and for images
    that are too small.
    """
    pictures = {}
    for path in image_files(folder):
        image = read_image(path)
        if min(image.shape[:2]) < SMALLEST:
            raise UserError(
                f"{path} has {image.shape[1]} x {image.shape[0]} pixels, too few to inspect; give "
                f"images of at least {SMALLEST} pixels a side"
            )
        square = image if model is None else to_square(image, model.image_size)
        pictures[path.name] = torch.from_numpy(square).permute(2, 0, 1).contiguous()
    return dict(zip(pictures, image_features(list(pictures.values()), model), strict=True))


def image_features(
    pictures: Sequence[UInt8[Tensor, "3 height width"]], model: Model | None
) -> list[Mapping[str, float]]:
    """The features of each image; of pixels alone without a model, else of squares of its size."""
    result = [dict(pixel_features(picture)) for picture in pictures]
    for first in range(0, len(pictures) if model is not None else 0, _PASS):
        assert model is not None
        rows = slice(first, first + _PASS)
        for name, values in network_features(model, torch.stack([*pictures[rows]])).items():
            for each, value in zip(result[rows], values.tolist(), strict=True):
                each[name] = value
    return list(result)


def findings(
    detector: Detector, features: Mapping[str, Mapping[str, float]]
) -> tuple[Finding, ...]:
    """One for each image, in the order of the files."""
    result = []
    for name, each in features.items():
        score = detector.score(each)
        flagged = score > detector.threshold
        result.append(Finding(name, score, flagged, detector.kind(each), each))
    return tuple(result)


def common_kind(found: Sequence[Finding]) -> PoisonKind:
    """The kind of most flagged images; nothing where none is."""
    kinds = [each.kind for each in found if each.flagged]
    return max(("fine", "broad"), key=kinds.count) if kinds else "nothing"


def personalize_command(folder: Path, kind: PoisonKind, model: str) -> str:
    """The command that trains on the folder with the defense for that kind."""
    masks = bool(mask_files(folder, image_files(folder)))
    defense = ADVICE[kind][0 if masks else 1]
    words = ["safezone", "personalize", str(folder), "--defense", defense, "--model", model]
    return shlex.join([*words, "--out", f"runs/{folder.resolve().name}"])
