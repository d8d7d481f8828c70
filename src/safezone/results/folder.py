"""A result's folder: a grid is measured into it, and its tables, summary and page are written.

All but the measuring follows from the folder's own index, rows and artifacts.
"""

import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from markupsafe import Markup

from safezone.files import locked, write_json, write_text
from safezone.lab.executors import Executor
from safezone.lab.lab import Lab
from safezone.lab.presets import flat, settings_yaml
from safezone.lab.run import Grid, Run
from safezone.lab.schedule import plan, run_grid
from safezone.lab.stage import job, jobs
from safezone.lab.store import NEEDS, ROWS_FILE
from safezone.lab.variants import columns_of
from safezone.reading import read_json
from safezone.results.artifacts import INDEX, PICTURES, Evidence, evidence
from safezone.results.comparisons import compare, ratios_markdown, summary_json, worst_cases
from safezone.results.meaning import caveats, meaning_sentences, paper_notes, pooled_notes, versions
from safezone.results.page import Page, Section, render_page
from safezone.results.published import same_runs
from safezone.results.tables import (
    SIMILARITY,
    WRITERS,
    by_setting,
    csv_of,
    method_label,
    to_markdown,
)
from safezone.scores import METRICS, Row, metric_of
from safezone.scores.rows import read_rows, write_rows

PAGE: Final = "report.html"
LEAD: Final = "lead.html"
"""What stands above the tables, where somebody has written it."""
SETTINGS: Final = "settings.yaml"
"""With ``--config`` it repeats the measurement."""
PROMPTS_SHOWN: Final = 6
"""Of each run, on a page of more than three concepts."""
RESULT_LOCK: Final = ".results.lock"
"""In a result's folder, while a process makes it."""
_BEHIND: Final = ("generate", "personalize")
_TABLES: Final = re.compile(
    rf"(table(-({'|'.join(METRICS)}))?(-\d+)?\.(csv|tex|md)|(comparisons|worst_cases)(-\d+)?\.csv)"
)
"""The names of the files of tables, as ``_write_tables`` makes them."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured. ``rows``: with those of failed runs; ``failed``: reasons by run."""

    rows: list[Row]
    failed: dict[str, str]
    page: Path

    @property
    def scored(self) -> list[Row]:
        """The rows with a value."""
        return [row for row in self.rows if not row.reason]


def measure(
    lab: Lab,
    grid: Grid,
    workspace: Path,
    folder: Path,
    *,
    title: str,
    command: str,
    kind: Literal["grid", "claim"] = "grid",
    photographs: bool = False,
    made_here: bool = True,
    executor: Executor | None = None,
    progress: bool = True,
    note: Callable[[str], None] = lambda text: None,
) -> Measured:
    """Runs what is missing and writes the results to ``folder``, inside ``workspace`` or itself.

    ``photographs``: whether the built-in model learns from such; ``made_here``: whether the poisons
    were. A run that fails is a row with its reason; the others go on. Other processes may run other
    grids in the same workspace: what they have in common is made by one of them. Raises UserError
    when another process writes to ``folder`` or it cannot be written.
    """
    started = time.monotonic()
    with locked(workspace, shared=True), locked(folder, file=RESULT_LOCK):
        (folder / LEAD).unlink(missing_ok=True)  # an earlier verdict is not of the new tables
        write_text(folder / SETTINGS, settings_yaml(lab.settings))
        needed = {each.place for own in jobs(lab, grid) for each in own.of.values()}
        names = sorted(str(place.relative_to(lab.folder)) for place in needed)
        write_json(folder / NEEDS, {"grid": grid.name, "runs": len(grid), "artifacts": names})
        counts = plan(lab, grid).values()
        whole = not any(finished for finished, _ in counts)
        if all(finished == total for finished, total in counts):
            executor = None  # nothing is left for others to do
        results = run_grid(lab, grid, executor=executor, progress=progress, note=note)
        failed = {run.label: reason for run, reason in results.failed.items()}
        seeds = [run.seed for run in grid]
        first = [r for r in grid if r not in results.failed and r.seed == min(seeds)]
        places = [
            [os.path.relpath(job(lab, run).of[stage].place, folder) for stage in _BEHIND]
            for run in first
        ]
        index: dict[str, Any] = {
            "title": title,
            "command": command,
            "settings": {**asdict(lab.settings), "precision": lab.model.precision},
            "failed": failed,
            "most_prompts": None if len(lab.concepts) <= 3 else PROMPTS_SHOWN,
            "duration": time.monotonic() - started if whole else None,
            "grid": grid.name if kind == "grid" else None,
            "model": grid.runs[0].model,
            "table": grid.table,
            "metric": grid.metric,
            "photographs": photographs,
            "made_here": made_here,
            "pooled": _pooled(lab, [run for run in grid if run not in results.failed]),
            "images": [images for images, _ in places],
            "adapters": {images: adapter for images, adapter in places},
        }
        write_json(folder / INDEX, index)
        page = write_results(folder, index, results.rows)
    return Measured(results.rows, failed, page)


