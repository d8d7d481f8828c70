"""The rendered corpus the built-in models learn from, and crops of photographs beside it."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTokenizer

from safezone import miniworld
from safezone.errors import UserError
from safezone.files import whole_file, write_text
from safezone.images import read_image

TRAIN_SEED = 20250
PAIR_SEED = 555
OBJECT_SEED = 556
HELD_OUT_SEED = 77001
"""Scenes of this seed are never trained on; every quality figure is measured on them."""


SHRUNKEN = "shrunken.npy"
"""The pictures as the scoring encoders see them, beside the others."""
ABSENT = "none"
"""The kind of a part that an object does not have."""
CAPTIONS = 6
"""How many captions of random detail each picture has."""


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Writes a .npy file whole or not at all."""
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


@dataclass(frozen=True)
class Corpus:
    """Rendered pictures on disk: ``images`` uint8 [n, 3, 128, 128], captions and attributes."""

    folder: Path

    @cached_property
    def images(self) -> NDArray[np.uint8]:
        path = self.folder / "images.npy"
        if not path.exists():
            raise UserError(f"{path} is missing; run `--stage corpus` of the same recipe first")
        return np.load(path, mmap_mode="r")

    @cached_property
    def examples(self) -> list[dict[str, Any]]:
        """One mapping a picture: captions; attributes, None for a texture."""
        lines = (self.folder / "examples.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def tokens(self, tokenizer: CLIPTokenizer) -> NDArray[np.int32]:
        """The captions' token ids, [n, CAPTIONS, length]; made once and kept."""
        path = self.folder / "tokens.npy"
        if not path.exists():
            texts = [text for example in self.examples for text in example["captions"]]
            chunks = [
                tokenizer(texts[i : i + 60_000], padding="max_length", truncation=True).input_ids
                for i in range(0, len(texts), 60_000)
            ]
            ids = np.concatenate([np.asarray(chunk, np.int32) for chunk in chunks])
            write_array(path, ids.reshape(len(self), CAPTIONS, -1))
        return np.load(path)

    def __len__(self) -> int:
        return len(self.images)


def attributes(scene: miniworld.Scene) -> dict[str, str]:
    """What can be told of a scene: shape, main colour, background, the kind of each part."""
    spec = scene.spec
    parts = {name: getattr(spec, name) for name in miniworld.EXTRAS}
    return {
        "shape": spec.shape,
        "color": spec.color,
        "background": scene.background,
        **{name: ABSENT if part is None else part.kind for name, part in parts.items()},
    }


def _render_range(bounds: tuple[int, int, int]) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    seed, start, stop = bounds
    images, rows = [], []
    for index in range(start, stop):
        example = miniworld.example_at(seed, index)
        images.append(example.paint().transpose(2, 0, 1))
        rng = np.random.default_rng([seed, index, 2])
        texts = [example.caption(rng) for _ in range(CAPTIONS)]
        subject = example.subject
        told = None if isinstance(subject, miniworld.Texture) else attributes(subject)
        rows.append({"captions": texts, "attributes": told})
    return np.stack(images), rows


def _render_objects(
    bounds: tuple[int, int, int],
) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    seed, start, stop = bounds
    images, rows = [], []
    for index in range(start, stop):
        rng = np.random.default_rng([seed, index])
        spec = miniworld.sample_object(rng)
        while index % 2 and not spec.extras:
            spec = miniworld.sample_object(rng)
        scene = miniworld.sample_scene(rng, spec)
        images.append(miniworld.render(scene).image.transpose(2, 0, 1))
        rows.append({"captions": [], "attributes": attributes(scene)})
    return np.stack(images), rows


def render_objects(folder: Path, count: int, workers: int = 2) -> Corpus:
    """Scenes of objects without a name, every second one with a part; no captions.

    What tells attributes learns from these: of 3,000 named objects it would learn the looks.
    """
    return _rendered(folder, OBJECT_SEED, count, workers, _render_objects)


def render_corpus(folder: Path, seed: int, count: int, workers: int = 2) -> Corpus:
    """Renders ``count`` pictures of ``seed`` into ``folder``, or returns what is already there."""
    return _rendered(folder, seed, count, workers, _render_range)


def _rendered(
    folder: Path,
    seed: int,
    count: int,
    workers: int,
    render: Callable[[tuple[int, int, int]], tuple[NDArray[np.uint8], list[dict[str, Any]]]],
) -> Corpus:
    corpus = Corpus(folder)
    if (folder / "examples.jsonl").exists() and len(corpus) == count:
        return corpus
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("examples.jsonl", "tokens.npy", SHRUNKEN):  # of other pictures
        (folder / name).unlink(missing_ok=True)
    chunk = 250
    ranges = [(seed, i, min(i + chunk, count)) for i in range(0, count, chunk)]
    images = np.lib.format.open_memmap(
        folder / "images.npy", mode="w+", dtype=np.uint8, shape=(count, 3, 128, 128)
    )
    rows: list[dict[str, Any]] = []
    with (
        ProcessPoolExecutor(workers, get_context("spawn")) as pool,
        tqdm(total=count, desc="render", mininterval=5) as bar,
    ):
        for (_, start, stop), (pixels, part) in zip(ranges, pool.map(render, ranges), strict=True):
            images[start:stop] = pixels
            rows.extend(part)
            bar.update(stop - start)
    images.flush()
    write_text(folder / "examples.jsonl", "\n".join(json.dumps(row) for row in rows))
    return Corpus(folder)


SMALLEST = 128
"""Pixels on a photograph's shorter side, which crops have to fit into."""
SKIMAGE_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


def photographs(folder: Path | None = None) -> list[NDArray[np.uint8]]:
    """scikit-image's bundled colour photographs and those of ``folder``, uint8 [H, W, 3] each.

    They are halved until the longer side is at most 640 pixels, so that a crop shows a thing
    and not one smooth surface, but not below 128. Raises UserError for smaller ones.
    """
    import skimage.data

    found = [np.asarray(getattr(skimage.data, name)()) for name in SKIMAGE_PHOTOGRAPHS]
    if folder is not None:
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".png"})
        if not paths:
            raise UserError(f"no photographs (*.jpg, *.png) below {folder}; name another folder")
        read = [read_image(path) for path in paths]
        for path, photo in zip(paths, read, strict=True):
            if min(photo.shape[:2]) < SMALLEST:
                raise UserError(f"{path} has fewer than {SMALLEST} pixels on a side; take it away")
        found += read
    return [_halved(photo) for photo in found]


def _halved(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    while max(photo.shape[:2]) > 640 and min(photo.shape[:2]) >= 2 * SMALLEST:
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
