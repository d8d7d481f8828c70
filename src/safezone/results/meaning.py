"""Three sentences that follow from measured rows alone, and what else a reader has to know."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from safezone import __version__
from safezone.fields import plural
from safezone.lab.presets import kind_of
from safezone.results.comparisons import recovery_of
from safezone.results.published import Published
from safezone.results.statistics import (
    ByConcept,
    Difference,
    holm,
    matched,
    mean_over_concepts,
    paired_difference,
    tied_best,
)
from safezone.results.tables import (
    SIMILARITY,
    CellKey,
    by_setting,
    label,
    method_label,
    number,
)
from safezone.scores.rows import CLEAN, NOMINAL, Row, summarise

SZT: Final = "szt"
MINI_LIMITS: Final = (
    "The built-in model was trained on a small procedural world of flat, coloured objects on eight "
    "backgrounds: it cannot draw photographs, faces, text or any other object, so what it makes of "
    "real photographs shows that the steps run, not whether a protection holds"
)
_GIVEN: Final = (
    "The protected images were given, not made here; what is known of the model that they were "
    "made on stands above, beside the verdict."
)
_ALPHA: Final = 0.05
_CLEAN_NOMINAL: Final = (CLEAN, NOMINAL)

_Values: TypeAlias = Mapping[tuple[str, ...], ByConcept]
"""{(poison, defense): {concept: {seed: value}}}."""


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


def _changes(values: _Values, pairs: Mapping[str, tuple[CellKey, CellKey]]) -> list[_Change]:
    """From the first cell of each pair to the second, over what both were measured on, by poison.

    Pairs of which one was not measured are left out; Holm-corrected for the number of the others.
    """
    differences, means = {}, {}
    for name, pair in pairs.items():
        before, after = (values.get(key, {}) for key in pair)
        if not before.keys() & after.keys():
            continue
        first, last = np.array([each.mean(axis=0) for each in matched(before, after)]).mean(axis=0)
        means[name] = float(first), float(last)
        differences[name] = paired_difference(after, before)
    adjusted = holm({name: difference.p_value for name, difference in differences.items()})
    return [
        _Change(name, *means[name], difference, adjusted[name] < _ALPHA)
        for name, difference in differences.items()
    ]


def _join(parts: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _labels(names: Iterable[str]) -> str:
    return _join([label(name) for name in names])


def _story(changes: Sequence[_Change], down: str, up: str, noise: str) -> str:
    """Clauses for what went down, what went up and what is within noise."""
    groups: dict[str, list[str]] = {down: [], up: [], noise: []}
    for change in changes:
        verb = noise if not change.shown else down if change.difference.mean < 0 else up
        groups[verb].append(change.text())
    clauses = [f"{verb} {_join(texts)}" for verb, texts in groups.items() if texts]
    return "; it ".join(clauses)


def _rivals(values: _Values, poisons: Sequence[str], name: str) -> list[str]:
    """Clauses on the other defenses that are shown to be better than ``name``, or, where none is,
    among the best as it is: each compared with it, Holm-corrected for their number."""
    standings: dict[str, list[str]] = {}
    for poison in poisons:
        cells = {d: cell for (p, d), cell in values.items() if p == poison and d != NOMINAL}
        pairs = {each: ((poison, each), (poison, name)) for each in cells if each != name}
        changes, best = _changes(values, pairs), tied_best(cells)
        better = [each.name for each in changes if each.shown and each.difference.mean < 0]
        tied = [each.name for each in changes if not each.shown and each.name in best]
        if better:
            clause = f"shown to be worse than {_labels(better)}"
        elif tied:
            clause = f"tied with {_labels(tied)}"
        else:
            continue
        standings.setdefault(clause, []).append(poison)
    return [f"it is {clause} under {_labels(names)}" for clause, names in standings.items()]


def _best_defense(values: _Values, poisons: Sequence[str]) -> str | None:
    """SZT, else the defense with the best mean over the poisons that it was measured under."""
    names = dict.fromkeys(d for p, d in values if p in poisons and d != NOMINAL)
    if SZT in names or not names:
        return SZT if names else None

    def mean(name: str) -> float:
        cells = [values[poison, name] for poison in poisons if (poison, name) in values]
        return sum(mean_over_concepts(cell) for cell in cells) / len(cells)

    return max(names, key=mean)


def _defense_sentence(values: _Values, gains: Sequence[_Change], name: str | None) -> str:
    if name is None or not gains:
        return "No defense was measured beside nominal training, so nothing was given back."
    who = "Safe-Zone Training" if name == SZT else f"The best defense measured, {label(name)},"
    story = _story(gains, "lowered it", "raised it", "changed it within noise")
    shares = [
        f"{number(100 * share.mean, 0)}% of what {label(gain.name)} took"
        for gain in gains
        if (share := recovery_of(values, gain.name, name)) is not None
    ]
    back = f", giving back {_join(shares)}" if shares else ""
    rivals = _rivals(values, [gain.name for gain in gains], name)
    return "; ".join([f"{who} {story}{back}", *rivals]) + "."


def _verdict(
    values: _Values, effects: Sequence[_Change], gains: Sequence[_Change], name: str | None
) -> str:
    protecting = [effect.name for effect in effects if effect.shown and effect.difference.mean < 0]
    if not protecting:
        return "a protective effect of the poisons is not shown, so there is none to undo"
    if name is None:
        return f"the protection of {_labels(protecting)} stands, since no defense was tried"
    raised = {gain.name for gain in gains if gain.shown and gain.after > gain.before}
    rest = _changes(values, {poison: (_CLEAN_NOMINAL, (poison, name)) for poison in protecting})
    below = {change.name for change in rest if change.shown and change.difference.mean < 0}
    full = [poison for poison in protecting if poison in raised - below]
    partly = [poison for poison in protecting if poison in raised & below]
    held = [poison for poison in protecting if poison not in raised]
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
    settings = by_setting(rows)
    ours = next(iter(settings.values()), [])
    values: _Values = summarise(ours, SIMILARITY)
    poisons = [poison for poison in dict.fromkeys(p for p, _ in values) if poison != CLEAN]
    effects = _changes(values, {poison: (_CLEAN_NOMINAL, (poison, NOMINAL)) for poison in poisons})
    name = _best_defense(values, poisons)
    gains = []
    if name is not None:
        gains = _changes(values, {p: ((p, NOMINAL), (p, name)) for p in poisons})
    taken = (
        "What the poisons took cannot be told, because nominal training was not measured on both "
        "clean and poisoned images of the same concepts."
    )
    if not poisons:
        taken = "No poison was measured, so this report says nothing about protection."
    elif effects:
        story = _story(effects, "fell", "rose", "changed within noise")
        taken = f"Trained without a defense, similarity to the clean object {story}."
    sentences = [taken, _defense_sentence(values, gains, name)]
    if not values:
        return [*sentences, "Nothing follows, because no similarity was measured."]
    concepts = len({row.concept for row in ours if row.metric == SIMILARITY})
    seeds = len({row.seed for row in ours if row.metric == SIMILARITY})
    model, method = next(iter(settings))
    return [
        *sentences,
        f"So here {_verdict(values, effects, gains, name)}; this rests on "
        f"{plural(concepts, 'concept')} and {plural(seeds, 'seed')} of {method_label(method)} on "
        f"{model} and says nothing about other models, methods or objects.",
    ]


def caveats(rows: Sequence[Row], photographs: bool, *, made_here: bool = True) -> list[str]:
    """Which world the numbers are of, and whether they are too few.

    ``made_here``: whether the poisons were, rather than given as images of any tool.
    """
    result = []
    if photographs:
        result.append(MINI_LIMITS + ".")
    elif any(kind_of(row.model) == "mini" for row in rows):
        result.append(
            "Measured on the built-in model of a procedural world: the same code runs on Stable "
            "Diffusion, the numbers do not carry over."
        )
    if any(row.poison != CLEAN for row in rows):
        result.append(poison_note(rows) if made_here else _GIVEN)
    concepts, seeds = len({row.concept for row in rows}), len({row.seed for row in rows})
    if rows and (concepts < 6 or seeds < 2):
        result.append(
            f"{plural(concepts, 'concept')} and {plural(seeds, 'seed')}: "
            "too few to tell small differences from noise."
        )
    return result


def poison_note(rows: Sequence[Row]) -> str:
    """Whether the poisons were made on the model that met them."""
    poisoned = [row for row in rows if row.poison != CLEAN]
    carried = {row.poison_model: None for row in poisoned if row.poison_model}
    if not carried:
        return "White box: the poisons were made on the model that was personalized."
    met = ", ".join(dict.fromkeys(row.model for row in poisoned if row.poison_model))
    rest = "" if all(row.poison_model for row in poisoned) else ", some; the others are white box"
    return f"Carried over: the poisons were made on {', '.join(carried)} and met by {met}{rest}."


def paper_notes(papers: Mapping[str, Published]) -> list[str]:
    """What has to be known before the paper's numbers are compared with ours."""
    if not papers:
        return []
    first = next(iter(papers.values()))
    result = [
        f"The paper's numbers are of {method_label(first.method)} on {first.model} and "
        f"{first.dataset}, without error bars or seeds; cells that it ran twice differ by up to "
        "0.03 DINOv2 similarity, 16 FID and 0.04 CLIP score."
    ]
    if "frechet" in papers:
        result.append(
            "The Fréchet distance here is of the instance encoder's features, not of Inception's: "
            "compare the order of its values with that of the paper's FID, not the values. FID "
            "itself is measured with --inception-encoder, from which file is in the settings."
        )
    return [*result, *dict.fromkeys(paper.note for paper in papers.values() if paper.note)]


def pooled_notes(cells: Iterable[Mapping[str, Any]]) -> list[str]:
    """The FID of each cell over all concepts and seeds, one sentence for a method and model."""
    parts: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        parts.setdefault((cell["method"], cell["model"]), []).append(
            f"{label(cell['poison'])}, {label(cell['defense'])} {number(cell['value'], 1)} "
            f"({cell['n_generated']} generated, {cell['n_reference']} reference images)"
        )
    return [
        f"FID over all concepts and seeds at once, {method_label(method)} on {model}: "
        f"{'; '.join(values)}."
        for (method, model), values in parts.items()
    ]


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    result = {"safezone": __version__}
    for name in ("torch", "diffusers", "transformers", "pillow", "numpy"):
        try:
            result[name] = version(name)
        except PackageNotFoundError:
            continue
    return result


def duration_text(seconds: float) -> str:
    """``48 s``, ``12 min 5 s``, ``3 h 2 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
