"""How every figure looks, and writing one: SVG, PNG and its numbers as JSON.

Colours are those of Okabe and Ito, told apart by the colour-blind; each also has its own line
style, and maps of values have a lightness that only rises, so that a grey print can be read.
matplotlib is imported when something is drawn, and its global state is never used.
"""

import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from safezone.files import write_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VALUES: Final = "cividis"
"""The colour map of sensitivity and attention: dark is little, light is much."""

_RC: Final[dict[Any, Any]] = {
    "font.size": 8,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "lines.linewidth": 1.4,
    "image.interpolation": "nearest",
    "svg.fonttype": "none",
    "svg.hashsalt": "safezone",
}


@dataclass(frozen=True)
class Stroke:
    """What tells one series from another: a colour, a dash and a marker."""

    color: str
    dash: Any
    marker: str
    hatch: str


_STROKES: Final = (
    Stroke("#000000", "-", "o", ""),
    Stroke("#d55e00", (0, (5, 1.5)), "s", "////"),
    Stroke("#0072b2", (0, (1, 1)), "^", "...."),
    Stroke("#009e73", (0, (5, 1, 1, 1)), "D", "xxxx"),
    Stroke("#e69f00", (0, (3, 1, 1, 1, 1, 1)), "v", "||||"),
    Stroke("#cc79a7", (0, (8, 2)), "P", "----"),
    Stroke("#56b4e9", (0, (2, 2)), "X", "oooo"),
)
LOOKS: Final = len(_STROKES)
"""How many series can be told apart."""


def stroke(index: int) -> Stroke:
    """The look of series ``index``; the first is that of clean images."""
    return _STROKES[index % len(_STROKES)]


@dataclass(frozen=True, eq=False)
class Drawing:
    """A finished figure. ``numbers``: what it shows, as JSON values (see ``finite``)."""

    figure: "Figure"
    numbers: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", finite(self.numbers))


def panels(
    rows: int, columns: int, *, width: float = 2.6, height: float = 2.1, share_y: bool = False
) -> tuple["Figure", "list[list[Axes]]"]:
    """A figure of rows x columns panels, each of that many inches."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    return figure, [list(row) for row in grid]


def headline(figure: "Figure", text: str) -> None:
    """The figure's title, in as many lines as its width asks for."""
    width = max(30, int(15 * figure.get_figwidth()))
    figure.suptitle("\n".join(textwrap.wrap(text, width)), fontsize=9)


def label(axes: "Axes", title: str, xlabel: str, ylabel: str) -> None:
    """The title of a panel and the names and units of its axes."""
    axes.set_title(title, fontsize=8)
    axes.set_xlabel(xlabel, fontsize=7.5)
    axes.set_ylabel(ylabel, fontsize=7.5)


def legend(axes: "Axes", *, below: bool = False) -> None:
    """The legend of a panel, inside it or below it."""
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.22)} if below else {}
    axes.legend(fontsize=7, frameon=False, handlelength=2.6, **place)


def _bytes(figure: "Figure", kind: str) -> bytes:
    import matplotlib

    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": "safezone"}
    with matplotlib.rc_context(_RC):
        figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
    return buffer.getvalue()


def save(drawing: Drawing, folder: Path, stem: str) -> list[Path]:
    """Writes ``stem``.svg, .png and .json, each whole or not at all; UserError if it cannot."""
    paths = [folder / f"{stem}.{kind}" for kind in ("svg", "png", "json")]
    for path in paths[:2]:
        write_bytes(path, _bytes(drawing.figure, path.suffix[1:]))
    document = json.dumps(drawing.numbers, indent=1, ensure_ascii=False)
    write_text(paths[2], document + "\n")
    return paths


def finite(value: Any) -> Any:
    """JSON values, floats to six digits, what is not a finite number as None."""
    if isinstance(value, Mapping):
        return {str(key): finite(each) for key, each in value.items()}
    if isinstance(value, float):
        return float(f"{value:.6g}") if value - value == 0 else None
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [finite(each) for each in value]
    return value
