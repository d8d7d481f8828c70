"""Pairs of a clean and a changed image from two folders of any size, in order."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float, UInt8
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from safezone.concepts import image_files
from safezone.errors import Notice, UserError
from safezone.images import read_image, to_square

_ALIKE: Final = 20.0
"""Levels of 255 by which the 8 x 8 thumbnails of one image may differ: more than poisons, filters
and purifiers change them, less than other pictures do."""


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
    as it is. Warns at the end of pairs whose contents differ too much to be one image, and names
    the order that fits, if there is one. Raises UserError for folders without images, an image
    without partner, and sizes that do not fit.
    """
    first = {path.stem: path for path in image_files(clean)}
    second = {path.stem: path for path in image_files(changed)}
    for here, there, folder in ((first, second, changed), (second, first, clean)):
        if missing := here.keys() - there.keys():
            raise UserError(
                f"{folder} has no image called {min(missing)}; give two folders with the same names"
            )
    small: list[tuple[Tensor, Tensor]] = []
    for name, path in first.items():
        before, after = read_image(path), read_image(second[name])
        if before.shape != after.shape:
            if after.shape[0] != after.shape[1]:
                raise UserError(
                    f"{path} has {before.shape[1]} x {before.shape[0]} pixels and {second[name]} "
                    f"{after.shape[1]} x {after.shape[0]}; give images of one size"
                )
            before = to_square(before, after.shape[0])
        pair = Pair(name, _channels_first(before), _channels_first(after))
        small.append((_small(pair.clean), _small(pair.changed)))
        yield pair
    _warn_of_strangers(list(first), torch.stack([torch.stack(each) for each in small]))


def _small(image: UInt8[Tensor, "3 height width"]) -> Float[Tensor, "3 8 8"]:
    return F.adaptive_avg_pool2d(image.float(), 8)


def _warn_of_strangers(names: Sequence[str], small: Float[Tensor, "n 2 3 8 8"]) -> None:
    """Warns where an image's content is not that of the image of its name in the other folder."""
    clean, changed = small.flatten(2).unbind(1)
    distances = torch.cdist(clean, changed, p=1) / clean.shape[1]  # [n, n], in levels of 0..255
    own = distances.diagonal()
    far = [i for i, distance in enumerate(own.tolist()) if distance > _ALIKE]
    if not far:
        return
    _, order = linear_sum_assignment(distances.numpy())
    fitting = [i for i in far if distances[i, order[i]] <= _ALIKE]
    text = f"{len(far)} of {len(names)} images do not show what the image of their name shows"
    if fitting:
        text += ": by content " + ", ".join(f"{names[i]} fits {names[order[i]]}" for i in fitting)
    else:
        text += f", {names[far[0]]} for one: do the two folders belong together?"
    warnings.warn(text, Notice, stacklevel=2)


def read_folder(folder: Path) -> Iterator[UInt8[Tensor, "3 height width"]]:
    """The images of one folder, each in its own size; UserError as ``concepts.image_files``."""
    for path in image_files(folder):
        yield _channels_first(read_image(path))


def _channels_first(image: object) -> Tensor:
    return torch.as_tensor(image).permute(2, 0, 1).contiguous()
