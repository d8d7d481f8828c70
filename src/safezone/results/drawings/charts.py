"""The drawings beside a table: intervals by defense, curves over settings, defenses in a plane."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from safezone.results.drawings.panels import draw_plane
from safezone.results.drawings.style import ACCENT, BAR, DOT, WARN, label_axes, panels, stroke
from safezone.results.published import AVERAGE
from safezone.results.tables import SIMILARITY, WIDEST, CellKey, ScoreTable, label
from safezone.scores import metric_of
from safezone.scores.rows import CLEAN, NOMINAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ON_ONE_SCALE: Final = (SIMILARITY, "clip_score")
"""Metrics whose values may stand beside the paper's; distances are of other features than its."""
_FAMILIES: Final[Mapping[str, str]] = {
    "t": "timesteps of at least x / 1000",
    "below": "timesteps below x / 1000",
    "tanh": "tanh, steepness x",
    "power": "power, exponent x",
}
_SETTINGS: Final = ("lr", "steps", "schedule", "defense")
"""In the order in which they become the axis, the lines, the panels."""
_HOLLOW: Final[dict[str, Any]] = {"markerfacecolor": "none", "markersize": 5.5}
_WIDTH: Final = 3.25
"""Of a drawing, in inches: on a page 1.3 times as wide, or more."""


@dataclass(frozen=True, eq=False)
class Charts:
    """What is drawn beside a table, by title. ``lines``: the curves' names, by their stroke."""

    intervals: Mapping[str, "Figure"]
    curves: Mapping[str, "Figure"]
    plane: "Figure | None"
    lines: Sequence[str]
    paper: bool
    """Whether any of the paper's numbers is drawn."""


def charts(table: ScoreTable, prompts: ScoreTable | None) -> Charts:
    """The drawings of a grid's first table. ``prompts``: the CLIP scores of the same runs."""
    names, (places, _) = table.defenses, _places_of(table.defenses)
    wide = len(names) > WIDEST and all(name in places or name == NOMINAL for name in names)
    curves, lines = curve_figures(table) if wide else ({}, [])
    return Charts(
        {} if wide else interval_figures(table),
        curves,
        None if wide or prompts is None else plane_figure(table, prompts),
        lines,
        any(paper_of(table, cell) is not None for cell in table.cells),
    )


def paper_of(table: ScoreTable, cell: CellKey) -> float | None:
    """The paper's number of a cell that we have too, where both are on one scale.

    CLIP scores are where ours and the paper's overlap: another CLIP has another scale.
    """
    if table.metric not in ON_ONE_SCALE or cell not in table.cells:
        return None
    if table.metric == "clip_score":
        ours = [each.interval.mean for each in table.cells.values()]
        theirs = [value for name, value in table.paper.items() if name in table.cells]
        if not theirs or min(ours) > max(theirs) or max(ours) < min(theirs):
            return None
    return table.paper.get(cell)


def axis_limits(table: ScoreTable) -> tuple[float, float]:
    """Holds all means and zero, and intervals as far as they do not squeeze the means."""
    intervals = [cell.interval for cell in table.cells.values()]
    means = [interval.mean for interval in intervals]
    means += [value for cell in table.cells if (value := paper_of(table, cell)) is not None]
    low, high = min(*means, 0.0), max(*means, 0.0)
    room = 0.35 * (high - low) or 1.0
    limited = [interval for interval in intervals if not math.isnan(interval.low)]
    start = max(min([low, *(interval.low for interval in limited)]), low - room)
    end = min(max([high, *(interval.high for interval in limited)]), high + room)
    pad = 0.04 * (end - start) or 1.0
    return start - pad, end + pad


def _known(table: ScoreTable, cell: CellKey) -> tuple[float, float, float]:
    """The mean and its limits; those of a single concept are the mean."""
    mean, low, high = table.cells[cell].interval
    return (mean, mean, mean) if math.isnan(low) else (mean, low, high)


def _canvas(height: float) -> tuple["Figure", "Axes"]:
    figure, ((axes,),) = panels(1, 1, width=_WIDTH, height=height)
    axes.tick_params(length=0, labelsize=8)
    axes.locator_params(nbins=5, steps=[1, 2, 5, 10])
    return figure, axes


def interval_figures(table: ScoreTable) -> dict[str, "Figure"]:
    """A drawing a poison, all on one axis: dots with 95% intervals, the paper's numbers hollow.

    An interval that reaches beyond the axis ends in an arrow. The dashed line is nominal training
    on clean images.
    """
    figures = {}
    anchor, (start, end) = table.cells.get((CLEAN, NOMINAL)), axis_limits(table)
    for poison in table.poisons:
        names = [name for name in table.defenses if (poison, name) in table.cells]
        figure, axes = _canvas(0.19 * len(names) + 0.35)
        axes.set(xlim=(start, end), ylim=(len(names) - 0.4, -0.6))
        if anchor is not None:
            axes.axvline(anchor.interval.mean, color=WARN, linestyle=(0, (3, 2)), gid="reference")
        for y, name in enumerate(names):
            mean, low, high = _known(table, (poison, name))
            color, bar = (ACCENT, ACCENT) if name == "szt" else (DOT, BAR)
            seen = (max(low, start), min(high, end))
            axes.plot(seen, (y, y), color=bar, linewidth=3, alpha=0.6, gid="interval")
            for limit, cut, marker in ((start, low < start, "<"), (end, high > end, ">")):
                if cut:
                    axes.plot(limit, y, marker, color=bar, markersize=5, gid="cut")
            axes.plot(mean, y, "o", color=color, markersize=5.5, gid="dot")
            if (paper := paper_of(table, (poison, name))) is not None:
                axes.plot(paper, y, "o", color=WARN, gid="hollow", **_HOLLOW)
        axes.set_yticks(range(len(names)), [label(name) for name in names])
        for name, text in zip(names, axes.get_yticklabels(), strict=True):
            if name == "szt":
                text.set(color=ACCENT, fontweight="bold")
        axes.grid(False, axis="y")
        axes.spines[:].set_visible(False)
        figures[label(poison)] = figure
    return figures


