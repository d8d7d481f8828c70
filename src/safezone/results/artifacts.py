"""What lies behind the cells of a table: images, settings and adapters, from a result's folders.

A page holds images as data URIs: small ones, and perturbations that can be seen.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from safezone.concepts import load_concept
from safezone.errors import UserError
from safezone.fields import plural
from safezone.lab.run import Run
from safezone.lab.store import RUN_RECORD
from safezone.lab.variants import column_of
from safezone.personalize import read_adapter
from safezone.reading import read_json
from safezone.results.run_images import RunImages, read_run_images
from safezone.results.tables import CellKey
from safezone.scores import CLEAN

INDEX: Final = "index.json"
"""Names the image folders that belong to a result, and what its page says beside them."""
PICTURES: Final = 4000
"""About how many generated images a page holds unless it is told: some 10 MB in a grid's size."""
THUMBNAIL: Final = 96
"""Side of the images on a grid's page, in pixels; a claim's are shown as they are."""
GAIN: Final = 8
"""How much perturbations are amplified."""
_MOST: Final = 6
"""Images of one run in a grid."""
_POISON_FACTS: Final = ("kappa", "norm", "eta", "steps", "prompt", "start", "transform", "target")
_TRAINING_FACTS: Final = ("steps", "batch_size", "learning_rate", "schedule", "vectors")


class Picture(NamedTuple):
    """An image as a data URI, and what it shows in words."""

    source: str
    text: str


