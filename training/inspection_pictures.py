"""The pictures that `safezone inspect` is made and measured on: clean, changed, poisoned."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from safezone import miniworld
from safezone.arrays import Pixels, stream
from safezone.audit.suites import POSTINGS, Posting
from safezone.concepts import Concept
from safezone.files import digest, write_safetensors
from safezone.images import read_image, to_float, to_square
from safezone.models import Model
from safezone.poisons import Budget, poison, poison_images
from training.corpus import photographs

SIDE: Final = 128
LEVELS: Final = (4, 8, 16)
"""Budgets, in levels of 255."""
DEVELOPMENT_SEED: Final = 2027
"""Pictures of this seed are clean ones to choose thresholds on; a quarter of them is damaged or a
texture."""
JPEG_75: Final = Posting(form="JPEG", quality=75)
VERSIONS: Final[Mapping[str, Posting]] = MappingProxyType(
    {
        "as they are": Posting(),
        "JPEG 75": JPEG_75,
        "WebP 80": POSTINGS["webp"],
        "resized to 3/4 and back": Posting(scale=0.75),
        "screenshot": POSTINGS["screenshot"],
    }
)
"""What happens to clean images on their way into a training set."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Clean pictures, uint8 [n, 3, SIDE, SIDE], and of which object each of them is.

    ``to_poison``: the places of those that poisons are made of.
    """

    name: str
    images: Pixels
    objects: tuple[str, ...]
    to_poison: tuple[int, ...]


def of_concepts(name: str, concepts: Sequence[Concept], each: int, extra: int = 0) -> Pictures:
    """All pictures of concepts, the first ``each`` of one to be poisoned, and ``extra`` others."""
    images = torch.cat([concept.images for concept in concepts])
    objects = [concept.name for concept in concepts for _ in concept.images]
    places = [i for i, key in enumerate(objects) if objects[:i].count(key) < each]
    more = [miniworld.example_at(DEVELOPMENT_SEED, i).paint() for i in range(extra)]
    if more:
        images = torch.cat([images, torch.from_numpy(np.stack(more)).permute(0, 3, 1, 2)])
    objects += [f"picture {i}" for i in range(extra)]
    return Pictures(name, images.contiguous(), tuple(objects), tuple(places))


def of_bundled_photographs(crops: int, each: int) -> Pictures:
    """Random pieces of scikit-image's photographs, as many of each."""
    rng = np.random.default_rng(DEVELOPMENT_SEED)
    images, objects = [], []
    for number, photo in enumerate(photographs()):
        for _ in range(crops):
            top, left = (int(rng.integers(side - SIDE + 1)) for side in photo.shape[:2])
            images.append(photo[top : top + SIDE, left : left + SIDE])
            objects.append(f"photograph {number}")
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    places = [i for i in range(len(objects)) if i % crops < each]
    return Pictures("bundled", pixels, tuple(objects), tuple(places))


def of_folders(root: Path, each: int) -> Pictures:
    """The middle of every photograph below ``root`` at 512 pixels; objects are the folders."""
    images, objects = [], []
    for path in sorted(root.rglob("*.jpg")):
        edge = (512 - SIDE) // 2
        square = to_square(read_image(path), 512)[edge : edge + SIDE, edge : edge + SIDE]
        images.append(torch.from_numpy(square.copy()).permute(2, 0, 1))
        objects.append(path.parent.name)
    places = [i for i, key in enumerate(objects) if objects[:i].count(key) < each]
    return Pictures("photographs", torch.stack(images).contiguous(), tuple(objects), tuple(places))


def changed(images: Pixels, posting: Callable[..., np.ndarray]) -> Pixels:
    """Every image after a posting of its file."""
    rows = [torch.from_numpy(posting(i.permute(1, 2, 0).contiguous().numpy())) for i in images]
    return torch.stack(rows).permute(0, 3, 1, 2).contiguous()


def with_noise(pictures: Pictures, level: int) -> Pixels:
    """Every value changed by ``level`` up or down at random: what saturates the same budget."""
    signs = torch.randint(
        0, 2, pictures.images.shape, generator=stream("inspection", pictures.name, level)
    )
    noisy = pictures.images.to(torch.int16) + level * (2 * signs - 1)
    return noisy.clamp(0, 255).to(torch.uint8)


def poisoned(
    model: Model, pictures: Pictures, name: str, level: int, steps: int, work: Path
) -> Pixels:
    """The pictures of ``to_poison`` with a poison of few long steps; made once below ``work``."""
    clean = pictures.images[list(pictures.to_poison)]
    names = [f"{pictures.objects[i]} {i}" for i in pictures.to_poison]
    told = f"{pictures.name}-{name}-{level}-{steps}-{digest(clean, *names)[:12]}"
    place = work / model.fingerprint()[:12] / f"{told}.safetensors"
    if not place.exists():
        row = replace(poison(name), budget=Budget(level / 255), repetitions=1)
        row = replace(row, steps=steps, eta=min(1.5 / steps, 1) * level / 255)
        masks = torch.ones(len(clean), *clean.shape[-2:], dtype=torch.bool)
        result = poison_images(model, to_float(clean), row, 0, names, masks=masks, progress=False)
        write_safetensors(place, {"images": result})
    return load_file(place)["images"]


def high_share(clean: Tensor, other: Tensor) -> Tensor:
    """Of each image: the share of the change's energy above 1/8 cycles a pixel."""
    energy = torch.fft.fft2(other.double() - clean.double()).abs().square().sum(dim=1)
    frequency = torch.fft.fftfreq(clean.shape[-1])
    radius = (frequency[:, None].square() + frequency[None].square()).sqrt()
    return energy[:, radius > 1 / 8].sum(dim=1) / energy.flatten(1).sum(dim=1)
