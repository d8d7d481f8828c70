"""Geometry of the page's charts, in percent of a track's width, so that any screen fits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from safezone.results.tables import ScoreTable
from safezone.scores.rows import CLEAN, NOMINAL

ON_ONE_SCALE: Final = ("instance_similarity", "clip_score")
"""Metrics whose values may stand beside the paper's; distances are of other features than its."""


@dataclass(frozen=True)
class Mark:
    """One defense's dot with its interval: places in [0, 100]; a cut end runs off the track.

    ``paper``: the place of the paper's number, None where it has none on this scale.
    """

    defense: str
    place: float
    low: float
    high: float
    has_interval: bool
    cut_low: bool
    cut_high: bool
    paper: float | None = None


@dataclass(frozen=True)
class Chart:
    """The dots of one poison. ``reference``: place of nominal training on clean images, or None."""

    poison: str
    marks: tuple[Mark, ...]
    ticks: tuple[tuple[float, float], ...]
    """(value, place)."""
    reference: float | None


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About ``count`` round numbers in [low, high]: multiples of 1, 2 or 5 times a power of ten."""
    span = high - low
    if not span > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(
        power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= count + 0.5
    )
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def paper_of(table: ScoreTable, cell: tuple[str, str]) -> float | None:
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


def axis(table: ScoreTable) -> tuple[float, float]:
    """Holds all means and zero, and intervals as far as they do not squeeze the means."""
    means = [cell.interval.mean for cell in table.cells.values()]
    means += [value for cell in table.cells if (value := paper_of(table, cell)) is not None]
    low, high = min(*means, 0.0), max(*means, 0.0)
    room = 0.35 * (high - low) or 1.0
    lows = [cell.interval.low for cell in table.cells.values()]
    highs = [cell.interval.high for cell in table.cells.values()]
    ends_low = [value for value in lows if not math.isnan(value)]
    ends_high = [value for value in highs if not math.isnan(value)]
    start = max(min([low, *ends_low]), low - room)
    end = min(max([high, *ends_high]), high + room)
    pad = 0.04 * (end - start) or 1.0
    return start - pad, end + pad


def interval_charts(table: ScoreTable) -> Sequence[Chart]:
    """One chart a poison, all on one axis, defenses in the table's order."""
    if not table.cells:
        return ()
    start, end = axis(table)

    def place(value: float) -> float:
        return round(100 * min(max((value - start) / (end - start), 0.0), 1.0), 3)

    ticks = tuple((value, place(value)) for value in nice_ticks(start, end))
    anchor = table.cells.get((CLEAN, NOMINAL))
    charts = []
    for poison in table.poisons:
        marks = []
        for defense in table.defenses:
            cell = table.cells.get((poison, defense))
            if cell is None:
                continue
            mean, low, high = cell.interval
            known = not math.isnan(low)
            marks.append(
                Mark(
                    defense,
                    place(mean),
                    place(low) if known else place(mean),
                    place(high) if known else place(mean),
                    known,
                    known and low < start,
                    known and high > end,
                    None if (paper := paper_of(table, (poison, defense))) is None else place(paper),
                )
            )
        reference = None if anchor is None else place(anchor.interval.mean)
        charts.append(Chart(poison, tuple(marks), ticks, reference))
    return charts
