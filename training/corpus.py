"""The rendered corpus the built-in models learn from, and crops of photographs beside it."""

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from safezone import miniworld
from safezone.errors import UserError
from safezone.images import read_image

TRAIN_SEED = 20250
PAIR_SEED = 555
HELD_OUT_SEED = 77001
"""Scenes of this seed are never trained on; every quality figure is measured on them."""


@dataclass(frozen=True)
class Corpus:
    """Rendered scenes on disk: ``images`` uint8 [n, 3, 128, 128], captions and attributes."""

    folder: Path

    @cached_property
    def images(self) -> NDArray[np.uint8]:
        return np.load(self.folder / "images.npy", mmap_mode="r")

    @cached_property
    def scenes(self) -> list[dict[str, Any]]:
        """One mapping a scene: caption, shape, color, pattern, background."""
        lines = (self.folder / "scenes.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def column(self, name: str) -> list[str]:
        return [scene[name] for scene in self.scenes]

    def __len__(self) -> int:
        return len(self.images)


def _render_range(bounds: tuple[int, int, int]) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    seed, start, stop = bounds
    images, scenes = [], []
    for index in range(start, stop):
        scene = miniworld.scene_at(seed, index)
        rendered = miniworld.render(scene)
        images.append(rendered.image.transpose(2, 0, 1))
        scenes.append(
            {
                "caption": rendered.caption,
                "shape": scene.spec.shape,
                "color": scene.spec.color,
                "pattern": scene.spec.pattern,
                "background": scene.background,
            }
        )
    return np.stack(images), scenes


def render_corpus(folder: Path, seed: int, count: int, workers: int = 2) -> Corpus:
    """Renders ``count`` scenes of ``seed`` into ``folder``, or returns what is already there."""
    corpus = Corpus(folder)
    if (folder / "scenes.jsonl").exists() and len(corpus) == count:
        return corpus
    folder.mkdir(parents=True, exist_ok=True)
    chunk = 250
    ranges = [(seed, i, min(i + chunk, count)) for i in range(0, count, chunk)]
    images = np.lib.format.open_memmap(
        folder / "images.npy", mode="w+", dtype=np.uint8, shape=(count, 3, 128, 128)
    )
    scenes: list[dict[str, Any]] = []
    with ProcessPoolExecutor(workers) as pool, tqdm(total=count, desc="render") as bar:
        for (_, start, stop), (pixels, rows) in zip(
            ranges, pool.map(_render_range, ranges), strict=True
        ):
            images[start:stop] = pixels
            scenes.extend(rows)
            bar.update(stop - start)
    images.flush()
    (folder / "scenes.jsonl").write_text("\n".join(json.dumps(row) for row in scenes))
    return Corpus(folder)


SKIMAGE_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


def photographs(folder: Path | None = None) -> list[NDArray[np.uint8]]:
    """scikit-image's bundled colour photographs and those of ``folder``, uint8 [H, W, 3] each.

    They are halved until the longer side is at most 640 pixels, so that a crop shows a thing
    and not one smooth surface.
    """
    import skimage.data

    found = [np.asarray(getattr(skimage.data, name)()) for name in SKIMAGE_PHOTOGRAPHS]
    if folder is not None:
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".png"})
        if not paths:
            raise UserError(f"no photographs (*.jpg, *.png) below {folder}; name another folder")
        found += [read_image(path) for path in paths]
    return [_halved(photo) for photo in found]


def _halved(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    while max(photo.shape[:2]) > 640:
        height, width = photo.shape[0] // 2 * 2, photo.shape[1] // 2 * 2
        blocks = photo[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
        photo = blocks.mean((1, 3)).round().astype(np.uint8)
    return photo


def crops(
    corpus: Corpus,
    photos: Sequence[NDArray[np.uint8]],
    rng: np.random.Generator,
    batch: int,
    size: int,
    photo_share: float,
) -> Tensor:
    """A float batch [batch, 3, size, size] in [-1, 1] of random crops, flipped at random."""
    out = np.empty((batch, 3, size, size), np.uint8)
    for row in range(batch):
        if photos and rng.random() < photo_share:
            photo = photos[int(rng.integers(len(photos)))]
            y, x = (int(rng.integers(extent - size + 1)) for extent in photo.shape[:2])
            crop = photo[y : y + size, x : x + size].transpose(2, 0, 1)
        else:
            y, x = (int(rng.integers(128 - size + 1)) for _ in range(2))
            crop = corpus.images[rng.integers(len(corpus)), :, y : y + size, x : x + size]
        out[row] = crop[:, :, ::-1] if rng.random() < 0.5 else crop
    return torch.from_numpy(out).float() / 127.5 - 1
