"""Two ratios of a table: what a poison takes from the similarity and what a defense returns."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safezone.results.statistics import ByConcept, Interval, recovery
from safezone.results.tables import label, number, score_table, settings_of, to_markdown
from safezone.scores.rows import CLEAN, NOMINAL, Row, summarise

METRIC = "instance_similarity"


@dataclass(frozen=True)
class Effect:
    """What one poison does. Intervals are 95%, over concepts; None where noise hides the ratio.

    ``taken``: (clean - poisoned) / clean, of the similarity under nominal training.
    ``returned``: by defense, (defended - poisoned) / (clean - poisoned).
    """

    poison: str
    taken: Interval | None
    returned: Mapping[str, Interval | None]


def _share_taken(clean: ByConcept, poisoned: ByConcept) -> Interval | None:
    """One minus poisoned / clean, which is the "recovery" from nothing at all."""
    nothing = {concept: [0.0] * len(values) for concept, values in clean.items()}
    kept = recovery(clean, nothing, poisoned)
    return None if kept is None else Interval(1 - kept.mean, 1 - kept.high, 1 - kept.low)


def effects(rows: Sequence[Row]) -> list[Effect]:
    """One effect for each poison that was measured beside clean images under nominal training."""
    values = summarise(rows, METRIC)
    clean = values.get((CLEAN, NOMINAL))
    found = []
    for poison in dict.fromkeys(poison for poison, _ in values if poison != CLEAN):
        poisoned = values.get((poison, NOMINAL))
        if clean is None or poisoned is None or not clean.keys() & poisoned.keys():
            continue
        returned = {
            name: recovery(clean, poisoned, defended)
            for (other, name), defended in values.items()
            if other == poison and name != NOMINAL and clean.keys() & defended.keys()
        }
        found.append(Effect(poison, _share_taken(clean, poisoned), returned))
    return found


def _percent(interval: Interval | None) -> str:
    if interval is None:
        return "within noise"
    mean, low, high = (f"{number(100 * value, 0)}%" for value in interval)
    return mean if math.isnan(interval.low) else f"{mean} [{low}, {high}]"


def summary_markdown(rows: Sequence[Row]) -> str:
    """The similarity table of every model and method, and the two ratios below it."""
    parts = []
    for model, method in settings_of(rows):
        ours = [row for row in rows if (row.model, row.method) == (model, method)]
        parts.append(to_markdown(score_table(ours, METRIC)))
        measured = effects(ours)
        if not measured:
            continue
        names = list(dict.fromkeys(name for effect in measured for name in effect.returned))
        head = ["Poison", "taken under Nominal", *(f"returned by {label(n)}" for n in names)]
        lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for effect in measured:
            cells = [label(effect.poison), _percent(effect.taken)]
            cells += [_percent(effect.returned.get(name)) for name in names]
            lines.append("| " + " | ".join(cells) + " |")
        caption = (
            "Taken: the share of the clean similarity that the poison takes away under nominal "
            "training. Returned: the share of that loss that the defense gives back. "
            "95% intervals over concepts."
        )
        parts.append("\n".join([*lines, "", caption, ""]))
    return "\n".join(parts)


def _plain(interval: Interval | None) -> dict[str, float | None] | None:
    if interval is None:
        return None
    return {k: None if math.isnan(v) else v for k, v in interval._asdict().items()}


def summary_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The same numbers as JSON values, one object for each model and method."""
    result = []
    for model, method in settings_of(rows):
        ours = [row for row in rows if (row.model, row.method) == (model, method)]
        table = score_table(ours, METRIC)
        cells = [
            {
                "poison": poison,
                "defense": name,
                **(_plain(cell.interval) or {}),
                "best": cell.best,
                "tied": cell.tied,
                "n_concepts": cell.n_concepts,
                "n_runs": cell.n_runs,
            }
            for (poison, name), cell in table.cells.items()
        ]
        ratios = [
            {
                "poison": effect.poison,
                "taken": _plain(effect.taken),
                "returned": {name: _plain(value) for name, value in effect.returned.items()},
            }
            for effect in effects(ours)
        ]
        result.append(
            {"model": model, "method": method, "metric": METRIC, "cells": cells, "effects": ratios}
        )
    return result
