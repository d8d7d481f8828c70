"""What follows from an audit's rows: what each attacker learned, the worst case, the verdict.

All numbers are similarities to the clean originals (to the protected images where there are none),
means over all concepts with the seeds nested: what failed on one of them has no number. The owner's
worst case is the attacker that learned most.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from safezone.audit.cases import PROTECTED, Plan
from safezone.audit.suites import Attacker
from safezone.results.statistics import ByConcept, Interval, mean_interval, recovery
from safezone.results.tables import SIMILARITY, method_label
from safezone.scores.rows import CLEAN, NOMINAL, Row, summarise

NOTHING_LEARNED: Final = 0.1
"""A similarity above the class word's by less than this counts as nothing learned."""
HALF: Final = 0.5
"""The share of what clean images give from which a protection counts as not having held."""


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
    """One method. ``partial`` and ``budgets``: plain training, by real percent of protected images
    (mean over concepts) and by level of 255.

    ``careful``: the last attacker of the suite at the same budgets. ``failed``: attackers of which
    a run failed, and why. ``clean_failed``: why there is no ``clean`` although there are originals.
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
    clean_failed: str | None = None

    @property
    def costs(self) -> bool:
        """Whether the worst case's training takes from clean images at least what it gives back."""
        if self.clean is None or self.worst.clean is None or self.worst is self.plain:
            return False
        gain = self.worst.similarity.mean - self.plain.similarity.mean
        return self.clean.mean - self.worst.clean.mean >= max(0.02, gain)


@dataclass(frozen=True, eq=False)
class _Cells:
    """Of one method, by poison and defense: values, where all concepts that were to have some do,
    and reasons of runs that failed."""

    plan: Plan
    values: Mapping[tuple[str, ...], ByConcept]
    reasons: Mapping[tuple[str, str], str]

    def of(self, attacker: Attacker) -> tuple[str, str]:
        return attacker.poison_name(PROTECTED), attacker.defense_for(self.plan.builtin)

    def why(self, cell: tuple[str, str]) -> str | None:
        """Why a run of the cell has no value; None where all have one."""
        return self.reasons.get(cell, None if cell in self.values else "it gave no similarity")

    def interval(self, poison: str, defense: str) -> Interval | None:
        by_concept = self.values.get((poison, defense))
        return None if by_concept is None else mean_interval(by_concept)

    def learned(self, attacker: Attacker) -> Learned | None:
        own, clean = self.of(attacker), (CLEAN, NOMINAL)
        plain, back = self.of(self.plan.suite.plain), None
        if own not in self.values:
            return None
        if clean in self.values and plain in self.values and own != plain:
            back = recovery(self.values[clean], self.values[plain], self.values[own])
        similarity, on_clean = mean_interval(self.values[own]), self.interval(CLEAN, own[1])
        return Learned(attacker.name, attacker.title, similarity, on_clean, back)

    def by_level(self, names: Mapping[int, str], defense: str) -> dict[int, Interval]:
        every = {level: self.interval(name, defense) for level, name in names.items()}
        return {level: value for level, value in every.items() if value is not None}


def _cells(plan: Plan, method: str, rows: Sequence[Row]) -> _Cells:
    own, shares = [row for row in rows if row.method == method], {*plan.of_shares.values()}
    every = {case.name for case in plan.cases}
    several = {case.name for case in plan.cases if case.several}  # the others have no shares
    whole = {
        cell: values
        for cell, values in summarise(own, SIMILARITY).items()
        if (several if cell[0] in shares else every) <= values.keys()
    }
    return _Cells(plan, whole, {(r.poison, r.defense): r.reason for r in own if r.reason})


def outcomes(plan: Plan, rows: Sequence[Row]) -> tuple[list[Outcome], dict[str, str]]:
    """One for each method of which plain training ended well on every concept; of the other methods
    why it has no number."""
    found, failed = [], {}
    for method in plan.methods:
        cells = _cells(plan, method, rows)
        plain = cells.of(plan.suite.plain)
        if plain in cells.values:
            found.append(_outcome(method, cells))
        else:
            failed[method] = str(cells.why(plain))
    return found, failed


def _outcome(method: str, cells: _Cells) -> Outcome:
    plan = cells.plan
    every = [each for a in plan.attackers if (each := cells.learned(a)) is not None]
    clean, given = (CLEAN, NOMINAL), all(case.clean is not None for case in plan.cases)
    whys = {attacker.name: cells.why(cells.of(attacker)) for attacker in plan.attackers}
    return Outcome(
        method=method,
        plain=every[0],
        worst=max(every, key=lambda each: each.similarity.mean),
        attackers=tuple(every),
        clean=cells.interval(*clean),
        partial=cells.by_level(plan.of_shares, NOMINAL),
        budgets=cells.by_level(plan.of_levels, NOMINAL),
        careful=cells.by_level(plan.of_levels, plan.attackers[-1].defense_for(plan.builtin)),
        failed={name: why for name, why in whys.items() if why is not None},
        clean_failed=cells.why(clean) if given and clean not in cells.values else None,
    )


def verdict(outcome: Outcome, floor: float) -> str:
    """One sentence on one method; it never says that a protection is safe.

    ``floor``: the similarity of what the model draws for the class word alone.
    """
    plain, worst = outcome.plain.similarity.mean, outcome.worst.similarity.mean
    method = method_label(outcome.method)
    most = f"{outcome.worst.title} learned {worst:.2f}"
    if outcome.clean is None:
        why = "without the originals nobody can say"
        if outcome.clean_failed is not None:
            reason = outcome.clean_failed.rstrip(".")
            why = f"the training on the originals failed ({reason}), so nobody can say"
        return (
            f"With {method}, plain training learned {plain:.2f} and, of "
            f"{len(outcome.attackers)} trainings, {most}; {why} how much the protection took."
        )
    clean = outcome.clean.mean
    if clean - floor < NOTHING_LEARNED:
        return (
            f"With {method} not even the clean images were learned ({clean:.2f}, the class "
            f"word alone {floor:.2f}), so this says nothing about the protection."
        )
    share = max(0.0, (worst - floor) / (clean - floor))
    began = f"With {method}, clean images gave {clean:.2f} and protected ones {plain:.2f}"
    told, held = f"{share:.0%} of what clean images gave", "the protection did not hold"
    if worst == plain:
        careful = len(outcome.attackers) - 1
        tried, these = f"none of {careful} careful trainings learned more", "these"
        if careful == 1:
            tried, these = "the one careful training learned no more", "it"
        if not careful:
            tried, these = "no careful training ended well", "plain training alone"
        against = held if share >= HALF else f"the protection held against {these}"
        return f"{began}, {told}; {tried}: {against}."
    return f"{began}; {most}, {told}: {held if share >= HALF else 'part of it was left'}."


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
