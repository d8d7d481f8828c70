"""The results of one grid, from its rows and artifacts: files, summary and its page."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from safezone.concepts import load_concept
from safezone.errors import UserError
from safezone.experiments.comparisons import (
    best_attacks,
    compare,
    comparisons_csv,
    weakest_points,
    worst_cases_csv,
)
from safezone.experiments.config import flat
from safezone.experiments.outputs import INDEX, PAGE, Made, caveats, read_made, versions
from safezone.experiments.stages import MANIFEST, ROWS, RUN_RECORD
from safezone.experiments.summary import summary_json
from safezone.experiments.variants import setting_of, split_method
from safezone.experiments.workspace import cannot_write, read_json, write_json
from safezone.personalize import read_adapter
from safezone.report.grid_page import (
    PICTURES,
    Cell,
    Section,
    Strip,
    tables,
    write_grid_page,
)
from safezone.report.published import Published, same_runs
from safezone.report.tables import metric_of, settings_of, write_table
from safezone.report.thumbnails import thumbnail, training_pictures
from safezone.scores.rows import CLEAN, NOMINAL, Row, read_rows, write_rows, write_text

COMPARISONS: Final = "comparisons.csv"
WORST_CASES: Final = "worst_cases.csv"
_POISON_FACTS: Final = ("kappa", "norm", "eta", "steps", "prompt", "start", "transform", "target")


def columns_of(rows: Sequence[Row]) -> list[Row]:
    """Variants of a method as columns: what its name says of settings takes the defense's place."""
    moved = []
    for row in rows:
        method, name = column_of(row.method, row.defense)
        moved.append(replace(row, method=method, defense=name))
    return moved


def column_of(method: str, defense: str) -> tuple[str, str]:
    """(method, column) of a run; see ``columns_of``."""
    setting = setting_of(method)
    if not setting:
        return method, defense
    name = setting if defense == NOMINAL else f"{defense}; {setting}"
    return split_method(method)[0], name


def paper_notes(papers: Mapping[str, Published]) -> list[str]:
    """What has to be known before the paper's numbers are compared with ours."""
    if not papers:
        return []
    first = next(iter(papers.values()))
    found = [
        f"The paper's numbers are of {first.method} on {first.model} and {first.dataset}, without "
        "error bars or seeds; cells that it ran twice differ by up to 0.03 DINOv2 similarity, "
        "16 FID and 0.04 CLIP score."
    ]
    if "frechet" in papers:
        found.append(
            "The Fréchet distance here is of the instance encoder's features, not of Inception's: "
            "compare the order of its values with that of the paper's FID, not the values."
        )
    return [*found, *(paper.note for paper in papers.values() if paper.note)]


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
class _Behind:
    """What lies behind the cells of one (model, method)."""

    strips: dict[Cell, dict[str, Strip]] = field(default_factory=dict)
    facts: dict[Cell, dict[str, str]] = field(default_factory=dict)


