"""Rows to a table of poisons by defenses, and that table to CSV, Markdown and LaTeX."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import pandas as pd

from safezone.fields import plural
from safezone.results.published import AVERAGE
from safezone.results.statistics import Interval, mean_interval, tied_best
from safezone.scores import metric_of
from safezone.scores.rows import CLEAN, NOMINAL, Row, summarise

SIMILARITY: Final = "instance_similarity"
"""The metric of the claim, and of every sentence about what a poison took."""

CellKey = tuple[str, str]
"""(poison, defense): where a cell stands in a table."""
WIDEST: Final = 12
"""Of a table with more defenses, all of them settings, these are the lines; curves are drawn."""

_NAMES: Final[Mapping[str, str]] = {
    CLEAN: "Clean",
    NOMINAL: "Nominal",
    "advclean": "AdvClean",
    "regen": "Regen",
    "pdmpure": "PDMPure",
    AVERAGE: "Poisons, mean",
}
_METHODS: Final[Mapping[str, str]] = {
    "lora": "LoRA",
    "custom diffusion": "Custom Diffusion",
    "custom diffusion crop": "Custom Diffusion with crops",
}


def label(name: str) -> str:
    """A poison's or defense's name as the paper prints it: ``jpeg+t600`` is JPEG+T600.

    Settings of a training stay as they are: ``lr=5e-4;steps=1k``.
    """
    if "=" in name:
        return name
    return re.sub(r"[^+]+", lambda part: _NAMES.get(part[0], part[0].upper()), name)


def method_label(name: str) -> str:
    """A method's name as sentences have it: LoRA."""
    return _METHODS.get(name, name)


def number(value: float, decimals: int = 2, sign: bool = False) -> str:
    """A rounded number with a true minus sign and no negative zero; a dash for NaN."""
    if math.isnan(value):
        return "–"
    text = f"{round(value, decimals) + 0.0:{'+' if sign else ''}.{decimals}f}"
    return text.replace("-", "−")


def with_limits(interval: Interval, decimals: int = 2, sign: bool = False) -> str:
    """``0.33 [0.28, 0.38]``; without limits the mean alone."""
    mean, low, high = (number(value, decimals, sign) for value in interval)
    return mean if math.isnan(interval.low) else f"{mean} [{low}, {high}]"


def paper_number(value: float) -> str:
    """A number of the paper as it prints it: two decimals, distances none."""
    return number(value, 0 if value > 2 else 2)


@dataclass(frozen=True)
class TableCell:
    """One poison under one defense.

    ``interval``: mean over concepts with its 95% interval. ``best``: no candidate of the same
    poison is shown to be better; ``tied``: that holds for others too. ``n_generated`` and
    ``n_reference``: smallest and largest counts of images behind one run's value.
    """

    interval: Interval
    best: bool
    tied: bool
    n_concepts: int
    n_runs: int
    n_generated: tuple[int, int]
    n_reference: tuple[int, int]


@dataclass(frozen=True)
class ScoreTable:
    """One metric for one model and method: poisons (rows) by defenses (columns).

    Clean and Nominal come first, the others in the order of the rows. Cells without a value are
    absent. ``paper``: the paper's number of cells, where it has one.
    """

    metric: str
    model: str
    method: str
    poisons: tuple[str, ...]
    defenses: tuple[str, ...]
    cells: Mapping[CellKey, TableCell]
    paper: Mapping[CellKey, float] = field(default_factory=dict)

    def counts(self) -> str:
        """What the values rest on, in words."""
        if not self.cells:
            return "no runs"
        cells = self.cells.values()
        reference = _span(n for cell in cells for n in cell.n_reference)
        images = f"{_span(n for cell in cells for n in cell.n_generated)} generated"
        if reference != "0":
            images += f", {reference} reference"
        return (
            f"{plural(_span(cell.n_concepts for cell in cells), 'concept')} and "
            f"{plural(_span(cell.n_runs for cell in cells), 'run')} a cell, {images} images a run"
        )

    @property
    def wide(self) -> bool:
        """Whether defenses are shown as its lines, and poisons as its columns."""
        return len({*self.defenses, *(defense for _, defense in self.paper)}) > WIDEST

    def texts(self, bold: Callable[[str], str]) -> pd.DataFrame:
        """Poisons by defenses, or the other way round where it is wide: a sole best bold, ties with
        =, the paper's number in parentheses."""

        decimals = metric_of(self.metric).decimals

        def text(key: CellKey) -> str:
            cell, paper = self.cells.get(key), self.paper.get(key)
            words = "" if cell is None else with_limits(cell.interval, decimals)
            if cell is not None and cell.best:
                words = f"{words} =" if cell.tied else bold(words)
            return words if paper is None else f"{words} ({paper_number(paper)})".strip()

        values = [[text((poison, name)) for name in self.defenses] for poison in self.poisons]
        frame = pd.DataFrame(
            values,
            index=pd.Index([label(poison) for poison in self.poisons], name="Poison"),
            columns=pd.Index([label(name) for name in self.defenses], name="Setting"),
        )
        return frame.T if self.wide else frame

    def caption(self) -> str:
        """What the table shows and how it is marked, without a full stop."""
        metric = metric_of(self.metric)
        better = {True: ", higher is better", False: ", lower is better", None: ""}
        marks = {cell.tied for cell in self.cells.values() if cell.best}
        line = "column" if self.wide else "row"
        return (
            f"{metric.label} of {method_label(self.method)} on {self.model}"
            f"{better[metric.higher_is_better]}: mean over concepts [95% interval], "
            f"{self.counts()}"
            + (f"; bold is the best of a {line}, beyond noise" if False in marks else "")
            + (f"; = is the best of a {line} or not shown to be worse" if True in marks else "")
            + ("; the paper's number stands in parentheses" if self.paper else "")
        )


