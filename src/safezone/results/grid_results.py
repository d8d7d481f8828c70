"""The results of one grid, from its rows and artifacts: files, summary and its page."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from safezone.files import cannot_write, read_json, write_json, write_text
from safezone.lab.config import flat
from safezone.lab.store import ROWS
from safezone.lab.variants import columns_of
from safezone.results.behind import Behind, behind
from safezone.results.comparisons import (
    best_attacks,
    compare,
    comparisons_csv,
    weakest_points,
    worst_cases_csv,
)
from safezone.results.grid_page import PICTURES, Section, tables, write_grid_page
from safezone.results.outputs import INDEX, PAGE, caveats, versions
from safezone.results.published import Published, same_runs
from safezone.results.summary import summary_json
from safezone.results.tables import settings_of, write_table
from safezone.scores import metric_of
from safezone.scores.rows import Row, read_rows, write_rows

COMPARISONS: Final = "comparisons.csv"
WORST_CASES: Final = "worst_cases.csv"


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


def sections(folder: Path, pictures: int = PICTURES) -> list[Section]:
    """What the page shows of the grid whose results lie in ``folder``, one for each method.

    ``pictures``: about how many generated images, see ``behind.behind``. Raises UserError when the
    folder holds no results.
    """
    index = read_json(folder / INDEX)
    rows = columns_of(read_rows(folder / ROWS))
    table, told = index.get("table"), index.get("duration")
    papers = same_runs(table) if isinstance(table, int) else {}
    shown, pairs = behind(folder, index, pictures), settings_of(rows)
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
        seen = shown.get(pair, Behind())
        part = replace(
            whole,
            rows=[row for row in rows if (row.model, row.method) == pair],
            strips=seen.strips,
            facts=seen.facts,
        )
        if len(pairs) > 1:
            method = pair[1]
            slug = re.sub(r"[^a-z0-9]+", "-", method.lower())
            part = replace(part, name=f"{name}-{slug}", title=f"{title}: {method}", method=method)
        found.append(part if place == 0 else replace(part, failed={}, notes=()))
    return found or [whole]


def write_page_of(folder: Path, page: Path, pictures: int = PICTURES) -> None:
    """Writes the page of the grid in ``folder`` to another place; see ``sections``."""
    _write_page(folder, sections(folder, pictures), page)


def _write_page(folder: Path, parts: Sequence[Section], page: Path) -> None:
    title = str(read_json(folder / INDEX).get("title"))
    write_grid_page(title, parts, versions(), page)


def write_grid_results(folder: Path, pictures: int = PICTURES) -> Path:
    """Writes tables (CSV, Markdown, LaTeX), comparisons, worst cases, summary and page.

    Made from ``index.json``, ``rows.jsonl`` and the artifacts that they name; nothing is measured.
    ``pictures``: see ``sections``. Returns the page's path. Raises UserError when the folder cannot
    be written.
    """
    parts = sections(folder, pictures)
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
        _write_page(folder, parts, folder / PAGE)
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


def write_workspace_page(workspace: Path, title: str, pictures: int = PICTURES) -> Path:
    """One page of all grids in a workspace; returns its path."""
    folders = grids_in(workspace)
    shown = [part for folder in folders for part in sections(folder, pictures // len(folders))]
    try:
        write_grid_page(title, shown, versions(), workspace / PAGE)
    except OSError as error:
        raise cannot_write(workspace, error) from error
    return workspace / PAGE
