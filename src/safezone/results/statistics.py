"""Intervals, differences and ties over concepts; the seeds of a concept are nested in it.

What belongs to a defense is ``Mapping[concept, Mapping[seed, value]]``. The unit is the concept:
more seeds make a concept's mean surer, they do not make more concepts.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

ByConcept: TypeAlias = Mapping[str, Mapping[int, float]]
"""{concept: {seed: value}}; no concept without a value, all values finite."""

Key = TypeVar("Key")

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 4000
SEED: Final = 20250
"""The bootstrap's fixed seed: the same values always give the same interval."""
_TAIL: Final = (1 - CONFIDENCE) / 2


class Interval(NamedTuple):
    """A mean with its interval; ``low`` and ``high`` are NaN with fewer than two concepts."""

    mean: float
    low: float
    high: float


class Difference(NamedTuple):
    """A mean of paired differences, its interval, its two-sided p value and what it rests on."""

    mean: float
    low: float
    high: float
    p_value: float
    n_concepts: int

    @property
    def excludes_zero(self) -> bool:
        """Whether zero is outside the interval; False where there is none."""
        return self.low > 0 or self.high < 0


def _arrays(values: ByConcept) -> list[NDArray[np.float64]]:
    arrays = [np.array([*seeds.values()], dtype=np.float64) for seeds in values.values()]
    if not arrays or any(len(seeds) == 0 for seeds in arrays):
        raise ValueError("no concept, or a concept without a value")
    if not all(np.isfinite(seeds).all() for seeds in arrays):
        raise ValueError("values are finite; leave failed runs out")
    return arrays


def _resampled_means(
    concepts: Sequence[NDArray[np.float64]], resamples: int
) -> NDArray[np.float64]:
    """Means over redrawn concepts, each a mean over its redrawn seeds; [resamples, ...].

    ``concepts[c]``: [seeds, ...], trailing axes are redrawn together.
    """
    generator = np.random.default_rng(SEED)
    drawn = generator.integers(len(concepts), size=(resamples, len(concepts)))
    means = np.empty((*drawn.shape, *concepts[0].shape[1:]))
    for index, seeds in enumerate(concepts):
        places = drawn == index
        picks = generator.integers(len(seeds), size=(int(places.sum()), len(seeds)))
        means[places] = seeds[picks].mean(axis=1)
    result: NDArray[np.float64] = means.mean(axis=1)
    return result


def mean_over_concepts(values: ByConcept) -> float:
    """The mean over concepts of the means over seeds; ValueError as for ``mean_interval``."""
    return float(np.mean([seeds.mean() for seeds in _arrays(values)]))


def mean_interval(values: ByConcept, *, resamples: int = RESAMPLES) -> Interval:
    """The mean over concepts of the means over seeds, with its bootstrap interval.

    Concepts are redrawn, then the seeds within each. The percentiles are stretched around the
    mean by sqrt(k / (k - 1)) t / z for k concepts, because a plain percentile interval of few
    concepts is too short (Hesterberg 2015): for normal values it is then Student's. NaN limits
    for one concept. Raises ValueError for no values or values that are not finite.
    """
    return _interval(_arrays(values), resamples)


def _interval(concepts: Sequence[NDArray[np.float64]], resamples: int) -> Interval:
    mean, count = float(np.mean([seeds.mean() for seeds in concepts])), len(concepts)
    if count < 2:
        return Interval(mean, math.nan, math.nan)
    return _stretched(mean, _resampled_means(concepts, resamples), count)


def _stretched(value: float, drawn: NDArray[np.float64], count: int) -> Interval:
    """The value with the percentiles of its draws, stretched around it for so many concepts."""
    stretch = math.sqrt(count / (count - 1)) * stats.t.isf(_TAIL, count - 1) / stats.norm.isf(_TAIL)
    low, high = (float(limit) for limit in np.quantile(drawn, [_TAIL, 1 - _TAIL]))
    return Interval(value, value + stretch * (low - value), value + stretch * (high - value))


