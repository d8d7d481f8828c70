"""What lies behind the cells of a grid's tables: images, settings and adapters of its runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from safezone.concepts import load_concept
from safezone.errors import UserError
from safezone.files import read_json
from safezone.lab.run import Run
from safezone.lab.store import MANIFEST, RUN_RECORD
from safezone.lab.variants import column_of
from safezone.personalize import read_adapter
from safezone.results.grid_page import Cell, Strip
from safezone.results.outputs import Made, read_made
from safezone.results.thumbnails import thumbnail, training_pictures
from safezone.scores.rows import CLEAN

_POISON_FACTS: Final = ("kappa", "norm", "eta", "steps", "prompt", "start", "transform", "target")
_MOST: Final = 6
"""Images of one run."""


def _learned(place: Path) -> str:
    """What lies in the adapter's folder, in words; nothing where it has been removed."""
    try:
        adapter = read_adapter(place)
    except UserError:
        return ""
    said = []
    count, width = adapter.vectors.shape
    if count:
        norms = ", ".join(f"{norm:.2f}" for norm in adapter.vectors.norm(dim=1).tolist())
        plural = "s" * (count != 1)
        said.append(f"{count} vector{plural} of {width} for {adapter.placeholder}, norms {norms}")
    if adapter.deltas:
        said.append(f"changes of {len(adapter.deltas)} layers")
    return "; ".join(said)


def _training(made: Made, known: dict[Path, tuple[str, ...]]) -> tuple[str, ...]:
    clean, given = made.clean, made.training
    if not len(made.images):
        return ()
    if clean is None or given is None or not given.is_dir() or not clean.is_dir():
        return ()
    if given not in known:
        size = made.images.shape[-1]
        sides = [load_concept(place, size).images for place in (clean, given)]
        known[given] = training_pictures(*sides)
    return known[given]


def _level(value: Any) -> str:
    """Budgets as the field writes them: 16/255."""
    if isinstance(value, float) and abs(255 * value - round(255 * value)) < 1e-6:
        return f"{255 * value:.0f}/255"
    return str(value)


def _facts(made: Made, adapter: Path | None) -> dict[str, str]:
    """The settings behind a cell, of the first concept's run."""
    facts = {}
    if adapter is not None and (adapter / RUN_RECORD).is_file():
        record = read_json(adapter / RUN_RECORD)
        facts["defense"] = str(record.get("defense_parts", ""))
        wanted = ("steps", "batch_size", "learning_rate", "schedule", "vectors")
        settings = record.get("settings", {})
        facts["training"] = ", ".join(f"{k} {settings[k]}" for k in wanted if k in settings)
    if made.run.poison != CLEAN and made.training is not None:
        manifest = made.training / MANIFEST
        record = read_json(manifest) if manifest.is_file() else {}
        told = [f"{k} {_level(record[k])}" for k in _POISON_FACTS if record.get(k)]
        facts["poison"] = ", ".join(told)
    return {name: text for name, text in facts.items() if text}


@dataclass(frozen=True, eq=False)
class Behind:
    """What lies behind the cells of one (model, method)."""

    strips: dict[Cell, dict[str, Strip]] = field(default_factory=dict)
    facts: dict[Cell, dict[str, str]] = field(default_factory=dict)


def images_of_each(runs: Sequence[Run], pictures: int) -> dict[str, int]:
    """How many images the page shows of a run of each concept, {concept: count}.

    ``pictures``: about how many in all. Where there are fewer than runs, the first concepts have
    one in every cell and the others none, so that a cell can be compared with its neighbours.
    """
    concepts = list(dict.fromkeys(run.concept for run in runs))
    if pictures >= len(runs):
        return dict.fromkeys(concepts, min(_MOST, pictures // max(1, len(runs))))
    cells = len({(run.model, run.method, run.poison, run.defense) for run in runs})
    return {name: int(place < pictures // cells) for place, name in enumerate(concepts)}


def behind(
    folder: Path, index: Mapping[str, Any], pictures: int
) -> Mapping[tuple[str, str], Behind]:
    """By (model, method), from the artifacts that the grid's index names; about so many images.

    Runs whose artifacts have been removed since have nothing behind them.
    """
    found: dict[tuple[str, str], Behind] = {}
    known: dict[Path, tuple[str, ...]] = {}
    names = [name for name in index.get("images", []) if (folder / name).is_dir()]
    records = [read_made(folder / name, with_images=False) for name in names]
    counts = images_of_each([record.run for record in records], pictures)
    for name, record in zip(names, records, strict=True):
        count = counts[record.run.concept]
        made = read_made(folder / name, most=count) if count else record
        adapter = index.get("adapters", {}).get(name)
        place = None if adapter is None else folder / adapter
        method, column = column_of(made.run.method, made.run.defense)
        cell = (made.run.poison, column)
        shown = found.setdefault((made.run.model, method), Behind())
        shown.strips.setdefault(cell, {})[made.run.concept] = Strip(
            tuple(thumbnail(image) for image in made.images),
            tuple(made.prompts[:count]),
            _training(made, known),
            "" if place is None else _learned(place),
        )
        if cell not in shown.facts:
            shown.facts[cell] = _facts(made, place)
    return found
