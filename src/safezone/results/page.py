"""One HTML page of rows and pictures; it needs no network and no other file."""

import base64
import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from safezone.fields import plural
from safezone.results.artifacts import GAIN, Evidence
from safezone.results.comparisons import compare, percent, with_average, worst_cases
from safezone.results.drawings.charts import Charts, charts
from safezone.results.drawings.style import inline_svg, legend_svg
from safezone.results.meaning import duration_text, meaning_sentences
from safezone.results.published import AVERAGE, Published
from safezone.results.statistics import Interval, mean_over_concepts
from safezone.results.tables import (
    SIMILARITY,
    WIDEST,
    WRITERS,
    CellKey,
    ScoreTable,
    label,
    method_label,
    number,
    paper_number,
    score_table,
    with_limits,
)
from safezone.scores import METRICS, metric_of
from safezone.scores.rows import CLEAN, NOMINAL, Row, csv_text, summarise


@dataclass(frozen=True, eq=False)
class Section:
    """One method on one model: its rows, and what lies behind its cells.

    ``name``: its address on the page. ``metric``: of its first table. ``method``: of the rows,
    where the grid has others. ``papers``: the paper's tables of the same runs, by our metric.
    ``failed``: reasons by run. ``open``: whether its pictures are shown at once.
    """

    name: str
    title: str
    rows: Sequence[Row]
    metric: str = SIMILARITY
    method: str = ""
    papers: Mapping[str, Published] = field(default_factory=dict)
    evidence: Evidence = field(default_factory=Evidence)
    failed: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    command: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    duration: float | None = None
    open: bool = False

    @property
    def scored(self) -> list[Row]:
        """The rows with a value."""
        return [row for row in self.rows if not row.reason]

    @cached_property
    def tables(self) -> list[ScoreTable]:
        """All metrics, the section's own first, with means over poisons."""
        whole, metrics = with_average(self.rows, AVERAGE), {row.metric for row in self.scored}
        order = dict.fromkeys([self.metric, *METRICS, *(row.metric for row in self.rows)])
        papers = {metric: paper.values for metric, paper in self.papers.items()}
        return [
            score_table(whole, metric, papers.get(metric)) for metric in order if metric in metrics
        ]

    def pictured(self, axis: int) -> list[str]:
        """The poisons (0) or defenses (1) that have pictures, in the table's order."""
        keys = [*self.evidence.strips, *((poison, "") for _, poison in self.evidence.training)]
        present = dict.fromkeys(key[axis] for key in keys if key[axis])
        order = [(CLEAN, NOMINAL)[axis], *((row.poison, row.defense)[axis] for row in self.rows)]
        return list(dict.fromkeys([*(name for name in order if name in present), *present]))

    def similarities(self, concept: str) -> dict[CellKey, float]:
        """Of each cell of one concept, the mean over seeds."""
        values = summarise([r for r in self.rows if r.concept == concept], SIMILARITY)
        return {(key[0], key[1]): mean_over_concepts(cell) for key, cell in values.items()}


@dataclass(frozen=True, eq=False)
class Page:
    """All that the page shows. ``rows``: to be taken along; ``versions``: of what made them.

    ``lead``: HTML above the tables.
    """

    title: str
    sections: Sequence[Section]
    rows: Sequence[Row] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    lead: Markup = field(default_factory=Markup)


@dataclass(frozen=True, eq=False)
class _View:
    """A table as it is shown: what the paper has and we have not is there as well."""

    table: ScoreTable
    section: Section
    prefix: str
    charts: Charts | None

    def names(self, axis: int) -> list[str]:
        """The poisons (0) or defenses (1)."""
        ours = (self.table.poisons, self.table.defenses)[axis]
        return list(dict.fromkeys([*ours, *(key[axis] for key in self.table.paper)]))

    @property
    def heading(self) -> str:
        """The metric, and the paper's beside it."""
        paper, text = self.section.papers.get(self.table.metric), metric_of(self.table.metric).label
        if paper is None:
            return text
        return f"{text} beside the paper's {paper.printed_metric} (table {paper.number})"

    @property
    def lines(self) -> list[tuple[str, list[CellKey]]]:
        """Each line's name and its cells."""
        if self.table.wide:
            return [(name, [(p, name) for p in self.names(0)]) for name in self.names(1)]
        return [(poison, [(poison, d) for d in self.names(1)]) for poison in self.names(0)]

    @property
    def files(self) -> dict[str, str]:
        """The table's forms as data URIs, by suffix."""
        return {suffix: _uri(write(self.table)) for suffix, write in WRITERS.items()}

    @property
    def cases(self) -> pd.DataFrame:
        """Its worst cases; none where there is one defense."""
        metric = self.table.metric
        cases = worst_cases(self.section.rows, metric, metric_of(metric).higher_is_better)
        return cases if len(self.table.defenses) > 1 else cases[:0]

    def shade(self, mean: float) -> int:
        """How strongly a cell is tinted, 0 to 100, by how good its mean is among the table's."""
        means = [cell.interval.mean for cell in self.table.cells.values()]
        low, high = min(means), max(means)
        higher = metric_of(self.table.metric).higher_is_better
        if higher is None or low == high:
            return 0
        share = (mean - low) / (high - low)
        return round(100 * (share if higher else 1 - share))


