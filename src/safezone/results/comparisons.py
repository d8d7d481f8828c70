"""What follows from a table: differences to a reference, recovery, and the worst cases."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from safezone.results.statistics import (
    LEVEL,
    ByConcept,
    Difference,
    Interval,
    holm,
    mean_interval,
    paired_difference,
    recovery,
    tied_best,
)
from safezone.scores.rows import CLEAN, NOMINAL, Row, summarise

Values = Mapping[tuple[str, str], ByConcept]
"""{(poison, defense): values} of one metric."""


@dataclass(frozen=True)
class Comparison:
    """One defense beside the reference, under one poison; the concept is the unit.

    ``difference``: defense - reference, seed by seed, with its 95% bootstrap interval.
    ``p_holm``: its p value, adjusted over the poisons of this defense (Holm). ``recovery``:
    (defended - poisoned) / (clean - poisoned), None where noise hides the denominator and for
    clean images.
    """

    poison: str
    defense: str
    difference: Difference
    p_holm: float
    recovery: Interval | None

    @property
    def tied(self) -> bool:
        """Whether the defense is not shown to differ from the reference."""
        return not self.p_holm < 1 - LEVEL


def _values(rows: Iterable[Row], metric: str) -> Values:
    return {(poison, name): v for (poison, name), v in summarise(rows, metric).items()}


def _shared(*sides: ByConcept) -> bool:
    return bool(set.intersection(*(set(side) for side in sides)))


def _recovery(values: Values, poison: str, name: str, reference: str) -> Interval | None:
    sides = [values.get(key) for key in ((CLEAN, reference), (poison, reference), (poison, name))]
    clean, poisoned, defended = sides
    if poison == CLEAN or clean is None or poisoned is None or defended is None:
        return None
    return recovery(clean, poisoned, defended) if _shared(clean, poisoned, defended) else None


def compare(rows: Sequence[Row], metric: str, reference: str = NOMINAL) -> list[Comparison]:
    """Every defense beside the reference, under every poison; Holm over the poisons of a defense.

    ``rows``: of one model and method. Cells that share no concept with their reference are left
    out.
    """
    values = _values(rows, metric)
    differences = {
        (poison, name): paired_difference(ours, values[poison, reference])
        for (poison, name), ours in values.items()
        if name != reference
        and (poison, reference) in values
        and _shared(ours, values[poison, reference])
    }
    found = []
    for (poison, name), difference in differences.items():
        family = {p: d.p_value for (p, other), d in differences.items() if other == name}
        adjusted = holm(family)[poison]
        recovered = _recovery(values, poison, name, reference)
        found.append(Comparison(poison, name, difference, adjusted, recovered))
    return found


@dataclass(frozen=True)
class WorstCase:
    """An extreme over one axis of a table.

    ``of``: whose it is; ``chosen``: where it is reached; ``tied``: what else is not shown to
    differ from it; ``value``: the mean there, with its interval, which does not count that the
    extreme was chosen among several. ``recovery``: as in ``Comparison``.
    """

    of: str
    chosen: str
    tied: tuple[str, ...]
    value: Interval
    recovery: Interval | None


def _extreme(candidates: Mapping[str, ByConcept], higher: bool) -> tuple[str, tuple[str, ...]]:
    best = tied_best(candidates, higher_is_better=higher)
    means = {name: mean_interval(candidates[name]).mean for name in best}
    chosen = (max if higher else min)(means, key=means.__getitem__)
    return chosen, tuple(name for name in candidates if name in best and name != chosen)


def best_attacks(
    rows: Sequence[Row], metric: str, higher_is_better: bool, reference: str = NOMINAL
) -> list[WorstCase]:
    """For every poison the defense that undoes it best: the best known attack on the protection.

    Who protects images has to reckon with it. A poison is as strong as its worst case.
    """
    values = _values(rows, metric)
    found = []
    for poison in dict.fromkeys(poison for poison, _ in values if poison != CLEAN):
        candidates = {name: v for (other, name), v in values.items() if other == poison}
        chosen, tied = _extreme(candidates, higher_is_better)
        returned = _recovery(values, poison, chosen, reference)
        found.append(WorstCase(poison, chosen, tied, mean_interval(candidates[chosen]), returned))
    return found


def weakest_points(
    rows: Sequence[Row], metric: str, higher_is_better: bool, reference: str = NOMINAL
) -> list[WorstCase]:
    """For every defense the poison under which it does worst."""
    values = _values(rows, metric)
    found = []
    for name in dict.fromkeys(name for _, name in values):
        candidates = {p: v for (p, other), v in values.items() if other == name and p != CLEAN}
        if not candidates:
            continue
        chosen, tied = _extreme(candidates, not higher_is_better)
        returned = None if name == reference else _recovery(values, chosen, name, reference)
        found.append(WorstCase(name, chosen, tied, mean_interval(candidates[chosen]), returned))
    return found


def with_average(rows: Sequence[Row], name: str) -> list[Row]:
    """The rows and, below a poison called ``name``, their means over the poisons.

    A mean is taken for each concept, seed, defense and metric where every poison has a value, so
    that no poison weighs more in one column than in another.
    """
    poisons = {row.poison for row in rows if row.poison != CLEAN and not row.reason}
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.poison != CLEAN and math.isfinite(row.value):
            cell = (row.concept, row.defense, row.method, row.model, str(row.seed), row.metric)
            groups.setdefault(cell, []).append(row)
    means = []
    for group in groups.values():
        if len({row.poison for row in group}) < max(2, len(poisons)):
            continue
        first, value = group[0], sum(row.value for row in group) / len(group)
        means.append(
            Row(
                *(first.concept, name, first.defense, first.method, first.model, first.seed),
                *(first.metric, value, first.n_generated, first.n_reference),
            )
        )
    return [*rows, *means]


_COMPARED: Final = (
    *("poison", "defense", "difference", "low", "high", "p", "p_holm", "tied", "n_concepts"),
    *("recovery", "recovery_low", "recovery_high"),
)
_CASES: Final = (
    *("kind", "of", "at", "tied_with", "mean", "low", "high"),
    *("recovery", "recovery_low", "recovery_high"),
)


def _cells(interval: Interval | None) -> list[float | str]:
    return ["", "", ""] if interval is None else ["" if math.isnan(v) else v for v in interval]


def _csv(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([head, *lines])
    return buffer.getvalue()


def comparisons_csv(found: Iterable[Comparison]) -> str:
    """One line a comparison, numbers in full."""
    lines = []
    for c in found:
        interval = _cells(Interval(*c.difference[:3]))
        counts = [c.difference.p_value, c.p_holm, int(c.tied), c.difference.n_concepts]
        lines.append([c.poison, c.defense, *interval, *counts, *_cells(c.recovery)])
    return _csv(_COMPARED, lines)


def worst_cases_csv(attacks: Iterable[WorstCase], weakest: Iterable[WorstCase]) -> str:
    """One line a poison (``best attack``), then one a defense (``weakest point``)."""
    kinds = [("best attack", attacks), ("weakest point", weakest)]
    return _csv(
        _CASES,
        (
            [kind, c.of, c.chosen, " ".join(c.tied), *_cells(c.value), *_cells(c.recovery)]
            for kind, cases in kinds
            for c in cases
        ),
    )
