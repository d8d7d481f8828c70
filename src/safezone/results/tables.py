"""Rows to a table of poisons by defenses, and that table to CSV, Markdown and LaTeX."""

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safezone.errors import UserError
from safezone.files import write_text
from safezone.results.statistics import Interval, mean_interval, tied_best
from safezone.scores import metric_of
from safezone.scores.rows import CLEAN, NOMINAL, Row, summarise

_NAMES: Mapping[str, str] = {
    CLEAN: "Clean",
    NOMINAL: "Nominal",
    "advclean": "AdvClean",
    "regen": "Regen",
    "pdmpure": "PDMPure",
    "psn avg": "Poisons, mean",
}


def label(name: str) -> str:
    """A poison's or defense's name as the paper prints it: ``jpeg+t600`` is JPEG+T600.

    Settings of a training stay as they are: ``lr=5e-4;steps=1k``.
    """
    if "=" in name:
        return name
    return re.sub(r"[^+]+", lambda part: _NAMES.get(part[0], part[0].upper()), name)


def number(value: float, decimals: int = 2, sign: bool = False) -> str:
    """A rounded number with a true minus sign and no negative zero; a dash for NaN."""
    if math.isnan(value):
        return "–"
    text = f"{round(value, decimals) + 0.0:{'+' if sign else ''}.{decimals}f}"
    return text.replace("-", "−")


@dataclass(frozen=True)
class Cell:
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
    cells: Mapping[tuple[str, str], Cell]
    paper: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def text(self, cell: Cell) -> str:
        """``0.33 [0.28, 0.38]``; without an interval the mean alone."""
        decimals = metric_of(self.metric).decimals
        mean, low, high = (number(value, decimals) for value in cell.interval)
        return mean if math.isnan(cell.interval.low) else f"{mean} [{low}, {high}]"

    def counts(self) -> str:
        """What the values rest on, in words."""
        if not self.cells:
            return "no runs"
        cells = self.cells.values()

        def span(pairs: Iterable[tuple[int, int]]) -> str:
            numbers = [value for pair in pairs for value in pair]
            low, high = min(numbers), max(numbers)
            return str(low) if low == high else f"{low} to {high}"

        concepts = span((cell.n_concepts, cell.n_concepts) for cell in cells)
        runs = span((cell.n_runs, cell.n_runs) for cell in cells)
        parts = [
            f"{concepts} concept{'' if concepts == '1' else 's'} and {runs} "
            f"run{'' if runs == '1' else 's'} a cell",
            f"{span(cell.n_generated for cell in cells)} generated",
        ]
        reference = span(cell.n_reference for cell in cells)
        if reference != "0":
            parts.append(f"{reference} reference images a run")
        else:
            parts[-1] += " images a run"
        return ", ".join(parts)