def _pooled(lab: Lab, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The FID of each cell over all of its concepts and seeds, where Inception's features are.

    One value for each method, model, poison and defense, with the counts of images behind it.
    """
    from safetensors.torch import load_file

    from safezone.scores.inception import pooled_distance

    cells: dict[tuple[str, ...], list[tuple[str, Path]]] = {}
    for run in runs:
        file = job(lab, run).of["score"].place / "inception.safetensors"
        if file.is_file():
            cell = (run.method, run.model, run.poison, run.defense)
            cells.setdefault(cell, []).append((run.concept, file))
    values = []
    for names, files in cells.items():
        score = pooled_distance((concept, load_file(file)) for concept, file in files)
        if score is not None:
            columns = ("method", "model", "poison", "defense")
            counts = {"n_generated": score.n_generated, "n_reference": score.n_reference}
            named = dict(zip(columns, names, strict=True))
            values.append({**named, "value": score.value, **counts})
    return values


def sections(
    folder: Path, index: Mapping[str, Any], rows: Sequence[Row], pictures: int = PICTURES
) -> list[Section]:
    """What the page shows of a result, one section for each model and method.

    ``index``: what ``index.json`` holds; its artifacts are relative to ``folder``. ``pictures``:
    see ``artifacts.evidence``.
    """
    rows = columns_of(rows)
    table, settings = index.get("table"), by_setting(rows)
    behind = evidence(folder, index, pictures)
    papers = same_runs(table) if isinstance(table, int) else {}
    name, title = _slug(folder.resolve().name), str(index.get("title"))
    notes = caveats(
        [row for row in rows if not row.reason],
        bool(index.get("photographs")),
        made_here=bool(index.get("made_here", True)),
    )
    whole = Section(
        name=name,
        title=title,
        rows=rows,
        metric=str(index.get("metric", SIMILARITY)),
        papers=papers,
        failed=dict(index.get("failed") or {}),
        notes=[*notes, *paper_notes(papers), *pooled_notes(index.get("pooled", ()))],
        command=str(index.get("command", "")),
        settings=flat(index.get("settings", {})),
        duration=index.get("duration"),
        open=not index.get("grid"),
    )
    result: list[Section] = []
    for model, method in settings or behind:
        own_rows = settings.get((model, method), [])
        part = replace(whole, rows=own_rows, evidence=behind.get((model, method), Evidence()))
        if len(settings) > 1:
            of_model = "" if len({model for model, _ in settings}) == 1 else f" on {model}"
            part = replace(
                part,
                name=f"{name}-{_slug(method + of_model)}",
                title=f"{title}: {method_label(method)}{of_model}",
                method=method,
            )
        result.append(replace(part, failed={}, notes=()) if result else part)
    return result or [whole]


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text)


def _page(folder: Path, index: Mapping[str, Any], rows: Sequence[Row], pictures: int) -> Page:
    parts = sections(folder, index, rows, pictures)
    lead = folder / LEAD
    text = lead.read_text(encoding="utf-8") if lead.is_file() else ""
    return Page(str(index.get("title")), parts, rows, versions(), Markup(text))


def page_of(folder: Path, pictures: int = PICTURES) -> Page:
    """The page of a folder that has an index; UserError when it holds no results."""
    index, rows = read_json(folder / INDEX), read_rows(folder / ROWS_FILE)
    return _page(folder, index, rows, pictures)


def write_page(page: Page, path: Path) -> Path:
    """Writes the page, atomically, as one self-contained file; UserError when it cannot."""
    write_text(path, render_page(page))
    return path


def write_results(
    folder: Path, index: Mapping[str, Any], rows: Sequence[Row], pictures: int = PICTURES
) -> Path:
    """Writes rows, tables (CSV, Markdown, LaTeX), comparisons, worst cases, summary and page.

    Nothing is measured; tables of an earlier result that this one lacks are removed. Returns the
    page's path. Raises UserError when the folder cannot be written.
    """
    if rows:
        write_rows(folder / ROWS_FILE, rows)
        write_rows(folder / "rows.csv", rows)
    page = _page(folder, index, rows, pictures)
    scored = [row for part in page.sections for row in part.scored]
    first = page.sections[0]
    summary = {
        "command": first.command,
        "settings": dict(first.settings),
        "versions": dict(page.versions),
        "results": summary_json(scored),
        "meaning": meaning_sentences(scored) if scored else [],
        "failed": dict(first.failed),
        "duration_seconds": first.duration,
    }
    written: set[str] = set()
    for place, part in enumerate(page.sections):
        written |= _write_tables(folder, part, f"-{place + 1}" if place else "")
    for path in folder.iterdir():
        if path.is_file() and _TABLES.fullmatch(path.name) and path.name not in written:
            path.unlink()
    write_json(folder / "summary.json", summary)
    return write_page(page, folder / PAGE)


def rewrite_results(folder: Path, title: str | None = None, pictures: int = PICTURES) -> Path:
    """``write_results`` again from the index, rows and artifacts of ``folder``."""
    index = read_json(folder / INDEX)
    if title is not None:
        index["title"] = title
        write_json(folder / INDEX, index)
    return write_results(folder, index, read_rows(folder / ROWS_FILE), pictures)


def _write_tables(folder: Path, part: Section, end: str) -> set[str]:
    """Writes the files of a section, whose names end so; returns their names."""
    files: dict[str, str] = {}
    for table in part.tables:
        own = table.metric == part.metric
        stem = f"table{'' if own else '-' + table.metric}{end}"
        files |= {f"{stem}{suffix}": WRITERS[suffix](table) for suffix in (".csv", ".tex")}
        ratios = ratios_markdown(part.scored) if own and part.metric == SIMILARITY else ""
        files[f"{stem}.md"] = "\n".join(filter(None, [to_markdown(table), ratios]))
    if part.scored:
        higher = metric_of(part.metric).higher_is_better
        cases = worst_cases(part.rows, part.metric, higher)
        cases["tied_with"] = cases["tied_with"].map(" ".join)
        files[f"comparisons{end}.csv"] = csv_of(compare(part.scored, part.metric))
        files[f"worst_cases{end}.csv"] = csv_of(cases)
    for name, text in files.items():
        write_text(folder / name, text)
    return {*files}


def grids_in(workspace: Path) -> list[Path]:
    """The folders of the grids that were run in a workspace, tables in the paper's order."""
    indices = {path.parent: read_json(path) for path in workspace.glob(f"*/{INDEX}")}
    grids = [folder for folder, index in indices.items() if index.get("grid")]

    def order(folder: Path) -> tuple[float, str]:
        number = indices[folder].get("table")
        return (number if isinstance(number, int) else math.inf), folder.name

    return sorted(grids, key=order)


def write_workspace_page(workspace: Path, title: str, pictures: int = PICTURES) -> Path:
    """One page of all grids in a workspace; returns its path."""
    folders = grids_in(workspace)
    pages = [page_of(folder, pictures // len(folders)) for folder in folders]
    parts = [part for page in pages for part in page.sections]
    return write_page(Page(title, parts, versions=versions()), workspace / PAGE)