def _behind(
    folder: Path, index: Mapping[str, Any], pictures: int
) -> Mapping[tuple[str, str], _Behind]:
    """By (model, method), from the artifacts that the grid's index names; about so many images."""
    found: dict[tuple[str, str], _Behind] = {}
    known: dict[Path, tuple[str, ...]] = {}
    images = index.get("images", [])
    each = max(1, min(6, pictures // max(1, len(images))))
    for name in images:
        if not (folder / name).is_dir():  # removed since
            continue
        made = read_made(folder / name, most=each)
        adapter = index.get("adapters", {}).get(name)
        place = None if adapter is None else folder / adapter
        method, column = column_of(made.run.method, made.run.defense)
        cell = (made.run.poison, column)
        behind = found.setdefault((made.run.model, method), _Behind())
        behind.strips.setdefault(cell, {})[made.run.concept] = Strip(
            tuple(thumbnail(image) for image in made.images),
            tuple(made.prompts[:each]),
            _training(made, known),
            "" if place is None else _learned(place),
        )
        if cell not in behind.facts:
            behind.facts[cell] = _facts(made, place)
    return found


def sections(folder: Path, pictures: int = PICTURES) -> list[Section]:
    """What the page shows of the grid whose results lie in ``folder``, one for each method.

    ``pictures``: about how many generated images. Raises UserError when the folder holds none.
    """
    index = read_json(folder / INDEX)
    rows = columns_of(read_rows(folder / ROWS))
    table, told = index.get("table"), index.get("duration")
    papers = same_runs(table) if isinstance(table, int) else {}
    behind, pairs = _behind(folder, index, pictures), settings_of(rows)
    name, title = folder.resolve().name, str(index.get("title"))
    scored = [row for row in rows if not row.reason]
    whole = Section(
        name=name,
        title=title,
        rows=rows,
        metric=str(index.get("metric")),
        papers=papers,
        failed=dict(index.get("failed", {})),
        notes=[*caveats(scored, {}, photographs=False), *paper_notes(papers)],
        command=str(index.get("command", "")),
        settings=flat(index.get("settings", {})),
        duration=told if isinstance(told, float) else None,
    )
    found = []
    for place, pair in enumerate(pairs):
        shown = behind.get(pair, _Behind())
        part = replace(
            whole,
            rows=[row for row in rows if (row.model, row.method) == pair],
            strips=shown.strips,
            facts=shown.facts,
        )
        if len(pairs) > 1:
            method = pair[1]
            slug = re.sub(r"[^a-z0-9]+", "-", method.lower())
            part = replace(part, name=f"{name}-{slug}", title=f"{title}: {method}", method=method)
        found.append(part if place == 0 else replace(part, failed={}, notes=()))
    return found or [whole]


def write_grid_results(folder: Path) -> Path:
    """Writes tables (CSV, Markdown, LaTeX), comparisons, worst cases, summary and page.

    Made from ``index.json``, ``rows.jsonl`` and the artifacts that they name; nothing is measured.
    Returns the page's path. Raises UserError when the folder cannot be written.
    """
    parts = sections(folder)
    try:
        write_rows(folder / "rows.csv", read_rows(folder / ROWS))
        for place, part in enumerate(parts):
            suffix = f"-{place + 1}" * (place > 0)
            for table in tables(part):
                name = "table" if table.metric == part.metric else f"table-{table.metric}"
                for form in ("csv", "md", "tex"):
                    write_table(table, folder / f"{name}{suffix}.{form}")
            scored = [row for row in part.rows if not row.reason]
            _write_comparisons(folder, scored, part.metric, suffix)
        write_json(folder / "summary.json", _summary(parts))
        title = str(read_json(folder / INDEX).get("title"))
        write_grid_page(title, parts, versions(), folder / PAGE)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder / PAGE


def _write_comparisons(folder: Path, rows: Sequence[Row], metric: str, suffix: str) -> None:
    higher = metric_of(metric).higher_is_better
    cases = ([], []) if higher is None else _cases(rows, metric, higher)
    for name, text in (
        (COMPARISONS, comparisons_csv(compare(rows, metric))),
        (WORST_CASES, worst_cases_csv(*cases)),
    ):
        path = folder / name
        write_text(path.with_stem(path.stem + suffix), text)


def _cases(rows: Sequence[Row], metric: str, higher: bool) -> tuple[list[Any], list[Any]]:
    return best_attacks(rows, metric, higher), weakest_points(rows, metric, higher)


def _summary(parts: Sequence[Section]) -> dict[str, Any]:
    first = parts[0]
    scored = [row for part in parts for row in part.rows if not row.reason]
    return {
        "command": first.command,
        "settings": dict(first.settings),
        "versions": versions(),
        "results": summary_json(scored) if scored else [],
        "failed": dict(first.failed),
        "duration_seconds": first.duration,
    }


def grids_in(workspace: Path) -> list[Path]:
    """The folders of the grids that were run in a workspace, tables in the paper's order."""
    found = [path.parent for path in workspace.glob(f"*/{INDEX}") if read_json(path).get("grid")]

    def order(folder: Path) -> tuple[float, str]:
        number = read_json(folder / INDEX).get("table")
        return (number if isinstance(number, int) else float("inf"), folder.name)

    return sorted(found, key=order)


def write_workspace_page(workspace: Path, title: str) -> Path:
    """One page of all grids in a workspace; returns its path."""
    folders = grids_in(workspace)
    shown = [part for folder in folders for part in sections(folder, PICTURES // len(folders))]
    try:
        write_grid_page(title, shown, versions(), workspace / PAGE)
    except OSError as error:
        raise cannot_write(workspace, error) from error
    return workspace / PAGE
