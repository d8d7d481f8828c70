"""Drawings made of pictures: sensitivity maps beside their images, grids of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float, UInt8
from torch import Tensor

from safezone.results.drawings.style import COLOR_MAP, figure_title, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
            _bare(axes)
            if tile is not None:
                _tile(axes, tile)
            if r == 0:
                axes.set_title(column_labels[c], fontsize=7)
            if c == 0:
                axes.set_ylabel(row_labels[r], fontsize=7)
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)  # type: ignore[call-arg]
    figure_title(figure, title)
    return figure


def _bare(axes: "Axes") -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _tile(axes: "Axes", tile: Tile) -> None:
    content = tile.content
    if content.ndim == 3:
        axes.imshow(content.permute(1, 2, 0).numpy())
    else:
        top = float(content.flatten().float().quantile(0.98))
        axes.imshow(content.numpy(), cmap=COLOR_MAP, vmin=0, vmax=max(top, 1e-12))
        if tile.outline is not None:
            axes.contour(tile.outline.numpy(), levels=[0.5], colors="#ffffff", linewidths=0.7)
    if tile.below:
        axes.set_xlabel(tile.below, fontsize=6, labelpad=1)
