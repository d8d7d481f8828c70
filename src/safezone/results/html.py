"""One HTML page that holds everything: numbers, pictures, caveats; it needs no network."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import torch
from jaxtyping import UInt8
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from safezone.files import write_text
from safezone.results.meaning import meaning_sentences
from safezone.results.plane import Chart, interval_charts
from safezone.results.tables import (
    ScoreTable,
    label,
    number,
    score_table,
    settings_of,
)
from safezone.scores import METRICS, metric_of
from safezone.scores.rows import CLEAN, Row, csv_text, summarise

Pictures = UInt8[Tensor, "n 3 h w"]

HEADLINE = "instance_similarity"
PERTURBATION_GAIN = 8
_WEBP_QUALITY = 90


@dataclass(frozen=True, eq=False)
class Generated:
    """Images [n, 3, h, w] uint8 of one (poison, defense) with the n prompts they were made from."""

    images: Pictures
    prompts: Sequence[str]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.prompts):
            raise ValueError(f"{len(self.images)} images and {len(self.prompts)} prompts")


@dataclass(frozen=True, eq=False)
class ConceptPanel:
    """The pictures of one concept, uint8 [n, 3, h, w].

    ``poisoned``: by poison; of the clean images' shape, so that the perturbation can be shown 8
    times amplified. ``generated``: by (poison, defense), with ``"clean"`` for unpoisoned data.
    """

    name: str
    class_word: str
    clean: Pictures
    poisoned: Mapping[str, Pictures] = field(default_factory=dict)
    generated: Mapping[tuple[str, str], Generated] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Report:
    """All that the page shows. ``summary_sentences``: three; ``duration``: seconds."""

    title: str
    summary_sentences: Sequence[str]
    concepts: Sequence[ConceptPanel]
    rows: Sequence[Row]
    caveats: Sequence[str] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    duration: float | None = None


def amplified_difference(clean: Pictures, poisoned: Pictures, gain: int = 8) -> Pictures:
    """Mid-grey plus ``gain`` times (poisoned - clean), clamped to uint8; shapes are equal."""
    difference = poisoned.to(torch.int32) - clean.to(torch.int32)
    return (128 + gain * difference).clamp(0, 255).to(torch.uint8)


def data_uri(image: UInt8[Tensor, "3 h w"], lossless: bool = True) -> str:
    """The image as a data URI: PNG, or WebP of quality 90, a tenth of the size."""
    buffer = io.BytesIO()
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    if lossless:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "WEBP", quality=_WEBP_QUALITY, method=4)
    kind = "png" if lossless else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass(frozen=True)
class _Picture:
    source: str
    text: str
    width: int
    height: int


def _pictures(
    images: Pictures, texts: Sequence[str], lossless: bool = True
) -> tuple[_Picture, ...]:
    height, width = images.shape[-2:]
    return tuple(
        _Picture(data_uri(image, lossless), text, width, height)
        for image, text in zip(images, texts, strict=True)
    )


@dataclass(frozen=True)
class _Strip:
    """One cell of a concept's matrix: pictures with a heading and, if measured, a score."""

    heading: str
    pictures: tuple[_Picture, ...]
    score: str = ""
    highlight: bool = False


@dataclass(frozen=True)
class _Matrix:
    """A concept's pictures: a row a poison; training images, perturbation, then defenses."""

    name: str
    class_word: str
    defenses: tuple[str, ...]
    lines: tuple[tuple[str, _Strip, _Strip | None, tuple[_Strip | None, ...]], ...]
    prompts: tuple[str, ...]


