"""The similarity table of every model and method and two ratios of it: taken and returned."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from safezone.results.comparisons import effects
from safezone.results.statistics import Interval
from safezone.results.tables import (
    SIMILARITY,
    label,
    markdown_of,
    number,
    score_table,
    settings_of,
    to_markdown,
)
from safezone.scores.rows import Row

_CAPTION = (
    "Taken: the share of the clean similarity that the poison takes away under nominal training. "
    "Returned: the share of that loss that the defense gives back. 95% intervals over concepts."
)


def percent(interval: Interval | None) -> str:
    """``41% [30%, 52%]``; a ratio that noise hides says so."""
    if interval is None or math.isnan(interval.mean):
        return "within noise"
    mean, low, high = (f"{number(100 * value, 0)}%" for value in interval)
    return mean if math.isnan(interval.low) else f"{mean} [{low}, {high}]"


def ratios_markdown(rows: Sequence[Row]) -> str:
    """What each poison took and each defense gave back, of one model and method; or nothing."""
    ratios = effects(rows)
    if not ratios:
        return ""
    names = dict.fromkeys(name for effect in ratios for name in effect.returned)
    frame = pd.DataFrame(
        [[e.taken, *(e.returned.get(name) for name in names)] for e in ratios], dtype=object
    ).map(lambda ratio: percent(ratio if isinstance(ratio, Interval) else None))
    frame.columns = pd.Index(["taken under Nominal", *(f"returned by {label(n)}" for n in names)])
    frame.index = pd.Index([label(effect.poison) for effect in ratios], name="Poison")
    return f"{markdown_of(frame)}\n\n{_CAPTION}\n"


def _by_setting(rows: Sequence[Row]) -> list[tuple[str, str, list[Row]]]:
    return [
        (model, method, [row for row in rows if (row.model, row.method) == (model, method)])
        for model, method in settings_of(rows)
    ]


def summary_markdown(rows: Sequence[Row]) -> str:
    """The similarity table of every model and method, and the two ratios below it."""
    parts = []
    for _, _, ours in _by_setting(rows):
        parts += [to_markdown(score_table(ours, SIMILARITY)), ratios_markdown(ours)]
    return "\n".join(filter(None, parts))


def _plain(interval: Interval | None) -> dict[str, float | None] | None:
    if interval is None:
        return None
    return {k: None if math.isnan(v) else v for k, v in interval._asdict().items()}


def summary_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The same numbers as JSON values, one object for each model and method."""
    result: list[dict[str, Any]] = []
    for model, method, ours in _by_setting(rows):
        cells = [
            {
                **{"poison": poison, "defense": name, **(_plain(cell.interval) or {})},
                **{"best": cell.best, "tied": cell.tied},
                **{"n_concepts": cell.n_concepts, "n_runs": cell.n_runs},
            }
            for (poison, name), cell in score_table(ours, SIMILARITY).cells.items()
        ]
        ratios = [
            {
                **{"poison": effect.poison, "taken": _plain(effect.taken)},
                "returned": {name: _plain(value) for name, value in effect.returned.items()},
            }
            for effect in effects(ours)
        ]
        names = {"model": model, "method": method, "metric": SIMILARITY}
        result.append({**names, "cells": cells, "effects": ratios})
    return result