def by_setting(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows of each (model, method), in order; each gets its own tables."""
    result: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        result.setdefault((row.model, row.method), []).append(row)
    return result


def _span(values: Iterable[int]) -> str:
    numbers = list(values)
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _front(first: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(dict.fromkeys(names), key=lambda name: name != first))  # sorted is stable


def score_table(
    rows: Sequence[Row], metric: str, paper: Mapping[CellKey, float] | None = None
) -> ScoreTable:
    """The table of one metric, from rows of one model and one method.

    ``paper``: the paper's numbers by (poison, defense), of this metric. Raises ValueError when the
    rows mix models or methods.
    """
    settings = list(by_setting(rows))
    if len(settings) != 1:
        raise ValueError(f"rows of one model and method, not of {settings}")
    ours = [row for row in rows if row.metric == metric and math.isfinite(row.value)]
    groups = summarise(ours, metric)
    runs: dict[CellKey, list[Row]] = {}
    for row in ours:
        runs.setdefault((row.poison, row.defense), []).append(row)
    higher = metric_of(metric).higher_is_better
    poisons = _front(CLEAN, (row.poison for row in ours))
    defenses = _front(NOMINAL, (row.defense for row in ours))
    cells = {}
    for poison in poisons:
        candidates = {name: groups[poison, name] for name in defenses if (poison, name) in groups}
        best: frozenset[str] = frozenset()
        if higher is not None and len(candidates) > 1:
            best = tied_best(candidates, higher_is_better=higher)
        for name, values in candidates.items():
            generated = [row.n_generated for row in runs[poison, name]]
            reference = [row.n_reference for row in runs[poison, name]]
            cells[poison, name] = TableCell(
                mean_interval(values),
                name in best,
                name in best and len(best) > 1,
                len(values),
                len(generated),
                (min(generated), max(generated)),
                (min(reference), max(reference)),
            )
    return ScoreTable(metric, *settings[0], poisons, defenses, cells, dict(paper or {}))


def csv_of(frame: pd.DataFrame) -> str:
    """The table as CSV, numbers in full, nothing where a value is NaN."""
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text


def markdown_of(frame: pd.DataFrame) -> str:
    """The table, its index first, as a pipe table of Markdown."""

    def line(cells: Iterable[object]) -> str:
        return "| " + " | ".join(str(text).replace("|", "\\|") for text in cells) + " |"

    head = [str(frame.index.name), *frame.columns]
    lines = [line(head), "|---" * len(head) + "|", *map(line, frame.itertuples(name=None))]
    return "\n".join(lines)


def to_csv(table: ScoreTable) -> str:
    """One line a cell, numbers in full; nothing where there is no limit or no paper's number."""
    lines = [
        {
            **{"model": table.model, "method": table.method, "metric": table.metric},
            **{"poison": key[0], "defense": key[1], **cell.interval._asdict()},
            **{"best": int(cell.best), "tied": int(cell.tied)},
            **{"n_concepts": cell.n_concepts, "n_runs": cell.n_runs},
            "n_generated": "-".join(map(str, dict.fromkeys(cell.n_generated))),
            "n_reference": "-".join(map(str, dict.fromkeys(cell.n_reference))),
            "paper": table.paper.get(key, math.nan),
        }
        for key, cell in table.cells.items()
    ]
    return csv_of(pd.DataFrame(lines))


def to_markdown(table: ScoreTable) -> str:
    """A pipe table with its caption; a sole best is bold, ties carry an equals sign."""
    return f"{markdown_of(table.texts('**{}**'.format))}\n\n{table.caption()}.\n"


_LATEX: Final = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"−": "$-$", "–": "--", "\x01": r"\textbf{", "\x02": "}"}  # the last two are our own marks
)


def to_latex(table: ScoreTable) -> str:
    """A ``table`` with booktabs rules; a sole best is bold, ties carry an equals sign."""
    frame = table.texts("\x01{}\x02".format)
    head, *body = [
        " & ".join(str(text).translate(_LATEX) for text in line) + r" \\"
        for line in [[frame.index.name, *frame.columns], *frame.itertuples(name=None)]
    ]
    lines = [
        *(r"\begin{table}", r"\centering"),
        rf"\begin{{tabular}}{{l{'c' * len(frame.columns)}}}",
        *(r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"),
        *(rf"\caption{{{table.caption().translate(_LATEX)}.}}", r"\end{table}"),
    ]
    return "\n".join(lines) + "\n"


WRITERS: Final = {".csv": to_csv, ".md": to_markdown, ".tex": to_latex}
"""The forms of a table, by the suffix of its file."""