def _places_of(names: Sequence[str]) -> tuple[dict[str, tuple[str, str, str]], str]:
    """(panel, line, place on the axis) of each column that is a setting; the axis's own name.

    ``szt; lr=5e-4;steps=1k`` has two settings and a defense, the part that names none.
    """
    parts: dict[str, dict[str, str]] = {}
    for name in (name for name in names if "=" in name):
        split = [part.strip().rpartition("=") for part in name.split(";")]
        parts[name] = {setting or "defense": value for setting, _, value in split}
    varied = [k for k in _SETTINGS if len({settings.get(k) for settings in parts.values()}) > 1]
    places = {}
    for name in names:
        if name in parts:
            x, line, *rest = [parts[name].get(k, "") for k in varied] + [""] * (2 - len(varied))
            line = f"{varied[1]} {line}" if len(varied) > 1 else ""
            places[name] = (", ".join(rest), line, x)
        elif match := re.fullmatch(rf"({'|'.join(_FAMILIES)})([\d.]+)", name):
            places[name] = (_FAMILIES[match[1]], "", match[2])
    return places, varied[0] if varied else ""


def curve_figures(table: ScoreTable) -> tuple[dict[str, "Figure"], list[str]]:
    """Curves over settings by title, all on one axis, and the names of their lines.

    Poisons are lines, or panels of their own where the settings vary in several ways. Bars are 95%
    intervals, the thin line is Nominal, the paper's numbers are hollow.
    """
    places, along = _places_of(table.defenses)
    poisons = [poison for poison in table.poisons if poison != AVERAGE]
    own = any(line for _, line, _ in places.values())
    names = [line for _, line, _ in places.values()] if own else list(map(label, poisons))
    looks = {name: stroke(i) for i, name in enumerate(dict.fromkeys(names))}
    groups: dict[str, dict[str, dict[str, CellKey]]] = {}  # panel, line, x to cell
    for poison in poisons:
        for name, (panel, line, x) in places.items():
            if (poison, name) in table.cells:
                title = ", ".join(filter(None, (label(poison), panel))) if own else panel
                lines = groups.setdefault(title, {})
                lines.setdefault(line if own else label(poison), {})[x] = (poison, name)
    figures, (start, end) = {}, axis_limits(table)
    for title, lines in groups.items():
        figure, axes = _canvas(2.1)
        xs = list(dict.fromkeys(x for cells in lines.values() for x in cells))
        for name, cells in lines.items():
            look, at = looks[name], [xs.index(x) for x in cells]
            means, lows, highs = zip(*(_known(table, cell) for cell in cells.values()), strict=True)
            seen = [max(low, start) for low in lows], [min(high, end) for high in highs]
            axes.vlines(at, *seen, color=look.color, alpha=0.4, linewidth=0.8)
            drawn = {"color": look.color, "linestyle": look.dash, "marker": look.marker}
            axes.plot(at, means, markersize=3.5, gid="curve", **drawn)
            nominal = table.cells.get((next(iter(cells.values()))[0], NOMINAL))
            if nominal is not None:
                level = nominal.interval.mean
                axes.axhline(level, color=look.color, alpha=0.35, linewidth=0.8, gid="level")
            for place, cell in zip(at, cells.values(), strict=True):
                if (value := paper_of(table, cell)) is not None:
                    axes.plot(place, value, "o", color=look.color, gid="hollow", **_HOLLOW)
        axes.set(xlim=(-0.5, len(xs) - 0.5), ylim=(start, end), xticks=range(len(xs)))
        axes.set_xticklabels(xs)
        label_axes(axes, "", along, "")
        figures[title] = figure
    return figures, list(looks)


def plane_figure(table: ScoreTable, prompts: ScoreTable) -> "Figure | None":
    """Similarity against fidelity to the prompt, means over poisons; None for fewer than two."""
    both = [n for n in table.defenses if all((AVERAGE, n) in t.cells for t in (table, prompts))]
    if table.metric == prompts.metric or len(both) < 2:
        return None
    points, intervals, hollow = {}, {}, {}
    for name in both:
        cell = (AVERAGE, name)
        (x, left, right), (y, low, high) = _known(table, cell), _known(prompts, cell)
        points[label(name)], intervals[label(name)] = (x, y), (left, right, low, high)
        papers = paper_of(table, cell), paper_of(prompts, cell)
        if papers[0] is not None and papers[1] is not None:
            hollow[label(name)] = (papers[0], papers[1])
    return draw_plane(
        "",
        points,
        intervals,
        hollow=hollow,
        accent="SZT",
        xlabel=metric_of(table.metric).label,
        ylabel=metric_of(prompts.metric).label,
        width=3.7,
        height=2.9,
    )
