"""The figures of a grid's page, as geometry for inline SVG: intervals, curves, a plane.

Colours and dashes are those of the paper's figures (``figures.style``); black is the page's ink, so
that it is seen in the dark. Places are in the units of each drawing's view box.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from safezone.results.drawings.style import stroke
from safezone.results.plane import Chart, axis, interval_charts, nice_ticks, paper_of
from safezone.results.published import AVERAGE
from safezone.results.tables import ScoreTable, label
from safezone.scores.rows import NOMINAL

WIDEST: Final = 12
"""Of a table with more columns, all of them settings, curves over these are drawn."""
PANEL: Final = (40.0, 308.0, 28.0, 160.0)
"""The frame of a panel of curves, in a view box of 320 x 200: left, right, top, bottom."""
PLANE: Final = (52.0, 448.0, 16.0, 272.0)
"""The frame of the plane, in a view box of 480 x 312: left, right, top, bottom."""
_FAMILIES: Final[Mapping[str, str]] = {
    "t": "timesteps of at least x / 1000",
    "below": "timesteps below x / 1000",
    "tanh": "tanh, steepness x",
    "power": "power, exponent x",
}
_SETTINGS: Final = ("lr", "steps", "schedule", "defense")
"""In the order in which they become the axis, the lines, the panels."""

Column = tuple[str, str, str]
"""(panel, line, place on the axis) of a column."""
Box = tuple[float, float, float, float]
"""Left, right, top, bottom."""


@dataclass(frozen=True)
class Look:
    """Of a line: colour and dash as SVG has them."""

    name: str
    color: str
    dash: str


@dataclass(frozen=True)
class Dot:
    """A value with its interval and the paper's number; y grows downwards."""

    x: float
    y: float
    low: float
    high: float
    paper: float | None


@dataclass(frozen=True)
class Line:
    """One line of a panel. ``level``: the height of Nominal training, or None."""

    look: Look
    dots: tuple[Dot, ...]
    level: float | None

    @property
    def points(self) -> str:
        """As a polyline has them."""
        return " ".join(f"{dot.x:g},{dot.y:g}" for dot in self.dots)


@dataclass(frozen=True)
class Panel:
    """Curves over settings. ``names``: (x, text) below the axis; ``along``: its own."""

    title: str
    along: str
    lines: tuple[Line, ...]
    names: tuple[tuple[float, str], ...]
    ticks: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Point:
    """A defense in the plane. ``spread``: x low, x high, y low, y high.

    ``text``: x, y and anchor of its name.
    """

    name: str
    x: float
    y: float
    spread: tuple[float, float, float, float]
    text: tuple[float, float, str]
    paper: tuple[float, float] | None


@dataclass(frozen=True)
class Plane:
    """Similarity against fidelity to the prompt, means over poisons."""

    points: tuple[Point, ...]
    x_ticks: tuple[tuple[float, float], ...]
    y_ticks: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Plots:
    """What is drawn beside a table. ``paper``: whether any of the paper's numbers is."""

    charts: Sequence[Chart]
    panels: Sequence[Panel]
    plane: Plane | None
    legend: Sequence[Look]
    paper: bool


def plots(table: ScoreTable, prompts: ScoreTable | None) -> Plots:
    """The figures of a grid's first table. ``prompts``: the CLIP scores of the same runs."""
    placed = len(_columns(table.defenses)[0]) + (NOMINAL in table.defenses)
    wide = len(table.defenses) > WIDEST and placed == len(table.defenses)
    panels = curves(table) if wide else ()
    looks = {line.look.name: line.look for panel in panels for line in panel.lines}
    return Plots(
        () if wide else interval_charts(table),
        panels,
        None if wide or prompts is None else plane(table, prompts),
        list(looks.values()),
        any(paper_of(table, cell) is not None for cell in table.cells),
    )


def _look(name: str, place: int) -> Look:
    style = stroke(place)
    color = "var(--ink)" if style.color == "#000000" else style.color
    dash = () if style.dash == "-" else style.dash[1]
    return Look(name, color, " ".join(f"{1.8 * part:g}" for part in dash))  # in line widths


def _told(column: str) -> dict[str, str]:
    """``szt; lr=5e-4;steps=1k`` by name of the setting; what names none is the defense."""
    parts = [part.strip().rpartition("=") for part in column.split(";")]
    return {name or "defense": value for name, _, value in parts}


def _columns(names: Sequence[str]) -> tuple[dict[str, Column], str]:
    """Where each column stands, those of no family left out; the setting along the axis."""
    told = {name: _told(name) for name in names if "=" in name}
    varied = [k for k in _SETTINGS if len({settings.get(k) for settings in told.values()}) > 1]
    found = {}
    for name, settings in told.items():
        x, line, *rest = [settings.get(key, "") for key in varied] + [""] * (2 - len(varied))
        found[name] = (", ".join(rest), f"{varied[1]} {line}" if len(varied) > 1 else "", x)
    for name in names:
        match = re.fullmatch(rf"({'|'.join(_FAMILIES)})([\d.]+)", name)
        if match is not None and name not in found:
            found[name] = (_FAMILIES[match[1]], "", match[2])
    return found, varied[0] if varied else ""


