"""How every figure looks, and writing one: SVG, PNG and its numbers as JSON.

Colours are those of Okabe and Ito, told apart by the colour-blind; each also has its own line
style, and maps of values have a lightness that only rises, so that a grey print can be read.
matplotlib is imported when something is drawn, and its global state is never used.
"""

import io
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor

from safezone.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOR_MAP: Final = "cividis"
"""Of sensitivity and attention: dark is little, light is much."""

INK, LINE = "#000000", "#dddddd"
ACCENT, DOT, BAR, WARN = "#0b7a6f", "#565d68", "#aeb4be", "#b4462f"
_VARIABLES: Final[Mapping[str, str]] = {
    INK: "--ink", LINE: "--line", ACCENT: "--accent", DOT: "--dot", BAR: "--bar", WARN: "--warn"
}  # fmt: skip
"""What stands for a colour in a page's style, where it is another one in the dark."""

_RC: Final[dict[Any, Any]] = {
    "font.size": 8,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "lines.linewidth": 1.4,
    "image.interpolation": "nearest",
    "svg.fonttype": "none",
    "text.parse_math": False,  # prompts and names may hold a $
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
    Stroke(INK, "-", "o", ""),
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
    """A finished figure. ``numbers``: what it shows, as ``plain_numbers``."""

    figure: "Figure"
    numbers: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", plain_numbers(self.numbers))


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


def figure_title(figure: "Figure", text: str) -> None:
    """The figure's title, in as many lines as its width asks for; none for an empty one."""
    if not text:
        return
    width = max(30, int(15 * figure.get_figwidth()))
    figure.suptitle("\n".join(textwrap.wrap(text, width)), fontsize=9)


def label_axes(axes: "Axes", title: str, xlabel: str, ylabel: str) -> None:
    """The title of a panel and the names and units of its axes."""
    axes.set_title(title, fontsize=8)
    axes.set_xlabel(xlabel, fontsize=7.5)
    axes.set_ylabel(ylabel, fontsize=7.5)


def legend(axes: "Axes", *, below: bool = False) -> None:
    """The legend of a panel, inside it or below it."""
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.22)} if below else {}
    axes.legend(fontsize=7, frameon=False, handlelength=2.6, **place)


def _bytes(figure: "Figure", kind: str, salt: str = "safezone", clear: bool = False) -> bytes:
    import matplotlib
    from matplotlib.text import Text

    buffer = io.BytesIO()
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    metadata = {"Date": None} if kind == "svg" else {"Software": "safezone"}
    with matplotlib.rc_context({**_RC, "svg.hashsalt": salt}):
        figure.savefig(buffer, format=kind, dpi=160, metadata=metadata, transparent=clear)
    return buffer.getvalue()


def inline_svg(figure: "Figure", title: str, name: str, kind: str = "plot") -> str:
    """The drawing as an SVG element of a page: in its colours and font, with ids of its own.

    ``title``: what it shows, for those who cannot see it; ``name``: another one for each drawing
    of the page; ``kind``: the element's class. What has a gid has it as its class.
    """
    parts = figure.findobj()
    for part in parts:
        part.set_clip_on(False)  # a clip would need an address
    text = _bytes(figure, "svg", name, clear=True).decode()
    box = re.search(r'viewBox="[^"]*"', text)
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r"<defs>\s*</defs>|\n\s*", "", body)
    classes = {part.get_gid() for part in parts}
    body = re.sub(
        r'<g id="([^"]*)"', lambda m: f'<g class="{m[1]}"' if m[1] in classes else "<g", body
    )
    body = body.replace("'DejaVu Sans'", "system-ui, sans-serif").replace("xlink:href", "href")
    for color, variable in _VARIABLES.items():
        body = body.replace(color, f"var({variable})")
    head = f'<svg class="{kind}" role="img" aria-label="{escape(title)}"'
    return f"{head} {box[0] if box else ''}>{body}"


def legend_svg(place: int) -> str:
    """A piece of the line of series ``place``, for a legend in a page."""
    look, dash = stroke(place), ""
    if look.dash != "-":
        dash = f' stroke-dasharray="{" ".join(f"{1.8 * part:g}" for part in look.dash[1])}"'
    color = f"var({_VARIABLES[look.color]})" if look.color in _VARIABLES else look.color
    line = f'<line x2="28" y1="4" y2="4" stroke="{color}" stroke-width="1.8"{dash}/>'
    return f'<svg width="28" height="8" aria-hidden="true">{line}</svg>'


def save(drawing: Drawing, folder: Path, stem: str) -> list[Path]:
    """Writes ``stem``.svg, .png and .json, each whole or not at all; UserError if it cannot."""
    paths = [folder / f"{stem}.{kind}" for kind in ("svg", "png", "json")]
    for path in paths[:2]:
        write_bytes(path, _bytes(drawing.figure, path.suffix[1:]))
    document = json.dumps(drawing.numbers, indent=1, ensure_ascii=False)
    write_bytes(paths[2], f"{document}\n".encode("utf-8", "backslashreplace"))
    return paths


def plain_numbers(value: Any) -> Any:
    """JSON values: tensors as lists, floats to six digits, what is not a finite number as None."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain_numbers(each) for key, each in value.items()}
    if isinstance(value, float):
        return float(f"{value:.6g}") if value - value == 0 else None
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain_numbers(each) for each in value]
    return value