def _ordered(first: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """``names`` without repeats: those of ``first`` in its order, then the rest."""
    present = set(names)
    return tuple(dict.fromkeys([*(name for name in first if name in present), *names]))


def _matrix(panel: ConceptPanel, table: ScoreTable | None, rows: Sequence[Row]) -> _Matrix:
    first_poisons = (CLEAN,) if table is None else (CLEAN, *table.poisons)
    first_defenses = ("nominal",) if table is None else ("nominal", *table.defenses)
    keys = list(panel.generated)
    poisons = _ordered(first_poisons, [CLEAN, *panel.poisoned, *(key[0] for key in keys)])
    defenses = _ordered(first_defenses, [key[1] for key in keys])
    values = summarise([row for row in rows if row.concept == panel.name], HEADLINE)

    def strip(poison: str, defense: str) -> _Strip | None:
        made = panel.generated.get((poison, defense))
        if made is None:
            return None
        seeds = values.get((poison, defense), {}).get(panel.name, ())
        score = number(sum(seeds) / len(seeds)) if seeds else ""
        heading = f"{label(poison)} data, {label(defense)}"
        pictures = _pictures(made.images, made.prompts, lossless=False)
        return _Strip(heading, pictures, score, defense == "szt")

    lines = []
    for poison in poisons:
        images = panel.clean if poison == CLEAN else panel.poisoned.get(poison)
        training, perturbation = _Strip("training images", ()), None
        if images is not None:
            names = [f"{panel.name}, {label(poison)}, image {i + 1}" for i in range(len(images))]
            training = _Strip("training images", _pictures(images, names))
            if poison != CLEAN and images.shape == panel.clean.shape:
                difference = amplified_difference(panel.clean, images, PERTURBATION_GAIN)
                texts = [f"{name}, perturbation × {PERTURBATION_GAIN}" for name in names]
                perturbation = _Strip("perturbation", _pictures(difference, texts, lossless=False))
        cells = tuple(strip(poison, defense) for defense in defenses)
        lines.append((poison, training, perturbation, cells))
    prompts = tuple(
        dict.fromkeys(prompt for made in panel.generated.values() for prompt in made.prompts)
    )
    return _Matrix(panel.name, panel.class_word, defenses, tuple(lines), prompts)


@dataclass(frozen=True)
class _Result:
    """The tables and charts of one (model, method), and its rows."""

    model: str
    method: str
    rows: tuple[Row, ...]
    tables: tuple[ScoreTable, ...]
    charts: Sequence[Chart]

    def table(self, metric: str) -> ScoreTable | None:
        return next((table for table in self.tables if table.metric == metric), None)


def _result(rows: Sequence[Row], model: str, method: str) -> _Result:
    ours = tuple(row for row in rows if (row.model, row.method) == (model, method))
    metrics = _ordered(tuple(METRICS), [row.metric for row in ours])
    tables = tuple(score_table(ours, metric) for metric in metrics)
    main = next((table for table in tables if table.metric == HEADLINE), None)
    return _Result(model, method, ours, tables, () if main is None else interval_charts(main))


def duration_text(seconds: float) -> str:
    """``48 s``, ``12 min 5 s``, ``3 h 2 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _shade(table: ScoreTable, value: float) -> int:
    """How strongly a cell is tinted, 0 to 100, by how good its mean is among the table's."""
    means = [cell.interval.mean for cell in table.cells.values()]
    span = max(means) - min(means)
    higher = metric_of(table.metric).higher_is_better
    if higher is None or span <= 0 or math.isnan(value):
        return 0
    share = (value - min(means)) / span
    return round(100 * (share if higher else 1 - share))


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """The templates of all pages."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("safezone.results", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"label": label, "number": number, "duration": duration_text}
    made.filters["tick"] = lambda value: f"{value:g}".replace("-", "−")
    made.globals |= {"metric_of": metric_of, "shade": _shade, "gain": PERTURBATION_GAIN}
    return made


def asset(name: str) -> Markup:
    """A style or script of the package, to stand in a page."""
    return Markup(files("safezone.results").joinpath(name).read_text(encoding="utf-8"))


def render_html(report: Report) -> str:
    """The page as text. Raises ValueError for pictures that do not fit together."""
    results = [_result(report.rows, *settings) for settings in settings_of(report.rows)]
    main = results[0].table(HEADLINE) if results else None
    rows = results[0].rows if results else ()
    rows_uri = base64.b64encode(csv_text(report.rows).encode()).decode()
    context: dict[str, Any] = {
        "report": report,
        "results": results,
        "meanings": [meaning_sentences(result.rows) for result in results],
        "matrices": [_matrix(panel, main, rows) for panel in report.concepts],
        "rows_uri": f"data:text/csv;charset=utf-8;base64,{rows_uri}",
        "style": asset("style.css"),
        "script": asset("page.js"),
        "nan": math.isnan,
    }
    return environment().get_template("template.html.j2").render(context)


def render_report(report: Report, path: Path) -> None:
    """Writes the page, atomically, as one self-contained file."""
    write_text(path, render_html(report))