def curves(table: ScoreTable) -> tuple[Panel, ...]:
    """Panels of curves over settings, all on one axis; poisons are lines, or panels of their own.

    Settings of the training, which vary in several ways, have a panel for each poison.
    """
    columns, along = _columns(table.defenses)
    poisons = [poison for poison in table.poisons if poison != AVERAGE]
    own = any(line for _, line, _ in columns.values())
    looks = list(dict.fromkeys(line for _, line, _ in columns.values())) if own else poisons
    groups: dict[str, dict[str, dict[str, tuple[str, str]]]] = {}  # panel, line, x to cell
    for poison in poisons:
        for name, (panel, line, x) in columns.items():
            title = ", ".join(filter(None, (label(poison), panel))) if own else panel
            line = line if own else poison
            groups.setdefault(title, {}).setdefault(line, {})[x] = (poison, name)
    left, right, top, bottom = PANEL
    low, high = axis(table)

    def height(value: float) -> float:
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return round(bottom - share * (bottom - top), 2)

    ticks = tuple((value, height(value)) for value in nice_ticks(low, high))
    found = []
    for title, lines in groups.items():
        xs = list(dict.fromkeys(x for cells in lines.values() for x in cells))
        step = (right - left) / len(xs)
        places = {x: round(left + step * (i + 0.5), 2) for i, x in enumerate(xs)}
        drawn = []
        for name, cells in lines.items():
            dots = [_dot(table, cell, places[x], height) for x, cell in cells.items()]
            known = tuple(dot for dot in dots if dot is not None)
            nominal = table.cells.get((name, NOMINAL))
            level = None if nominal is None else height(nominal.interval.mean)
            look = _look(name if own else label(name), looks.index(name))
            drawn.append(Line(look, known, level))
        names = tuple((places[x], x) for x in xs)
        found.append(Panel(title, along, tuple(line for line in drawn if line.dots), names, ticks))
    return tuple(panel for panel in found if panel.lines)


def _dot(
    table: ScoreTable, cell: tuple[str, str], x: float, height: Callable[[float], float]
) -> Dot | None:
    if cell not in table.cells:
        return None
    mean, low, high = table.cells[cell].interval
    ends = (mean, mean) if math.isnan(low) else (low, high)
    paper = paper_of(table, cell)
    told = None if paper is None else height(paper)
    return Dot(x, height(mean), height(ends[0]), height(ends[1]), told)


def plane(table: ScoreTable, prompts: ScoreTable) -> Plane | None:
    """Means over poisons by defense; None where there are fewer than two."""
    if table.metric == prompts.metric:
        return None
    both = [n for n in table.defenses if all((AVERAGE, n) in t.cells for t in (table, prompts))]
    if len(both) < 2:
        return None
    left, right, top, bottom = PLANE
    (x_of, x_ticks), (y_of, y_ticks) = (
        _scale(table, both, left, right),
        _scale(prompts, both, bottom, top),
    )
    spots = {
        n: (x_of(_known(table, (AVERAGE, n))[0]), y_of(_known(prompts, (AVERAGE, n))[0]))
        for n in both
    }
    taken: list[Box] = [(x - 4, x + 4, y - 4, y + 4) for x, y in spots.values()]
    points: list[Point] = []
    for name, (x, y) in spots.items():
        cell = (AVERAGE, name)
        (_, left, right), (_, low, high) = _known(table, cell), _known(prompts, cell)
        spread = (x_of(left), x_of(right), y_of(low), y_of(high))
        told = paper_of(table, cell), paper_of(prompts, cell)
        paper = None if told[0] is None or told[1] is None else (x_of(told[0]), y_of(told[1]))
        text = _free(label(name), x, y, taken)
        points.append(Point(label(name), x, y, spread, text, paper))
    return Plane(tuple(points), x_ticks, y_ticks)


def _free(name: str, x: float, y: float, taken: list[Box]) -> tuple[float, float, str]:
    """Where a point's name overlaps nothing, else to its right; what it takes is added."""
    width = 7.8 * len(name)
    places = []
    for dy in (-5.0, 13.0, 4.0):
        places += [(x + 7, y + dy, "start"), (x - 7, y + dy, "end")]

    def box(place: tuple[float, float, str]) -> Box:
        start = place[0] if place[2] == "start" else place[0] - width
        return start, start + width, place[1] - 10, place[1] + 2

    def free(place: tuple[float, float, str]) -> bool:
        left, right, top, bottom = box(place)
        inside = left >= PLANE[0] and right <= PLANE[1] + 30
        return inside and not any(
            left < b and right > a and top < d and bottom > c for a, b, c, d in taken
        )

    chosen = next(filter(free, places), places[0])
    taken.append(box(chosen))
    return chosen


def _known(table: ScoreTable, cell: tuple[str, str]) -> tuple[float, float, float]:
    """The mean and its limits; those of a single concept are the mean."""
    mean, low, high = table.cells[cell].interval
    return (mean, mean, mean) if math.isnan(low) else (mean, low, high)


def _scale(
    table: ScoreTable, defenses: Sequence[str], start: float, end: float
) -> tuple[Callable[[float], float], tuple[tuple[float, float], ...]]:
    """From values to places between ``start`` and ``end``, with ticks."""
    cells = [(AVERAGE, name) for name in defenses]
    values = [value for cell in cells for value in _known(table, cell)]
    values += [value for cell in cells if (value := paper_of(table, cell)) is not None]
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 1.0
    low, high = low - room, high + room

    def place(value: float) -> float:
        return round(start + (value - low) / (high - low) * (end - start), 2)

    return place, tuple((value, place(value)) for value in nice_ticks(low, high))
