"""What follows from a table: differences to a reference, recovery, worst cases, a summary."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import pandas as pd

from safezone.results.statistics import (
    CONFIDENCE,
    ByConcept,
    Interval,
    holm,
    mean_interval,
    paired_difference,
    recovery,
    tied_best,
)
from safezone.results.tables import (
    SIMILARITY,
    WIDEST,
    by_setting,
    label,
    markdown_of,
    number,
    score_table,
    to_markdown,
)
from safezone.scores import metric_of
from safezone.scores.rows import CLEAN, NOMINAL, Row, summarise

_Values = Mapping[tuple[str, ...], ByConcept]
_RECOVERY: Final = ("recovery", "recovery_low", "recovery_high")
_NO_RECOVERY: Final = Interval(math.nan, math.nan, math.nan)


def recovery_of(
    values: _Values, poison: str, defense: str, *, higher_is_better: bool = True
) -> Interval | None:
    """What a defense gave back of what a poison took from nominal training (``recovery``).

    None where nothing is shown to be taken, and where no concept was measured in all three ways.
    """
    keys = ((CLEAN, NOMINAL), (poison, NOMINAL), (poison, defense))
    clean, poisoned, defended = (values.get(key, {}) for key in keys)
    if poison == CLEAN or not clean.keys() & poisoned.keys() & defended.keys():
        return None
    return recovery(clean, poisoned, defended, higher_is_better=higher_is_better)


def compare(rows: Sequence[Row], metric: str) -> pd.DataFrame:
    """Every defense beside nominal training, under every poison; the concept is the unit.

    ``rows``: of one model and method. One line a cell: the difference defense - nominal, seed by
    seed where both have the same, with its 95% bootstrap interval; its p value, and that adjusted
    over the poisons of this defense (Holm); ``tied``: not shown to differ; ``recovery``: (defended
    - poisoned) / (clean - poisoned), NaN where the poison is not shown to take anything and for
    clean images.
    Cells that share no concept with nominal training are left out.
    """
    values = summarise(rows, metric)
    higher = metric_of(metric).higher_is_better is not False
    lines = []
    for (poison, name), ours in values.items():
        theirs = values.get((poison, NOMINAL), {})
        if name != NOMINAL and ours.keys() & theirs.keys():
            difference = paired_difference(ours, theirs)
            returned = recovery_of(values, poison, name, higher_is_better=higher) or _NO_RECOVERY
            lines.append((poison, name, *difference, *returned))
    names = ("poison", "defense", "difference", "low", "high", "p", "n_concepts", *_RECOVERY)
    frame = pd.DataFrame(lines, columns=names)
    adjusted: dict[Hashable, float] = {}
    for _, family in frame.groupby("defense"):
        adjusted |= holm(family["p"].to_dict())
    frame.insert(6, "p_holm", pd.Series(adjusted, dtype=float))
    frame.insert(7, "tied", (~(frame["p_holm"] < 1 - CONFIDENCE)).astype(int))
    return frame


def worst_cases(rows: Sequence[Row], metric: str, higher_is_better: bool | None) -> pd.DataFrame:
    """The extremes over the axes of a table: ``best attack`` and ``weakest point``.

    For every poison the defense that undoes it best: who protects images has to reckon with it.
    For every defense the poison under which it does worst. ``tied_with``: what else is not shown
    to differ from that, a tuple; ``mean``: the mean there with its interval, which does not count
    that the extreme was chosen among several. No lines where neither direction is better: None.
    """
    values = {} if higher_is_better is None else summarise(rows, metric)
    lines = []
    for kind, axis, higher in (
        ("best attack", 0, bool(higher_is_better)),
        ("weakest point", 1, not higher_is_better),
    ):
        groups: dict[str, dict[str, ByConcept]] = {}
        for key, cell in values.items():
            if key[0] != CLEAN:
                groups.setdefault(key[axis], {})[key[1 - axis]] = cell
        for name in dict.fromkeys(key[axis] for key in values if key[axis] in groups):
            candidates = groups[name]
            best = tied_best(candidates, higher_is_better=higher)
            means = {other: mean_interval(candidates[other]).mean for other in best}
            at = (max if higher else min)(means, key=means.__getitem__)
            tied = tuple(other for other in candidates if other in best and other != at)
            poison, defense = (name, at) if axis == 0 else (at, name)
            returned = None
            if kind == "best attack" or defense != NOMINAL:
                returned = recovery_of(
                    values, poison, defense, higher_is_better=bool(higher_is_better)
                )
            interval = mean_interval(candidates[at])
            lines.append((kind, name, at, tied, *interval, *(returned or _NO_RECOVERY)))
    names = ("kind", "of", "at", "tied_with", "mean", "low", "high", *_RECOVERY)
    return pd.DataFrame(lines, columns=names)


class Effect(NamedTuple):
    """What one poison does. Intervals are 95%, over concepts.

    ``taken``: (clean - poisoned) / clean, of the similarity under nominal training; None where
    noise hides the clean one. ``returned``: by defense that was measured beside it, (defended -
    poisoned) / (clean - poisoned); None where nothing is shown to be taken.
    """

    poison: str
    taken: Interval | None
    returned: Mapping[str, Interval | None]


def effects(rows: Sequence[Row]) -> list[Effect]:
    """One effect for each poison that was measured beside clean images under nominal training."""
    values = summarise(rows, SIMILARITY)
    clean = values.get((CLEAN, NOMINAL), {})
    nothing = {concept: dict.fromkeys(seeds, 0.0) for concept, seeds in clean.items()}
    result = []
    for poison in dict.fromkeys(poison for poison, _ in values if poison != CLEAN):
        poisoned = values.get((poison, NOMINAL), {})
        if not clean.keys() & poisoned.keys():
            continue
        share = recovery(clean, nothing, poisoned)  # poisoned / clean
        taken = None if share is None else Interval(1 - share.mean, 1 - share.high, 1 - share.low)
        returned = {
            name: recovery_of(values, poison, name)
            for (other, name), defended in values.items()
            if other == poison
            and name != NOMINAL
            and clean.keys() & poisoned.keys() & defended.keys()
        }
        result.append(Effect(poison, taken, returned))
    return result


def with_average(rows: Sequence[Row], name: str) -> list[Row]:
    """The rows and, below a poison called ``name``, their means over the poisons.

    A mean is taken for each concept, seed, defense and metric where every poison has a value, so
    that no poison weighs more in one column than in another.
    """
    poisons = {row.poison for row in rows if row.poison != CLEAN and not row.reason}
    groups: dict[Row, list[Row]] = {}
    for row in rows:
        if row.poison != CLEAN and math.isfinite(row.value):
            cell = replace(row, poison=name, value=0.0, n_generated=0, n_reference=0)
            groups.setdefault(cell, []).append(row)
    means = [
        replace(group[0], poison=name, value=sum(row.value for row in group) / len(group))
        for group in groups.values()
        if len({row.poison for row in group}) >= max(2, len(poisons))
    ]
    return [*rows, *means]


_CAPTION = (
    "Taken: the share of the clean similarity that the poison takes away under nominal training. "
    "Returned: the share of that loss that the defense gives back. 95% intervals over concepts. A "
    "dash: noise hides it, nothing is shown to be taken, or it was not measured."
)


def percent(interval: Interval | None) -> str:
    """``41% [30%, 52%]``; a dash where there is no such ratio."""
    if interval is None or math.isnan(interval.mean):
        return "–"
    mean, low, high = (f"{number(100 * value, 0)}%" for value in interval)
    return mean if math.isnan(interval.low) else f"{mean} [{low}, {high}]"


def ratios_markdown(rows: Sequence[Row]) -> str:
    """What each poison took and each defense gave back, of one model and method; or nothing."""
    ratios = effects(rows)
    if not ratios:
        return ""
    names = dict.fromkeys(name for effect in ratios for name in effect.returned)
    frame = pd.DataFrame(
        [[percent(e.taken), *(percent(e.returned.get(name)) for name in names)] for e in ratios],
        index=pd.Index([label(effect.poison) for effect in ratios], name="Poison"),
        columns=pd.Index(
            ["taken under Nominal", *(f"returned by {label(name)}" for name in names)], name="Share"
        ),
    )
    return f"{markdown_of(frame.T if len(names) > WIDEST else frame)}\n\n{_CAPTION}\n"


def summary_markdown(rows: Sequence[Row]) -> str:
    """The similarity table of every model and method, and the two ratios below it."""
    parts = []
    for ours in by_setting(rows).values():
        parts += [to_markdown(score_table(ours, SIMILARITY)), ratios_markdown(ours)]
    return "\n".join(filter(None, parts))


def _plain(interval: Interval | None) -> dict[str, float | None] | None:
    if interval is None:
        return None
    return {k: None if math.isnan(v) else v for k, v in interval._asdict().items()}


def summary_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The same numbers as JSON values, one object for each model and method."""
    result: list[dict[str, Any]] = []
    for (model, method), ours in by_setting(rows).items():
        cells = [
            {
                **{"poison": poison, "defense": name, **(_plain(cell.interval) or {})},
                **{k: getattr(cell, k) for k in ("best", "tied", "n_concepts", "n_runs")},
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