def matched(*sides: ByConcept) -> list[NDArray[np.float64]]:
    """[seeds, sides] of each concept that all sides have, seed by seed.

    Where a side lacks a seed that another has, because its run failed or was not asked for, the
    concept counts once, by each side's mean over all of its own seeds. Raises ValueError when no
    concept is in all.
    """
    for side in sides:
        _arrays(side)
    result = []
    for concept in sides[0]:
        if any(concept not in side for side in sides):
            continue
        own = [side[concept] for side in sides]
        if all(each.keys() == own[0].keys() for each in own):
            result.append(np.array([[each[seed] for seed in own[0]] for each in own]).T)
        else:
            result.append(np.array([[np.mean([*each.values()]) for each in own]]))
    if not result:
        raise ValueError("the sides have no concept in common")
    return result


def _student_p_value(means: NDArray[np.float64]) -> float:
    """Two-sided, for a mean of zero; 1 for a single number.

    Not ``stats.ttest_1samp``, which warns where values differ by rounding alone.
    """
    if len(means) < 2:
        return 1.0
    error = float(means.std(ddof=1)) / math.sqrt(len(means))
    if error == 0:
        return 0.0 if means[0] else 1.0
    return float(2 * stats.t.sf(abs(float(means.mean())) / error, len(means) - 1))


def paired_difference(
    values: ByConcept, reference: ByConcept, *, resamples: int = RESAMPLES
) -> Difference:
    """values - reference on the concepts of both, which ``matched`` pairs.

    The interval is ``mean_interval``'s; the p value is that of Student's t on the concepts' mean
    differences (1 for a single concept: one concept shows no difference). Raises ValueError when
    no concept is in both.
    """
    differences = [each[:, 0] - each[:, 1] for each in matched(values, reference)]
    means = np.array([seeds.mean() for seeds in differences])
    return Difference(*_interval(differences, resamples), _student_p_value(means), len(means))


def recovery(
    clean: ByConcept,
    poisoned: ByConcept,
    defended: ByConcept,
    *,
    higher_is_better: bool = True,
) -> Interval | None:
    """(defended - poisoned) / (clean - poisoned), a ratio of means over the concepts of all three
    (``matched``).

    1: the defense gave back all that the poison took. None where the poison is not shown to take
    anything: the interval of the denominator holds zero or lies on the other side of it, or there
    is one concept only. Limits: percentiles of the ratio over redrawn concepts and seeds, stretched
    as those of ``mean_interval``. Raises ValueError when no concept is in all three.
    """
    triples = matched(clean, poisoned, defended)
    loss = _interval([each[:, 0] - each[:, 1] for each in triples], RESAMPLES)
    if not (loss.low > 0 if higher_is_better else loss.high < 0):
        return None
    whole = np.array([triple.mean(axis=0) for triple in triples]).mean(axis=0)
    means = np.vstack([_resampled_means(triples, RESAMPLES), whole])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (means[:, 2] - means[:, 1]) / (means[:, 0] - means[:, 1])
    drawn = ratios[:-1]
    return _stretched(float(ratios[-1]), drawn[np.isfinite(drawn)], len(triples))


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """p values adjusted for their number (Holm 1979), at most 1, in the order given."""
    adjusted: dict[Key, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def tied_best(
    candidates: Mapping[str, ByConcept], *, higher_is_better: bool = True
) -> frozenset[str]:
    """The candidate with the best mean and all those that are not shown to be worse.

    A candidate is shown to be worse when its paired difference to the best, on the concepts of
    both, is on the worse side and its Holm-adjusted p value below 0.05. With one concept, or none
    in common, all are tied.
    """
    if not candidates:
        return frozenset()
    sign = 1 if higher_is_better else -1
    means = {name: mean_over_concepts(values) for name, values in candidates.items()}
    best = max(means, key=lambda name: sign * means[name])
    differences = {
        name: paired_difference(values, candidates[best], resamples=1)
        for name, values in candidates.items()
        if name != best and set(values) & set(candidates[best])
    }
    adjusted = holm({name: each.p_value for name, each in differences.items()})
    worse = {
        name
        for name, each in differences.items()
        if adjusted[name] < 1 - CONFIDENCE and sign * each.mean < 0
    }
    return frozenset(candidates) - worse
