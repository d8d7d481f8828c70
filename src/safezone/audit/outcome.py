"""What an audit's rows say: what each attacker learned, the worst case, what that is beside clean.

All numbers are similarities to the clean originals (to the protected images where there are none),
means over concepts with the seeds nested. The owner's worst case is the attacker that learned most.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from safezone.audit.cases import Plan, budget_name, partial_name, protected_name
from safezone.audit.suite import Attacker
from safezone.results.statistics import ByConcept, Interval, mean_interval, recovery
from safezone.results.tables import SIMILARITY
from safezone.scores.rows import CLEAN, NOMINAL, Row, summarise

NOTHING_LEARNED: Final = 0.1
"""A similarity above the class word's by less than this counts as nothing learned."""
HALF: Final = 0.5
"""The share of what clean images give from which a protection counts as not having held."""
Values: TypeAlias = Mapping[tuple[str, ...], ByConcept]


@dataclass(frozen=True)
class Learned:
    """What one attacker learned. ``clean``: the same training on the originals."""

    attacker: str
    title: str
    similarity: Interval
    clean: Interval | None
    recovery: Interval | None
    """Of what the protection took from plain training; None where that is within noise."""


@dataclass(frozen=True)
class Outcome:
    """One method. ``partial`` and ``budgets``: plain training, by percent and by level of 255.

    ``careful``: the last attacker of the suite at the same budgets. ``failed``: attackers of whose
    runs none ended well, and why.
    """

    method: str
    plain: Learned
    worst: Learned
    attackers: tuple[Learned, ...]
    clean: Interval | None
    partial: Mapping[int, Interval]
    budgets: Mapping[int, Interval]
    careful: Mapping[int, Interval]
    failed: Mapping[str, str]

    @property
    def kept(self) -> float | None:
        """What the worst case has of what plain training has on clean images."""
        if self.clean is None or self.clean.mean <= 0:
            return None
        return self.worst.similarity.mean / self.clean.mean


def outcomes(plan: Plan, rows: Sequence[Row]) -> list[Outcome]:
    """One for each method of which plain training ended well."""
    results = []
    for method in plan.methods:
        own = [row for row in rows if row.method == method]
        values = summarise(own, SIMILARITY)
        reasons = {(row.poison, row.defense): row.reason for row in own if row.reason}
        found = _outcome(plan, method, values, reasons)
        if found is not None:
            results.append(found)
    return results


def _outcome(
    plan: Plan, method: str, values: Values, reasons: Mapping[tuple[str, str], str]
) -> Outcome | None:
    def cell(attacker: Attacker) -> tuple[str, str]:
        return protected_name(attacker), attacker.defense_for(plan.builtin)

    def interval(poison: str, defense: str) -> Interval | None:
        by_concept = values.get((poison, defense))
        return None if by_concept is None else mean_interval(by_concept)

    def learned(attacker: Attacker) -> Learned | None:
        poison, defense = cell(attacker)
        similarity = interval(poison, defense)
        if similarity is None:
            return None
        back = None
        if (CLEAN, NOMINAL) in values and attacker is not plan.suite.plain:
            plain = values.get(cell(plan.suite.plain))
            if plain is not None:
                back = recovery(values[CLEAN, NOMINAL], plain, values[poison, defense])
        return Learned(attacker.name, attacker.title, similarity, interval(CLEAN, defense), back)

    def by_level(names: Mapping[int, str], defense: str) -> dict[int, Interval]:
        return {n: i for n, name in names.items() if (i := interval(name, defense)) is not None}

    every = [each for attacker in plan.attackers if (each := learned(attacker)) is not None]
    if not every or every[0].attacker != plan.suite.plain.name:
        return None
    levels = {level: budget_name(level) for level in plan.budgets}
    return Outcome(
        method=method,
        plain=every[0],
        worst=max(every, key=lambda each: each.similarity.mean),
        attackers=tuple(every),
        clean=interval(CLEAN, NOMINAL),
        partial=by_level({percent: partial_name(percent) for percent in plan.partial}, NOMINAL),
        budgets=by_level(levels, NOMINAL),
        careful=by_level(levels, plan.attackers[-1].defense_for(plan.builtin)),
        failed={a.name: reasons[cell(a)] for a in plan.attackers if cell(a) in reasons},
    )


def verdict(outcome: Outcome, floor: float | None) -> str:
    """One sentence on one method; it never says that a protection is safe.

    ``floor``: the similarity of what the model draws for the class word alone.
    """
    plain, worst = outcome.plain.similarity.mean, outcome.worst.similarity.mean
    most = f"{outcome.worst.title} learned {worst:.2f}"
    if outcome.clean is None:
        return (
            f"With {outcome.method}, plain training learned {plain:.2f} and, of "
            f"{len(outcome.attackers)} trainings, {most}; without the originals nobody can say how "
            "much the protection took."
        )
    clean = outcome.clean.mean
    base = 0.0 if floor is None else floor
    if clean - base < NOTHING_LEARNED:
        return (
            f"With {outcome.method} not even the clean images were learned ({clean:.2f}, the class "
            f"word alone {base:.2f}), so this says nothing about the protection."
        )
    share = (worst - base) / (clean - base)
    began = f"With {outcome.method}, clean images gave {clean:.2f} and protected ones {plain:.2f}"
    if worst == plain:
        return f"{began}; none of {len(outcome.attackers) - 1} careful trainings learned more."
    held = "the protection did not hold" if share >= HALF else "part of the protection was left"
    return f"{began}; {most}, {max(0.0, share):.0%} of what clean images gave: {held}."


def plain_values(value: Any) -> Any:
    """The outcome as JSON values; NaN limits (one concept) become null."""
    if isinstance(value, Interval):
        limits = (value.low, value.high)
        low, high = (None if math.isnan(limit) else limit for limit in limits)
        return {"mean": value.mean, "low": low, "high": high}
    if isinstance(value, Learned | Outcome):
        return {name: plain_values(each) for name, each in vars(value).items()}
    if isinstance(value, Mapping):
        return {str(key): plain_values(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(each) for each in value]
    return value
