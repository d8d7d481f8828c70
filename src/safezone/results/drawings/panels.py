"""What figures are put together from: panels of curves, grids of pictures, a plane of points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float, UInt8
from torch import Tensor

from safezone.results.drawings.style import (
    ACCENT,
    COLOR_MAP,
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
            label_axes(axes, panel.title, panel.xlabel, panel.ylabel)
            if panel.log_y:
                axes.set_yscale("log")
            if panel.floor is not None:
                axes.set_ylim(bottom=panel.floor)
            legend(axes)
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


@dataclass(frozen=True, eq=False)
class Tile:
    """One place of a grid: an image, uint8 [3, h, w], or a map of values, float [h, w].

    ``below``: a short line under it. ``outline``: the object's mask at the map's size, drawn as a
    line, or None.
    """

    content: UInt8[Tensor, "3 h w"] | Float[Tensor, "h w"]
    below: str = ""
    outline: Float[Tensor, "h w"] | None = None


def draw_tiles(
    title: str,
    rows: Sequence[Sequence[Tile | None]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    *,
    side: float = 0.95,
) -> "Figure":
    """A grid of pictures and maps; maps reach from 0 (dark) to their own 98% quantile."""
    below = 0.16 if any(tile is not None and tile.below for row in rows for tile in row) else 0.0
    figure, grid = panels(len(rows), len(column_labels), width=side, height=side + below + 0.05)
    for r, (axes_row, tiles) in enumerate(zip(grid, rows, strict=True)):
        for c, (axes, tile) in enumerate(zip(axes_row, tiles, strict=True)):
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            axes.spines[:].set_visible(False)
            if r == 0:
                axes.set_title(column_labels[c], fontsize=7)
            if c == 0:
                axes.set_ylabel(row_labels[r], fontsize=7)
            if tile is None:
                continue
            if tile.content.ndim == 3:
                axes.imshow(tile.content.permute(1, 2, 0).numpy())
            else:
                top = max(float(tile.content.flatten().float().quantile(0.98)), 1e-12)
                axes.imshow(tile.content.numpy(), cmap=COLOR_MAP, vmin=0, vmax=top)
            if tile.outline is not None and tile.content.ndim == 2:
                axes.contour(tile.outline.numpy(), levels=[0.5], colors="#ffffff", linewidths=0.7)
            if tile.below:
                axes.set_xlabel(tile.below, fontsize=6, labelpad=1)
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)  # type: ignore[call-arg]
    figure_title(figure, title)
    return figure


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
        inside = (i for i, box in enumerate(boxes) if box[2] <= edge + 4)
        best = next((i for i in inside if not any(_overlap(boxes[i], o) for o in taken)), 0)
        places[name] = offsets[best]
        taken.append(boxes[best])
    return places


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
