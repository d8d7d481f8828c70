"""Images of the built-in world that no model was trained on, and what they say in words."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from safezone.concepts import MOST_IMAGES, Concept
from safezone.images import to_square
from safezone.miniworld import Rendered, render, scene_at

SCENES: Final = 20_251_125
"""The seed of figures 2, 4 and 10."""
MOMENTS: Final = 20_251_126
"""The seed of the scenes that the closed form's mean and covariance are measured on."""


def pictures(seed: int, indices: Sequence[int]) -> list[Rendered]:
    """The scenes at these places of a seed's sequence."""
    return [render(scene_at(seed, i)) for i in indices]


def images(scenes: Sequence[Rendered], size: int) -> Tensor:
    """uint8 [n, 3, size, size]."""
    squares = [torch.from_numpy(to_square(each.image, size)) for each in scenes]
    return torch.stack(squares).permute(0, 3, 1, 2).contiguous()


def scene_group(indices: Sequence[int], size: int, word: str = "object") -> Concept:
    """Some scenes with their masks as one concept, called by the first's place."""
    scenes = pictures(SCENES, indices)
    masks = [torch.from_numpy(to_square(each.mask >= 128, size)) for each in scenes]
    return Concept(
        name=f"Scenes{indices[0]:05d}",
        class_word=word,
        images=images(scenes, size),
        masks=torch.stack(masks),
        image_names=tuple(f"{i:05d}" for i in indices),
    )


def captioned(count: int, size: int) -> dict[Concept, tuple[str, ...]]:
    """Scenes in groups of 15, each with its captions."""
    groups = {}
    for start in range(0, count, MOST_IMAGES):
        indices = range(start, min(count, start + MOST_IMAGES))
        captions = tuple(picture.caption for picture in pictures(SCENES, indices))
        groups[scene_group(indices, size)] = captions
    return groups