def settings_of(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """The (model, method) pairs of the rows, in order; each gets its own tables."""
    return list(dict.fromkeys((row.model, row.method) for row in rows))


def _front(first: str, names: Iterable[str]) -> tuple[str, ...]:
    distinct = list(dict.fromkeys(names))
    return tuple(sorted(distinct, key=lambda name: name != first))  # sorted is stable


def _span(values: Iterable[int]) -> tuple[int, int]:
    numbers = list(values)
    return min(numbers), max(numbers)


def score_table(
    rows: Sequence[Row], metric: str, paper: Mapping[tuple[str, str], float] | None = None
) -> ScoreTable:
    """The table of one metric, from rows of one model and one method.

    ``paper``: the paper's numbers by (poison, defense), of this metric.

    Raises ValueError when the rows mix models or methods.
    """
    settings = settings_of(rows)
    if len(settings) != 1:
        raise ValueError(f"rows of one model and method, not of {settings}")
    ours = [row for row in rows if row.metric == metric and math.isfinite(row.value)]
    groups = summarise(ours, metric)
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
            runs = [row for row in ours if (row.poison, row.defense) == (poison, name)]
            cells[poison, name] = Cell(
                mean_interval(values),
                name in best,
                name in best and len(best) > 1,
                len(values),
                len(runs),
                _span(row.n_generated for row in runs),
                _span(row.n_reference for row in runs),
            )
    return ScoreTable(metric, *settings[0], poisons, defenses, cells, dict(paper or {}))


_CSV_COLUMNS = (
    *("model", "method", "metric", "poison", "defense", "mean", "low", "high"),
    *("best", "tied", "n_concepts", "n_runs", "n_generated", "n_reference", "paper"),
)


def to_csv(table: ScoreTable) -> str:
    """One line a cell, numbers in full."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for (poison, defense), cell in table.cells.items():
        limits = ["" if math.isnan(value) else value for value in cell.interval]
        writer.writerow(
            [table.model, table.method, table.metric, poison, defense, *limits]
            + [int(cell.best), int(cell.tied), cell.n_concepts, cell.n_runs]
            + ["-".join(map(str, dict.fromkeys(s))) for s in (cell.n_generated, cell.n_reference)]
            + [table.paper.get((poison, defense), "")]
        )
    return buffer.getvalue()


def _caption(table: ScoreTable) -> str:
    higher = metric_of(table.metric).higher_is_better
    direction = {True: ", higher is better", False: ", lower is better", None: ""}[higher]
    return (
        f"{metric_of(table.metric).label} of {table.method} on {table.model}{direction}: "
        f"mean over concepts [95% interval], {table.counts()}; the best of a row is bold, "
        "those not shown to be worse than the best are marked ="
        + ("; the paper's number stands in parentheses" if table.paper else "")
    )


def _grid(table: ScoreTable, bold: Callable[[str], str], tied: str) -> list[list[str]]:
    grid = []
    for poison in table.poisons:
        line = [label(poison)]
        for defense in table.defenses:
            cell = table.cells.get((poison, defense))
            text = "" if cell is None else table.text(cell)
            if cell is not None and cell.best:
                text = f"{text} {tied}" if cell.tied else bold(text)
            if (value := table.paper.get((poison, defense))) is not None:
                text = f"{text} ({number(value, 0 if value > 2 else 2)})".strip()
            line.append(text)
        grid.append(line)
    return grid


def to_markdown(table: ScoreTable) -> str:
    """A pipe table with its caption; a sole best is bold, ties carry an equals sign."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"

    head = ["Poison", *map(label, table.defenses)]
    lines = [line(head), "|---" * len(head) + "|"]
    lines += [line(cells) for cells in _grid(table, "**{}**".format, "=")]
    return "\n".join([*lines, "", _caption(table) + ".", ""])


_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "–": "--",
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def to_latex(table: ScoreTable) -> str:
    """A ``table`` with booktabs rules; a sole best is bold, ties carry an equals sign."""
    mark, end = "\x01", "\x02"  # survive the escaping, then become commands
    body = [
        " & ".join(map(_latex, cells)) + r" \\"
        for cells in _grid(table, f"{mark}{{}}{end}".format, "=")
    ]
    head = " & ".join(map(_latex, ["Poison", *map(label, table.defenses)])) + r" \\"
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{l{'c' * len(table.defenses)}}}",
        r"\toprule",
        head,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{_latex(_caption(table))}.}}",
        r"\end{table}",
    ]
    return "\n".join(lines).replace(mark, r"\textbf{").replace(end, "}") + "\n"


_WRITERS = {".csv": to_csv, ".md": to_markdown, ".tex": to_latex}


def write_table(table: ScoreTable, path: Path) -> None:
    """Writes the table, atomically, in the form of the suffix; UserError for another suffix."""
    if path.suffix not in _WRITERS:
        raise UserError(f"{path}: tables are written as {', '.join(_WRITERS)}, choose one of these")
    write_text(path, _WRITERS[path.suffix](table))