def picture(
    image: UInt8[Tensor, "3 h w"], text: str, side: int | None = None, *, exact: bool = False
) -> Picture:
    """The image for a page: WebP, a tenth of a PNG's size, or the very pixels (``exact``).

    ``side``: a larger image is made that small, about 2 kB of 96 pixels.
    """
    drawn = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    if side is not None and drawn.width > side:
        drawn = drawn.resize((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if exact:
        drawn.save(buffer, "PNG", optimize=True)
    else:
        drawn.save(buffer, "WEBP", quality=90 if side is None else 75, method=4)
    kind = "png" if exact else "webp"
    return Picture(f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}", text)


def amplified_difference(
    clean: UInt8[Tensor, "n 3 h w"], poisoned: UInt8[Tensor, "n 3 h w"]
) -> UInt8[Tensor, "n 3 h w"]:
    """Mid-grey plus ``GAIN`` times (poisoned - clean), clamped to uint8; shapes are equal."""
    difference = poisoned.to(torch.int32) - clean.to(torch.int32)
    return (128 + GAIN * difference).clamp(0, 255).to(torch.uint8)


class TrainingPictures(NamedTuple):
    """Images as given to the trainer and, if they are poisoned, their amplified perturbations."""

    images: tuple[Picture, ...]
    perturbations: tuple[Picture, ...]


def training_pictures(
    clean: UInt8[Tensor, "n 3 h w"],
    trained_on: UInt8[Tensor, "n 3 h w"],
    name: str,
    side: int | None = None,
) -> TrainingPictures:
    """All images, pixel by pixel; with a ``side`` the first one alone, that small."""
    part = slice(None if side is None else 1)
    names = [f"{name}, image {i + 1}" for i in range(len(trained_on))][part]
    shown = zip(trained_on[part], names, strict=True)
    images = [picture(*each, side, exact=side is None) for each in shown]
    changes: list[Picture] = []
    if clean.shape == trained_on.shape and bool((clean != trained_on).any()):
        texts = [f"{text}, perturbation × {GAIN}" for text in names]
        amplified = amplified_difference(clean[part], trained_on[part])
        changes = [picture(*each, side) for each in zip(amplified, texts, strict=True)]
    return TrainingPictures(tuple(images), tuple(changes))


@dataclass(frozen=True)
class Strip:
    """One run's first images. ``learned``: what its adapter is, in words."""

    pictures: tuple[Picture, ...]
    learned: str = ""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What lies behind the cells of one model and method, of the lowest seed.

    ``strips``: by cell and concept. ``training``: by concept and poison. ``facts``: settings behind
    a cell. ``class_words``: by concept.
    """

    strips: dict[CellKey, dict[str, Strip]] = field(default_factory=dict)
    training: dict[tuple[str, str], TrainingPictures] = field(default_factory=dict)
    facts: dict[CellKey, dict[str, str]] = field(default_factory=dict)
    class_words: dict[str, str] = field(default_factory=dict)

    def prompts(self, concept: str) -> list[str]:
        """What its pictures were asked for."""
        strips = [cell[concept] for cell in self.strips.values() if concept in cell]
        return list(dict.fromkeys(each.text for strip in strips for each in strip.pictures))


def _learned(place: Path) -> str:
    """What lies in the adapter's folder, in words; nothing where it has been removed."""
    try:
        adapter = read_adapter(place)
    except UserError:
        return ""
    parts = []
    if len(adapter.vectors):
        norms = ", ".join(f"{norm:.2f}" for norm in adapter.vectors.norm(dim=1).tolist())
        vectors = f"{plural(len(adapter.vectors), 'vector')} of {adapter.vectors.shape[1]}"
        parts.append(f"{vectors} for {adapter.placeholder}, norms {norms}")
    if adapter.deltas:
        parts.append(f"changes of {len(adapter.deltas)} layers")
    return "; ".join(parts)


def _level(value: Any) -> str:
    """Budgets as the field writes them: 16/255."""
    if isinstance(value, float) and abs(255 * value - round(255 * value)) < 1e-6:
        return f"{255 * value:.0f}/255"
    return str(value)


def _facts(images: RunImages, adapter: Path) -> dict[str, str]:
    """The settings behind a cell, of the first concept's run."""
    facts = {}
    if (adapter / RUN_RECORD).is_file():
        record = read_json(adapter / RUN_RECORD)
        settings = record.get("settings", {})
        if not isinstance(settings, dict):
            raise UserError(f"{adapter / RUN_RECORD}: settings are no JSON object; train again")
        facts["defense"] = str(record.get("defense_parts", ""))
        facts["training"] = ", ".join(
            f"{k} {settings[k]}" for k in _TRAINING_FACTS if k in settings
        )
    if images.run.poison != CLEAN:
        record = images.manifest()
        parts = [f"{k} {_level(record[k])}" for k in _POISON_FACTS if record.get(k)]
        facts["poison"] = ", ".join(parts)
        facts["poison made on"] = str(record.get("model", ""))
    return {name: text for name, text in facts.items() if text}


def images_of_each(runs: Sequence[Run], pictures: int, most: int = _MOST) -> dict[str, int]:
    """How many images the page shows of a run of each concept, {concept: count}.

    ``pictures``: about how many in all; ``most``: of a run. Where there are fewer than runs, the
    first concepts have one in every cell and the others none, so that a cell can be compared with
    its neighbours.
    """
    concepts = list(dict.fromkeys(run.concept for run in runs))
    if pictures >= len(runs):
        return dict.fromkeys(concepts, min(most, pictures // max(1, len(runs))))
    cells = len({(run.model, run.method, run.poison, run.defense) for run in runs})
    return {name: int(place < pictures // cells) for place, name in enumerate(concepts)}


def evidence(
    folder: Path, index: Mapping[str, Any], pictures: int
) -> Mapping[tuple[str, str], Evidence]:
    """By (model, method), from the artifacts that the index names; about so many images.

    A grid's are small and at most six of a run, a claim's are as they are. Runs whose artifacts
    have been removed since have nothing behind them.
    """
    names = [name for name in index.get("images", []) if (folder / name).is_dir()]
    lowest: dict[Run, tuple[str, Run]] = {}  # by the run without its seed
    for name in names:
        run = read_run_images(folder / name, most=0).run
        if "model" in index:  # the same weights may have had another name when they drew these
            run = replace(run, model=index["model"])
        other = lowest.setdefault(replace(run, seed=0), (name, run))
        if run.seed < other[1].seed:
            lowest[replace(run, seed=0)] = (name, run)
    side, most = (THUMBNAIL, _MOST) if index.get("grid") else (None, index.get("most_prompts"))
    counts = images_of_each([run for _, run in lowest.values()], pictures, most or pictures)
    result: dict[tuple[str, str], Evidence] = {}
    known: dict[Path, TrainingPictures] = {}
    for name, run in lowest.values():
        images = read_run_images(folder / name, most=counts[run.concept])
        adapter = folder / index.get("adapters", {}).get(name, Path(name).parent)
        method, column = column_of(run.method, run.defense)
        behind = result.setdefault((run.model, method), Evidence())
        drawn = tuple(map(picture, images.images, images.prompts, repeat(side)))
        cell = behind.strips.setdefault((run.poison, column), {})
        cell[run.concept] = Strip(drawn, _learned(adapter))
        behind.class_words.setdefault(run.concept, images.class_word)
        if (run.poison, column) not in behind.facts:
            behind.facts[run.poison, column] = _facts(images, adapter)
        place = images.clean if images.training is None and run.poison == CLEAN else images.training
        if drawn and place is not None and place.is_dir():
            if place not in known:
                own = load_concept(place, images.images.shape[-1]).images
                clean = images.clean_concept()
                known[place] = training_pictures(
                    own if clean is None else clean.images, own, run.concept, side
                )
            behind.training.setdefault((run.concept, run.poison), known[place])
    return result
