"""Drawings of curves: histograms, spectra, bands by timestep, lines, probabilities, a plane."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int
from torch import Tensor

from safezone.analysis.spectra import levels
from safezone.results.drawings.style import (
    ACCENT,
    DOT,
    LOOKS,
    figure_title,
    label_axes,
    legend,
    panels,
    stroke,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Series:
    """A curve y over x and what lies around it.

    ``bands``: pairs (low, high) of curves, the widest first. ``bare``: a line without markers, as
    for theory. All of one length.
    """

    label: str
    x: Float[Tensor, " points"]
    y: Float[Tensor, " points"]
    bands: Sequence[tuple[Tensor, Tensor]] = ()
    bare: bool = False


@dataclass(frozen=True, eq=False)
class Panel:
    """One panel of curves with its axes' names and units. ``floor``: the lowest value shown."""

    title: str
    series: Sequence[Series]
    xlabel: str
    ylabel: str
    log_x: bool = False
    log_y: bool = False
    floor: float | None = None


def draw_panels(
    title: str,
    rows: Sequence[Sequence[Panel]],
    *,
    share_y: bool = False,
    width: float = 3.2,
    height: float = 2.4,
) -> "Figure":
    """Panels of curves; equal names look alike, unless there are more names than looks."""
    figure, grid = panels(
        len(rows), max(map(len, rows)), width=width, height=height, share_y=share_y
    )
    names = dict.fromkeys(each.label for row in rows for panel in row for each in panel.series)
    shared = {name: look for look, name in enumerate(names)} if len(names) <= LOOKS else {}
    for axes_row, row in zip(grid, rows, strict=True):
        for axes in axes_row[len(row) :]:
            axes.set_axis_off()
        for axes, panel in zip(axes_row, row, strict=False):
            for place, each in enumerate(panel.series):
                _curve(axes, each, shared.get(each.label, place))
            _frame(axes, panel)
    figure_title(figure, title)
    return figure


def _curve(axes: "Axes", series: Series, look: int) -> None:
    style = stroke(look)
    for opacity, (low, high) in zip((0.13, 0.3), list(series.bands)[-2:], strict=False):
        axes.fill_between(series.x, low, high, color=style.color, alpha=opacity, linewidth=0)
        axes.plot(series.x, low, series.x, high, color=style.color, linewidth=0.4, alpha=0.6)
    axes.plot(
        series.x,
        series.y,
        color=style.color,
        linestyle=style.dash,
        marker="" if series.bare else style.marker,
        markersize=3,
        label=series.label,
    )


def _frame(axes: "Axes", panel: Panel) -> None:
    label_axes(axes, panel.title, panel.xlabel, panel.ylabel)
    if panel.log_x:
        axes.set_xscale("log")
    if panel.log_y:
        axes.set_yscale("log")
    if panel.floor is not None:
        axes.set_ylim(bottom=panel.floor)
    legend(axes)


def draw_histograms(
    title: str,
    histograms: Mapping[str, Mapping[str, Int[Tensor, " bins"]]],
    notes: Mapping[str, Mapping[str, str]],
    *,
    limit: int,
) -> "Figure":
    """One panel a poison, one outline a treatment: the share of values at each difference.

    ``histograms[poison][treatment]``: int64 [511]. ``notes``: what the legend adds, such as the
    bimodality. ``limit``: kappa in levels, drawn as two lines.
    """
    columns = min(3, len(histograms))
    rows = -(-len(histograms) // columns)
    figure, grid = panels(rows, columns, width=4.2, height=3.1)
    every = [axes for row in grid for axes in row]
    for axes in every[len(histograms) :]:
        axes.set_axis_off()
    for axes, (poison, treated) in zip(every, histograms.items(), strict=False):
        for look, (name, counts) in enumerate(treated.items(), start=1):
            style = stroke(look)
            _outline(axes, counts, 3 * limit, style, f"{name}{notes[poison][name]}")
        for side in (-limit, limit):
            axes.axvline(side, color="#777777", linewidth=0.8, linestyle=":")
        axes.set_xlim(-3 * limit, 3 * limit)
        axes.set_ylim(bottom=0)
        label_axes(axes, poison, "difference to the clean image (1/255)", "share of values (%)")
        legend(axes, below=True)
    figure_title(figure, title)
    return figure


def _outline(axes: "Axes", counts: Tensor, widest: int, style: Any, name: str) -> None:
    """The histogram between -widest and widest levels; shares are of all values."""
    near = levels().abs() <= widest
    x, share = levels()[near], (100 * counts.double() / counts.sum())[near]
    axes.fill_between(
        x, share, step="mid", facecolor=style.color, alpha=0.18, hatch=style.hatch,
        edgecolor=style.color, linewidth=0,
    )  # fmt: skip
    axes.step(
        x, share, where="mid", color=style.color, linestyle=style.dash, linewidth=1, label=name
    )


def draw_plane(
    title: str,
    points: Mapping[str, tuple[float, float]],
    intervals: Mapping[str, tuple[float, float, float, float]],
    *,
    xlabel: str,
    ylabel: str,
    hollow: Mapping[str, tuple[float, float]] | None = None,
    accent: str = "",
    width: float = 4.6,
    height: float = 3.6,
) -> "Figure":
    """Named points in a plane (figure 17). ``intervals``: x low, x high, y low, y high.

    ``hollow``: what is drawn beside some points, the paper's numbers. ``accent``: the one name that
    is told apart, where the others shall look alike.
    """
    figure, ((axes,),) = panels(1, 1, width=width, height=height)
    for look, (name, (x, y)) in enumerate(points.items()):
        color, marker = stroke(look).color, stroke(look).marker
        if accent:
            color, marker = (ACCENT if name == accent else DOT), "o"
        if name in intervals:
            left, right, low, high = intervals[name]
            axes.plot([left, right], [y, y], [x, x], [low, high], color=color, linewidth=0.6)
        axes.plot([x], [y], marker, color=color, markersize=6, gid="dot")
        if hollow and name in hollow:
            axes.plot(*hollow[name], marker, mfc="none", mec=color, markersize=5, gid="hollow")
    label_axes(axes, "", xlabel, ylabel)
    figure_title(figure, title)
    figure.draw_without_rendering()  # the axes stand where they will stand
    for name, offset in _places(axes, points).items():
        axes.annotate(
            name, points[name], xytext=offset, textcoords="offset points", fontsize=7, va="center"
        )
    return figure


def _places(
    axes: "Axes", points: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """Where each name stands beside its point, in typographic points: free of points and names."""
    to_points = 72 / axes.figure.dpi
    at = {name: axes.transData.transform(point) * to_points for name, point in points.items()}
    edge = axes.bbox.x1 * to_points
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in at.values()]
    places: dict[str, tuple[float, float]] = {}
    for name, (x, y) in at.items():
        width = 4.4 * len(name)
        offsets = [(side, up) for up in (0, 8, -8, 16, -16, 24, -24) for side in (6, -6 - width)]
        boxes = [(x + dx, y + dy - 4, x + dx + width, y + dy + 4) for dx, dy in offsets]
        free = [
            i
            for i, box in enumerate(boxes)
            if box[2] <= edge + 4 and not any(_overlap(box, other) for other in taken)
        ]
        best = free[0] if free else 0
        places[name] = offsets[best]
        taken.append(boxes[best])
    return places


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
