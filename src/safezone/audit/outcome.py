"""What follows from an audit's rows: what each attacker learned, the worst case, and the flags.

All numbers are similarities to the clean originals (to the protected images where there are none),
means over concepts with the seeds nested. The owner's worst case is the attacker that learned most.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from safezone.audit.cases import PROTECTED, Plan
from safezone.audit.suites import Attacker
from safezone.lab.settings import fraction
from safezone.results.statistics import Interval, mean_interval, recovery
from safezone.results.tables import SIMILARITY
from safezone.scores.rows import CLEAN, NOMINAL, Row, summarise

NOTHING_LEARNED: Final = 0.1
"""A similarity above the class word's by less than this counts as nothing learned."""
HALF: Final = 0.5
"""The share of what clean images give from which a protection counts as not having held."""
FEW_CONCEPTS: Final = 5
"""Below this an audit is a look at images, not a measurement."""


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
    def costs(self) -> bool:
        """Whether the worst case's training takes from clean images at least what it gives back."""
        if self.clean is None or self.worst.clean is None or self.worst is self.plain:
            return False
        gain = self.worst.similarity.mean - self.plain.similarity.mean
        return self.clean.mean - self.worst.clean.mean >= max(0.02, gain)


def outcomes(plan: Plan, rows: Sequence[Row]) -> list[Outcome]:
    """One for each method of which plain training ended well."""
    every = (_outcome(plan, m, [row for row in rows if row.method == m]) for m in plan.methods)
    return [each for each in every if each is not None]


def _outcome(plan: Plan, method: str, rows: Sequence[Row]) -> Outcome | None:
    values = summarise(rows, SIMILARITY)
    reasons = {(row.poison, row.defense): row.reason for row in rows if row.reason}

    def cell(attacker: Attacker) -> tuple[str, str]:
        return attacker.poison_name(PROTECTED), attacker.defense_for(plan.builtin)

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
    return Outcome(
        method=method,
        plain=every[0],
        worst=max(every, key=lambda each: each.similarity.mean),
        attackers=tuple(every),
        clean=interval(CLEAN, NOMINAL),
        partial=by_level(plan.of_shares, NOMINAL),
        budgets=by_level(plan.of_levels, NOMINAL),
        careful=by_level(plan.of_levels, plan.attackers[-1].defense_for(plan.builtin)),
        failed={a.name: reasons[cell(a)] for a in plan.attackers if cell(a) in reasons},
    )


def verdict(outcome: Outcome, floor: float) -> str:
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
    if clean - floor < NOTHING_LEARNED:
        return (
            f"With {outcome.method} not even the clean images were learned ({clean:.2f}, the class "
            f"word alone {floor:.2f}), so this says nothing about the protection."
        )
    share = max(0.0, (worst - floor) / (clean - floor))
    began = f"With {outcome.method}, clean images gave {clean:.2f} and protected ones {plain:.2f}"
    told, held = f"{share:.0%} of what clean images gave", "the protection did not hold"
    if worst == plain:
        against = held if share >= HALF else "the protection held against these"
        careful = len(outcome.attackers) - 1
        return f"{began}, {told}; none of {careful} careful trainings learned more: {against}."
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


# Flags: when nothing, or less, follows


@dataclass(frozen=True, eq=False)
class Facts:
    """What the flags look at. ``floor``: the similarity of what the class word alone draws.

    ``largest``: the largest change of any value of a pixel, in [0, 1]; None without originals.
    ``own_training``: whether the trainings were told other settings than the model's preset.
    """

    plan: Plan
    outcomes: Sequence[Outcome]
    model: str
    floor: float
    largest: float | None
    own_training: bool = False

    @property
    def manifests(self) -> list[Mapping[str, Any]]:
        """The manifests of the protected folders that our own poisons wrote."""
        return [case.manifest for case in self.plan.cases if case.manifest]

    @property
    def over_budget(self) -> bool:
        """Whether an image is changed by more than the protection claims."""
        claims = [fraction(each["kappa"]) for each in self.manifests if "kappa" in each]
        if self.largest is None or not claims:
            return False
        return self.largest > float(max(claims)) + 0.5 / 255 + 1e-6


@dataclass(frozen=True)
class Flag:
    """``raised``: whether it holds; ``text``: what it means, one sentence."""

    name: str
    raised: Callable[[Facts], bool]
    text: str


FLAGS: Final[tuple[Flag, ...]] = (
    Flag(
        "no-originals",
        lambda facts: any(case.clean is None for case in facts.plan.cases),
        "There are no clean originals, so similarities are to the protected images and what the "
        "protection took cannot be told; give --clean.",
    ),
    Flag(
        "clean-not-learned",
        lambda facts: any(
            each.clean is not None and each.clean.mean - facts.floor < NOTHING_LEARNED
            for each in facts.outcomes
        ),
        "The clean images were hardly learned better than the class word alone draws them, so "
        "nothing follows for the protected ones.",
    ),
    Flag(
        "budget-exceeded",
        lambda facts: facts.over_budget,
        "The protected images differ from the originals by more than the protection's budget: they "
        "were changed afterwards, or these are other originals.",
    ),
    Flag(
        "lossy-file",
        lambda facts: any(case.lossy for case in facts.plan.cases),
        "Protected images are in a lossy form (JPEG, WebP), which has changed the protection "
        "already; audit the files as the protection wrote them too.",
    ),
    Flag(
        "care-costs-clean",
        lambda facts: any(each.costs for each in facts.outcomes),
        "The training that learned most loses at least as much on clean images as it gains here, "
        "so its gain is not recovery alone.",
    ),
    Flag(
        "purifier-of-this-world",
        lambda facts: (
            facts.plan.builtin and any(each.name == "purifier" for each in facts.plan.attackers)
        ),
        "The built-in purifier was trained on the very world of the built-in model; purifiers of "
        "photographs know less of what they clean.",
    ),
    Flag(
        "white-box",
        lambda facts: any(each.get("model") == facts.model for each in facts.manifests),
        "The protection was made on the model that is trained here, its best case; on another "
        "model it may do less.",
    ),
    Flag(
        "carried-over",
        lambda facts: any(each.get("model") not in (None, facts.model) for each in facts.manifests),
        "The protection was made on another model than the one that is trained here.",
    ),
    Flag(
        "unknown-maker",
        lambda facts: len(facts.manifests) < len(facts.plan.cases),
        "It is not known on which model the protection was made, so white box and carried over "
        "cannot be told apart.",
    ),
    Flag(
        "other-training",
        lambda facts: facts.own_training,
        "The trainings had other settings than this model's preset (--config), so these numbers "
        "are not the suite's.",
    ),
    Flag(
        "few-concepts",
        lambda facts: len(facts.plan.cases) < FEW_CONCEPTS,
        f"Fewer than {FEW_CONCEPTS} concepts: this is a look at these images, not a measurement of "
        "the protection.",
    ),
    Flag(
        "generated-masks",
        lambda facts: any(case.generated_masks for case in facts.plan.cases),
        "The masks were drawn by GrabCut and not looked at; a wrong mask makes Safe-Zone Training "
        "look worse than it is.",
    ),
    Flag(
        "stronger-attack-missing",
        lambda facts: bool(facts.plan.left_out) or any(each.failed for each in facts.outcomes),
        "Known attackers of the suite did not run here, so the worst case may be worse.",
    ),
)
"""Every flag; the tests raise each of them and leave each of them down."""


def raised(facts: Facts) -> list[Flag]:
    """The flags that hold, in the table's order."""
    return [flag for flag in FLAGS if flag.raised(facts)]
