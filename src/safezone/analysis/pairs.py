"""Pairs of a clean and a changed image from two folders of any size, in order."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from safezone.concepts import image_files
from safezone.errors import UserError
from safezone.images import read_image, to_square


@dataclass(frozen=True, eq=False)
class Pair:
    """``clean`` and ``changed``: uint8 [3, height, width] of one shape, of the files ``name``."""

    name: str
    clean: UInt8[Tensor, "3 height width"]
    changed: UInt8[Tensor, "3 height width"]


def read_pairs(clean: Path, changed: Path) -> Iterator[Pair]:
    """The pairs of two folders, matched by the files' stems.

    A clean image of another size than its square partner is cut and resized as ``safezone
    poison`` does (``images.to_square``), so that the folder that a poison was made of can be given
    as it is. Raises UserError for folders without images, an image without partner, and sizes
    that do not fit.
    """
    first = {path.stem: path for path in image_files(clean)}
    second = {path.stem: path for path in image_files(changed)}
    for here, there, folder in ((first, second, changed), (second, first, clean)):
        if missing := here.keys() - there.keys():
            raise UserError(
                f"{folder} has no image called {min(missing)}; give two folders with the same names"
            )
    for name, path in first.items():
        before, after = read_image(path), read_image(second[name])
        if before.shape != after.shape:
            if after.shape[0] != after.shape[1]:
                raise UserError(
                    f"{path} has {before.shape[1]} x {before.shape[0]} pixels and {second[name]} "
                    f"{after.shape[1]} x {after.shape[0]}; give images of one size"
                )
            before = to_square(before, after.shape[0])
        yield Pair(name, _channels_first(before), _channels_first(after))


def read_folder(folder: Path) -> Iterator[UInt8[Tensor, "3 height width"]]:
    """The images of one folder, each in its own size; UserError as ``concepts.image_files``."""
    for path in image_files(folder):
        yield _channels_first(read_image(path))


def _channels_first(image: object) -> Tensor:
    return torch.as_tensor(image).permute(2, 0, 1).contiguous()
