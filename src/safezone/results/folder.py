"""A result's folder: from its index, rows and artifacts to its tables, summary and page."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from safezone.files import write_json, write_text
from safezone.lab.config import flat
from safezone.lab.store import ROWS_FILE
from safezone.lab.variants import columns_of
from safezone.reading import read_json
from safezone.results.artifacts import INDEX, PICTURES, Evidence, evidence
from safezone.results.comparisons import compare
from safezone.results.meaning import meaning_sentences
from safezone.results.notes import caveats, paper_notes, pooled_notes, versions
from safezone.results.page import Page, Section, render_page
from safezone.results.published import same_runs
from safezone.results.summary import ratios_markdown, summary_json
from safezone.results.tables import SIMILARITY, csv_of, settings_of, to_markdown, write_table
from safezone.scores.rows import Row, read_rows, write_rows

PAGE: Final = "report.html"
LEAD: Final = "lead.html"
"""What stands above the tables, where somebody has written it."""


def sections(
    folder: Path, index: Mapping[str, Any], rows: Sequence[Row], pictures: int = PICTURES
) -> list[Section]:
    """What the page shows of a result, one section for each model and method.

    ``index``: what ``index.json`` holds; its artifacts are relative to ``folder``. ``pictures``:
    see ``artifacts.evidence``.
    """
    rows = columns_of(rows)
    table, pairs = index.get("table"), settings_of(rows)
    behind = evidence(folder, index, pictures)
    papers = same_runs(table) if isinstance(table, int) else {}
    name, title = _slug(folder.resolve().name), str(index.get("title"))
    notes = caveats([row for row in rows if not row.reason], bool(index.get("photographs")))
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
    for model, method in pairs or list(behind):
        part = replace(
            whole,
            rows=[row for row in rows if (row.model, row.method) == (model, method)],
            evidence=behind.get((model, method), Evidence()),
        )
        if len(pairs) > 1:
            own = method if len({model for model, _ in pairs}) == 1 else f"{method} on {model}"
            part = replace(
                part, name=f"{name}-{_slug(own)}", title=f"{title}: {own}", method=method
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

    Nothing is measured. Returns the page's path. Raises UserError when the folder cannot be
    written.
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
        "results": summary_json(scored) if scored else [],
        "meaning": meaning_sentences(scored) if scored else [],
        "failed": dict(first.failed),
        "duration_seconds": first.duration,
    }
    for place, part in enumerate(page.sections):
        _write_tables(folder, part, f"-{place + 1}" if place else "")
    write_json(folder / "summary.json", summary)
    return write_page(page, folder / PAGE)


def rewrite_results(folder: Path, title: str | None = None, pictures: int = PICTURES) -> Path:
    """``write_results`` again from the index, rows and artifacts of ``folder``."""
    index = read_json(folder / INDEX)
    if title is not None:
        index["title"] = title
        write_json(folder / INDEX, index)
    return write_results(folder, index, read_rows(folder / ROWS_FILE), pictures)


def _write_tables(folder: Path, part: Section, suffix: str) -> None:
    for table in part.tables:
        own = table.metric == part.metric
        stem = f"table{'' if own else '-' + table.metric}{suffix}"
        for form in (".csv", ".tex"):
            write_table(table, folder / f"{stem}{form}")
        ratios = ratios_markdown(part.scored) if own and part.metric == SIMILARITY else ""
        write_text(folder / f"{stem}.md", "\n".join(filter(None, [to_markdown(table), ratios])))
    if part.scored:
        cases = part.worst_cases(part.metric)
        cases["tied_with"] = cases["tied_with"].map(" ".join)
        write_text(folder / f"comparisons{suffix}.csv", csv_of(compare(part.scored, part.metric)))
        write_text(folder / f"worst_cases{suffix}.csv", csv_of(cases))


def grids_in(workspace: Path) -> list[Path]:
    """The folders of the grids that were run in a workspace, tables in the paper's order."""
    indices = {path.parent: read_json(path) for path in workspace.glob(f"*/{INDEX}")}

    def order(folder: Path) -> tuple[float, str]:
        number = indices[folder].get("table")
        return (number if isinstance(number, int) else float("inf"), folder.name)

    return sorted((folder for folder, index in indices.items() if index.get("grid")), key=order)


def write_workspace_page(workspace: Path, title: str, pictures: int = PICTURES) -> Path:
    """One page of all grids in a workspace; returns its path."""
    folders = grids_in(workspace)
    pages = [page_of(folder, pictures // len(folders)) for folder in folders]
    parts = [part for page in pages for part in page.sections]
    return write_page(Page(title, parts, versions=versions()), workspace / PAGE)
