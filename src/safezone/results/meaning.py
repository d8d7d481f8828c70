"""Three sentences that follow from measured rows and from nothing else."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from safezone.results.statistics import (
    ByConcept,
    Difference,
    holm,
    mean_over_concepts,
    paired_difference,
    recovery,
    tied_best,
)
from safezone.results.tables import SIMILARITY, count, label, number, settings_of
from safezone.scores.rows import CLEAN, NOMINAL, Row, summarise

SZT = "szt"
_ALPHA = 0.05


class _Change(NamedTuple):
    """A value before and after, and whether the paired difference is shown."""

    name: str
    before: float
    after: float
    difference: Difference
    shown: bool

    def text(self) -> str:
        low, high = self.difference.low, self.difference.high
        limits = "one concept, no interval"
        if self.difference.n_concepts > 1:
            limits = f"95% interval {number(low, sign=True)} to {number(high, sign=True)}"
        return (
            f"from {number(self.before)} to {number(self.after)} under {label(self.name)} "
            f"({number(self.after - self.before, sign=True)}; {limits})"
        )


def _changes(pairs: Mapping[str, tuple[ByConcept, ByConcept]]) -> list[_Change]:
    """Changes of the concepts on both sides, Holm-corrected for the number of poisons."""
    differences, means = {}, {}
    for name, (before, after) in pairs.items():
        common = [concept for concept in before if concept in after]
        if not common:
            continue
        sides = [{concept: side[concept] for concept in common} for side in (before, after)]
        means[name] = mean_over_concepts(sides[0]), mean_over_concepts(sides[1])
        differences[name] = paired_difference(sides[1], sides[0])
    adjusted = holm({name: difference.p_value for name, difference in differences.items()})
    return [
        _Change(name, *means[name], difference, adjusted[name] < _ALPHA)
        for name, difference in differences.items()
    ]


def _join(parts: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _labels(changes: Iterable[_Change]) -> str:
    return _join([label(change.name) for change in changes])


def _story(changes: Sequence[_Change], down: str, up: str, noise: str, between: str) -> str:
    """Clauses for what went down, what went up and what is within noise."""
    groups = (
        (down, [change for change in changes if change.shown and change.difference.mean < 0]),
        (up, [change for change in changes if change.shown and change.difference.mean > 0]),
        (noise, [change for change in changes if not change.shown]),
    )
    clauses = [f"{verb} {_join([c.text() for c in group])}" for verb, group in groups if group]
    return between.join(clauses)


_Values: TypeAlias = Mapping[tuple[str, ...], ByConcept]
"""{(poison, defense): {concept: values over seeds}}."""


def _share(values: _Values, poison: str, name: str) -> str:
    """How much of the loss came back, in words; empty where that is undefined."""
    if (CLEAN, NOMINAL) not in values:
        return ""
    try:
        share = recovery(values[CLEAN, NOMINAL], values[poison, NOMINAL], values[poison, name])
    except ValueError:  # no concept in all three
        return ""
    return "" if share is None else f"{round(100 * share.mean)}% of what {label(poison)} took"


def _rivals(values: _Values, poisons: Sequence[str], name: str) -> list[str]:
    """Clauses on the other defenses that are tied with ``name`` or shown to be better."""
    standings: dict[str, list[str]] = {}
    for poison in poisons:
        candidates = {d: cell for (p, d), cell in values.items() if p == poison and d != NOMINAL}
        best = tied_best(candidates)
        others = _join([label(other) for other in candidates if other in best - {name}])
        if others:
            clause = f"tied with {others}" if name in best else f"shown to be worse than {others}"
            standings.setdefault(clause, []).append(label(poison))
    return [f"it is {clause} under {_join(names)}" for clause, names in standings.items()]


def _best_defense(values: _Values, poisons: Sequence[str]) -> str | None:
    """SZT, else the defense with the best mean over the poisons that it was measured under."""
    names = dict.fromkeys(d for p, d in values if p in poisons and d != NOMINAL)
    if SZT in names or not names:
        return SZT if names else None

    def mean(name: str) -> float:
        cells = [values[poison, name] for poison in poisons if (poison, name) in values]
        return sum(mean_over_concepts(cell) for cell in cells) / len(cells)

    return max(names, key=mean)


def _poison_sentence(effects: Sequence[_Change], measured: bool) -> str:
    if not measured:
        return "No poison was measured, so this report says nothing about protection."
    if not effects:
        return (
            "What the poisons took cannot be told, because nominal training was not measured on "
            "both clean and poisoned images of the same concepts."
        )
    story = _story(effects, "fell", "rose", "changed within noise", "; it ")
    return f"Trained without a defense, similarity to the clean object {story}."


def _defense_sentence(values: _Values, gains: Sequence[_Change], name: str | None) -> str:
    if name is None or not gains:
        return "No defense was measured beside nominal training, so nothing was given back."
    who = "Safe-Zone Training" if name == SZT else f"The best defense measured, {label(name)},"
    story = _story(gains, "lowered it", "raised it", "changed it within noise", "; it ")
    shares = [share for gain in gains if (share := _share(values, gain.name, name))]
    back = f", giving back {_join(shares)}" if shares else ""
    rivals = _rivals(values, [gain.name for gain in gains], name)
    return "; ".join([f"{who} {story}{back}", *rivals]) + "."


def _verdict(
    values: _Values,
    effects: Sequence[_Change],
    gains: Sequence[_Change],
    name: str | None,
) -> str:
    protecting = [effect for effect in effects if effect.shown and effect.difference.mean < 0]
    if not protecting:
        return "a protective effect of the poisons is not shown, so there is none to undo"
    if name is None:
        return f"the protection of {_labels(protecting)} stands, since no defense was tried"
    gained = {gain.name: gain for gain in gains}
    rest = _changes(
        {
            effect.name: (values[CLEAN, NOMINAL], values[effect.name, name])
            for effect in protecting
            if (effect.name, name) in values
        }
    )
    below = {change.name for change in rest if change.shown and change.difference.mean < 0}
    undone = [e for e in protecting if (g := gained.get(e.name)) and g.shown and g.after > g.before]
    full = [effect for effect in undone if effect.name not in below]
    partly = [effect for effect in undone if effect.name in below]
    held = [effect for effect in protecting if effect not in undone]
    defense = label(name)
    clauses = []
    if full:
        clauses.append(
            f"the protection of {_labels(full)} did not hold against {defense}, whose results are "
            "not shown to be below those of nominal training on clean images"
        )
    if partly:
        clauses.append(f"that of {_labels(partly)} was undone by {defense} in part")
    if held:
        clauses.append(f"that {defense} undoes the protection of {_labels(held)} is not shown")
    return "; ".join(clauses)


def meaning_sentences(rows: Sequence[Row]) -> list[str]:
    """Exactly three sentences: what the poisons took, what SZT gave back, what follows.

    From the instance similarity of the first (model, method) of the rows. A change counts as
    shown when the p value of its paired difference, Holm-corrected over poisons, is below 0.05;
    everything else is called noise, also when it contradicts what one would like to read.
    Without SZT the best defense measured takes its place, and says so.
    """
    settings = settings_of(rows)
    ours = [row for row in rows if (row.model, row.method) in settings[:1]]
    values: _Values = summarise(ours, SIMILARITY)
    poisons = [poison for poison in dict.fromkeys(p for p, _ in values) if poison != CLEAN]
    effects = _changes(
        {
            poison: (values[CLEAN, NOMINAL], values[poison, NOMINAL])
            for poison in poisons
            if (CLEAN, NOMINAL) in values and (poison, NOMINAL) in values
        }
    )
    name = _best_defense(values, poisons)
    gains = _changes(
        {
            poison: (values[poison, NOMINAL], values[poison, name])
            for poison in poisons
            if name is not None and (poison, NOMINAL) in values and (poison, name) in values
        }
    )
    sentences = [
        _poison_sentence(effects, bool(poisons)),
        _defense_sentence(values, gains, name),
    ]
    if not values:
        return [*sentences, "Nothing follows, because no similarity was measured."]
    concepts = len({row.concept for row in ours if row.metric == SIMILARITY})
    seeds = len({row.seed for row in ours if row.metric == SIMILARITY})
    model, method = settings[0]
    return [
        *sentences,
        f"So here {_verdict(values, effects, gains, name)}; this rests on "
        f"{count(concepts, 'concept')} and {count(seeds, 'seed')} of {method} on {model} and says "
        "nothing about other models, methods or objects.",
    ]
