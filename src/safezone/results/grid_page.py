"""One page for tables: ours, its spread and the paper's number; behind each cell what made it."""

import base64
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from safezone.files import write_text
from safezone.results.comparisons import (
    Comparison,
    WorstCase,
    best_attacks,
    compare,
    weakest_points,
    with_average,
)
from safezone.results.html import asset, environment
from safezone.results.plots import WIDEST, Plots, plots
from safezone.results.published import AVERAGE, Published
from safezone.results.tables import (
    ScoreTable,
    label,
    number,
    score_table,
    to_csv,
    to_latex,
    to_markdown,
)
from safezone.scores import METRICS, metric_of
from safezone.scores.rows import Row

PICTURES: Final = 4000
"""About how many generated images a page holds: some 5 MB of the built-in model's."""

Cell = tuple[str, str]
"""(poison, defense)."""


@dataclass(frozen=True)
class Strip:
    """One run's first images and their prompts. ``learned``: what its adapter is, in words."""

    pictures: tuple[str, ...]
    prompts: tuple[str, ...]
    training: tuple[str, ...]
    learned: str


@dataclass(frozen=True, eq=False)
class Section:
    """One method on one model, of one grid: its rows, and what lies behind its cells.

    ``method``: of the rows, where the grid has others. ``papers``: the paper's tables of the same
    runs, by our metric. ``strips``: of the first seed, by cell and concept. ``facts``: settings
    behind a cell. ``failed``: reasons by run.
    """

    name: str
    title: str
    rows: Sequence[Row]
    metric: str
    method: str = ""
    papers: Mapping[str, Published] = field(default_factory=dict)
    strips: Mapping[Cell, Mapping[str, Strip]] = field(default_factory=dict)
    facts: Mapping[Cell, Mapping[str, str]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    command: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    duration: float | None = None


@dataclass(frozen=True)
class _Box:
    """One cell of a table as it is shown."""

    key: str
    mean: str
    limits: str
    value: float
    paper: str
    best: bool
    tied: bool
    shade: int
    where: str


@dataclass(frozen=True)
class _Shown:
    """One table as it is shown, and its files as data URIs."""

    table: ScoreTable
    heading: str
    corner: str
    head: tuple[str, ...]
    lines: tuple[tuple[str, tuple[_Box | None, ...]], ...]
    files: tuple[tuple[str, str], ...]


def tables(section: Section) -> list[ScoreTable]:
    """All metrics, the section's own first, with means over poisons."""
    found = []
    whole = with_average(section.rows, AVERAGE)
    for metric in dict.fromkeys([section.metric, *METRICS, *(row.metric for row in section.rows)]):
        if any(row.metric == metric and not row.reason for row in section.rows):
            paper = section.papers.get(metric)
            found.append(score_table(whole, metric, None if paper is None else paper.values))
    return found


def _paper_text(value: float | None) -> str:
    return "" if value is None else number(value, 0 if value > 2 else 2)


def _box(table: ScoreTable, cell: Cell, key: str, shades: tuple[float, float]) -> _Box | None:
    found, decimals = table.cells.get(cell), metric_of(table.metric).decimals
    paper = _paper_text(table.paper.get(cell))
    where = f"{label(cell[0])}, {label(cell[1])}"
    if found is None:
        return _Box(key, "–", "", math.nan, paper, False, False, 0, where) if paper else None
    mean, low, high = found.interval
    limits = "" if math.isnan(low) else f"{number(low, decimals)} to {number(high, decimals)}"
    worst, best = shades
    share = 0.0 if worst == best else (mean - worst) / (best - worst)
    shade = round(100 * min(max(share, 0.0), 1.0))
    own = found.best and cell[0] != AVERAGE
    return _Box(
        key, number(mean, decimals), limits, mean, paper, own, own and found.tied, shade, where
    )


def _shades(table: ScoreTable) -> tuple[float, float]:
    means = [cell.interval.mean for cell in table.cells.values()]
    higher = metric_of(table.metric).higher_is_better
    if higher is None or not means:
        return (0.0, 0.0)
    return (min(means), max(means)) if higher else (max(means), min(means))


def _uri(text: str, kind: str) -> str:
    return f"data:{kind};charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"


def _ordered(ours: Sequence[str], papers: Sequence[str]) -> tuple[str, ...]:
    own = [name for name in ours if name not in papers]
    names = tuple(dict.fromkeys([*papers, *own]))
    return tuple(sorted(names, key=lambda name: name == AVERAGE))  # sorted is stable


def _shown(section: Section, table: ScoreTable, prefix: str) -> _Shown:
    shades = _shades(table)
    names = [*table.poisons], [*table.defenses]
    for poison, defense in table.paper:  # what the paper has and we have not is shown as well
        names[0].append(poison)
        names[1].append(defense)
    poisons, defenses = (tuple(dict.fromkeys(each)) for each in names)

    def box(poison: str, defense: str) -> _Box | None:
        return _box(table, (poison, defense), f"{prefix}|{poison}|{defense}", shades)

    if len(defenses) > WIDEST:
        head = tuple(map(label, poisons))
        lines = tuple((label(d), tuple(box(p, d) for p in poisons)) for d in defenses)
    else:
        head = tuple(map(label, defenses))
        lines = tuple((label(p), tuple(box(p, d) for d in defenses)) for p in poisons)
    paper = section.papers.get(table.metric)
    heading = metric_of(table.metric).label
    if paper is not None:
        heading += f" beside the paper's {paper.printed_metric} (table {paper.number})"
    files = (
        ("CSV", _uri(to_csv(table), "text/csv")),
        ("Markdown", _uri(to_markdown(table), "text/markdown")),
        ("LaTeX", _uri(to_latex(table), "application/x-tex")),
    )
    corner = "Setting" if len(defenses) > WIDEST else "Poison"
    return _Shown(table, heading, corner, head, lines, files)


def _difference_text(found: Comparison, decimals: int) -> str:
    mean, low, high = (number(v, decimals, sign=True) for v in found.difference[:3])
    spread = "" if math.isnan(found.difference.low) else f" [{low}, {high}]"
    verdict = "tied with Nominal" if found.tied else "differs from Nominal"
    return f"{mean}{spread}, Holm p {found.p_holm:.2g}: {verdict}"


def _cell_command(section: Section, poison: str, defense: str) -> str:
    """The command of one cell; of a column that is a variant of the training, the whole grid's."""
    if not section.command or "=" in defense:
        return section.command
    names = [poison, defense, *([section.method] if section.method else [])]
    parts = [part for name in names for part in ("--only", name)]
    return f"{section.command} {shlex.join([*parts, '--name', ','.join(names).replace(' ', '-')])}"


def _cell_data(section: Section, table: ScoreTable) -> dict[Cell, dict[str, Any]]:
    """What a click on each cell of the table shows, as JSON values."""
    decimals = metric_of(table.metric).decimals
    ours = [row for row in section.rows if row.metric == table.metric]
    compared = {(c.poison, c.defense): c for c in compare(ours, table.metric)}
    values: dict[Cell, dict[str, list[str]]] = {}
    for row in sorted(ours, key=lambda row: row.seed):
        by_concept = values.setdefault((row.poison, row.defense), {})
        by_concept.setdefault(row.concept, []).append(number(row.value, decimals + 1))
    found: dict[Cell, dict[str, Any]] = {}
    for cell, concepts in values.items():
        facts = dict(section.facts.get(cell, {}))
        if (difference := compared.get(cell)) is not None:
            facts = {"minus Nominal": _difference_text(difference, decimals), **facts}
            if difference.recovery is not None:
                share, low, high = (number(100 * v, 0) for v in difference.recovery)
                facts["recovery"] = f"{share}% [{low}, {high}] of what the poison took"
        found[cell] = {"facts": list(facts.items()), "concepts": list(concepts.items())}
    return found


@dataclass(frozen=True)
class _Cases:
    attacks: Sequence[WorstCase]
    weakest: Sequence[WorstCase]


def _cases(section: Section, table: ScoreTable) -> _Cases | None:
    higher = metric_of(table.metric).higher_is_better
    if higher is None:
        return None
    found = _Cases(
        best_attacks(section.rows, table.metric, higher),
        weakest_points(section.rows, table.metric, higher),
    )
    return found if found.attacks and len(table.defenses) > 1 else None


def _plots(table: ScoreTable, every: Sequence[ScoreTable]) -> Plots | None:
    """The figures of the section's first table; the others have none."""
    prompts = next((each for each in every if each.metric == "clip_score"), None)
    return plots(table, prompts) if table is every[0] else None


def render_grid_page(title: str, sections: Sequence[Section], versions: Mapping[str, str]) -> str:
    """The page as text: no network, no other file."""
    shown: list[tuple[Section, list[tuple[_Shown, _Cases | None, Plots | None]]]] = []
    cells: dict[str, Any] = {}
    strips: dict[str, Any] = {}
    pool: dict[str, int] = {}  # every picture is there once

    def places(pictures: Sequence[str]) -> list[int]:
        return [pool.setdefault(picture, len(pool)) for picture in pictures]

    for index, section in enumerate(sections):
        parts, every = [], tables(section)
        for place, table in enumerate(every):
            prefix = f"{index}.{place}"
            drawn = _plots(table, every)
            parts.append((_shown(section, table, prefix), _cases(section, table), drawn))
            for (poison, defense), cell in _cell_data(section, table).items():
                cell["section"] = index
                cell["command"] = _cell_command(section, poison, defense)
                cells[f"{prefix}|{poison}|{defense}"] = cell
        for (poison, defense), found in section.strips.items():
            strips[f"{index}|{poison}|{defense}"] = {
                concept: [places(s.pictures), s.prompts, places(s.training), s.learned]
                for concept, s in found.items()
            }
        shown.append((section, parts))
    data = {
        "cells": cells,
        "strips": strips,
        "pictures": list(pool),
    }
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    context = {
        "title": title,
        "sections": shown,
        "versions": versions,
        "data": Markup(text),
        "style": asset("style.css") + asset("grid.css"),
        "script": asset("grid.js"),
        "nan": math.isnan,
    }
    return environment().get_template("grid.html.j2").render(context)


def write_grid_page(
    title: str, sections: Sequence[Section], versions: Mapping[str, str], path: Path
) -> None:
    """Writes the page, atomically, as one self-contained file."""
    write_text(path, render_grid_page(title, sections, versions))