def _uri(text: str) -> str:
    coded = base64.b64encode(text.encode("utf-8", "replace")).decode()
    return f"data:text/plain;charset=utf-8;base64,{coded}"


def _command(section: Section, poison: str, defense: str) -> str:
    """The command of one cell; of a column that is a variant of the training, the whole grid's."""
    if "safezone grid run" not in section.command or "=" in defense:
        return section.command
    words = shlex.split(section.command)
    own = [  # those of the whole grid would run more than the cell
        word
        for before, word in zip(["", *words], words, strict=False)
        if not {before, word.partition("=")[0]} & {"--only", "--name"}
    ]
    names = [poison, defense, *([section.method] if section.method else [])]
    parts = [part for name in names for part in ("--only", name)]
    return shlex.join([*own, *parts, "--name", ",".join(names).replace(" ", "-")])


def _behind(view: _View) -> dict[str, dict[str, Any]]:
    """What a click on each cell of the table shows, as JSON values."""
    metric, section = view.table.metric, view.section
    decimals = metric_of(metric).decimals
    lines: Iterable[Any] = compare(section.rows, metric).itertuples()
    compared = {(line.poison, line.defense): line for line in lines}
    result = {}
    for (poison, defense), concepts in summarise(section.rows, metric).items():
        cell = view.table.cells[poison, defense]
        facts = {"rests on": f"{plural(cell.n_concepts, 'concept')}, {plural(cell.n_runs, 'run')}"}
        if (line := compared.get((poison, defense))) is not None:
            difference = Interval(line.difference, line.low, line.high)
            verdict = "tied with Nominal" if line.tied else "differs from Nominal"
            text = with_limits(difference, decimals, sign=True)
            facts["minus Nominal"] = f"{text}, Holm p {line.p_holm:.2g}: {verdict}"
            if not math.isnan(line.recovery):
                share = Interval(line.recovery, line.recovery_low, line.recovery_high)
                facts["recovery"] = f"{percent(share)} of what the poison took"
        result[f"{view.prefix}|{poison}|{defense}"] = {
            "facts": [*facts.items(), *section.evidence.facts.get((poison, defense), {}).items()],
            "concepts": [
                (concept, ", ".join(number(value, decimals + 1) for value in seeds.values()))
                for concept, seeds in concepts.items()
            ],
            "command": _command(section, poison, defense),
        }
    return result


def environment(package: str) -> jinja2.Environment:
    """The templates of a package; every text that is filled in is escaped."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader(package, "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["method"] = method_label
    return templates


def render_page(page: Page) -> str:
    """The page as text."""
    sections, cells = [], dict[str, Any]()
    for index, section in enumerate(page.sections):
        tables, views = section.tables, []
        prompts = next((table for table in tables if table.metric == "clip_score"), None)
        for place, table in enumerate(tables):
            drawn = charts(table, prompts) if place == 0 else None
            views.append(_View(table, section, f"{index}.{place}", drawn))
            cells |= _behind(views[-1])
        columns = {name for t in tables if t.metric == SIMILARITY for name in t.defenses}
        defended = 0 < len(columns) <= WIDEST  # more columns are settings, not defenses
        sections.append((section, meaning_sentences(section.scored) if defended else [], views))

    templates = environment("safezone.results")
    templates.filters |= {"label": label, "number": number, "duration": duration_text}
    templates.globals |= {
        **{"metric_of": metric_of, "paper_number": paper_number, "nan": math.isnan, "gain": GAIN},
        **{"percent": lambda *limits: percent(Interval(*limits)), "average": AVERAGE},
        "svg": lambda *arguments: Markup(inline_svg(*arguments)),
        "look": lambda place: Markup(legend_svg(place)),
    }
    room = files("safezone.results")
    data = json.dumps({"cells": cells}, ensure_ascii=False).replace("<", "\\u003c")
    text = templates.get_template("page.html.j2").render(
        page=page,
        sections=sections,
        data=Markup(data),
        rows_uri=_uri(csv_text(page.rows)),
        style=Markup(room.joinpath("page.css").read_text(encoding="utf-8")),
        script=Markup(room.joinpath("page.js").read_text(encoding="utf-8")),
    )
    return text.encode("utf-8", "replace").decode()  # a folder's name may hold any bytes
