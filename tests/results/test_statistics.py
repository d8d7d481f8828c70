"""Intervals cover, seeds do not count as concepts, ties are ties."""

import math

import numpy as np
import pytest
from scipy import stats

from safezone.results.statistics import (
    holm,
    mean_interval,
    paired_difference,
    recovery,
    tied_best,
)


def nested(values: dict[str, list[float]]) -> dict[str, dict[int, float]]:
    """Seeds from 0."""
    return {concept: dict(enumerate(seeds)) for concept, seeds in values.items()}


def draw(
    generator: np.random.Generator,
    concepts: int,
    seeds: int,
    mean: float = 0.0,
    within: float = 0.5,
) -> dict[str, dict[int, float]]:
    """Normal concepts of unit spread around ``mean`` with normal seeds around each."""
    centres = generator.normal(mean, 1.0, concepts)
    return nested(
        {f"c{i}": generator.normal(c, within, seeds).tolist() for i, c in enumerate(centres)}
    )


@pytest.mark.parametrize(("concepts", "seeds"), [(3, 1), (5, 1), (5, 3), (10, 1), (10, 3)])
def test_intervals_cover_the_mean_of_all_concepts(concepts: int, seeds: int) -> None:
    generator = np.random.default_rng(concepts * 10 + seeds)
    covered = 0
    for _ in range(300):
        _, low, high = mean_interval(draw(generator, concepts, seeds), resamples=400)
        covered += low <= 0 <= high
    assert 0.91 <= covered / 300 <= 0.995


def test_more_seeds_do_not_make_more_concepts() -> None:
    values = {"a": [0.1], "b": [0.4], "c": [0.6], "d": [0.2]}
    few = mean_interval(nested(values))
    many = mean_interval(nested({concept: seeds * 50 for concept, seeds in values.items()}))
    assert many.high - many.low == pytest.approx(few.high - few.low, rel=0.05)


def test_the_interval_is_about_student_s() -> None:
    generator = np.random.default_rng(3)
    values = generator.normal(0.3, 0.1, 12)
    _, low, high = mean_interval({f"c{i}": {0: v} for i, v in enumerate(values)})
    expected = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
    assert (low, high) == pytest.approx(expected, abs=0.012)


def test_concepts_weigh_the_same_whatever_their_seeds() -> None:
    assert mean_interval(nested({"a": [1.0] * 9, "b": [0.0]})).mean == 0.5


def test_the_interval_is_reproducible() -> None:
    values = draw(np.random.default_rng(0), 6, 2)
    assert mean_interval(values) == mean_interval(values)


def test_one_concept_has_a_mean_and_no_interval() -> None:
    mean, low, high = mean_interval({"a": {0: 0.2, 1: 0.4}})
    assert mean == pytest.approx(0.3)
    assert math.isnan(low) and math.isnan(high)


@pytest.mark.parametrize("values", [{}, {"a": []}, {"a": [math.nan]}, {"a": [1.0, math.inf]}])
def test_values_that_are_none_are_refused(values: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError):
        mean_interval(nested(values))


def test_pairing_removes_what_concepts_share() -> None:
    generator = np.random.default_rng(1)
    base = draw(generator, 8, 2)
    better = {c: {seed: value + 0.1 for seed, value in of.items()} for c, of in base.items()}
    difference = paired_difference(better, base)
    assert difference.mean == pytest.approx(0.1)
    assert difference.excludes_zero and difference.high - difference.low < 1e-9
    assert mean_interval(base).high - mean_interval(base).low > 0.5


def test_the_p_value_is_the_paired_t_test_s() -> None:
    generator = np.random.default_rng(2)
    first, second = generator.normal(0.2, 1, 7), generator.normal(0, 1, 7)
    difference = paired_difference(
        {str(i): {0: v} for i, v in enumerate(first)},
        {str(i): {0: v} for i, v in enumerate(second)},
    )
    assert difference.p_value == pytest.approx(stats.ttest_rel(first, second).pvalue)
    assert difference.n_concepts == 7


@pytest.mark.parametrize(("shift", "expected"), [(0.0, 1.0), (0.5, 0.0)])
def test_p_value_of_differences_that_are_all_equal(shift: float, expected: float) -> None:
    values = nested({"a": [0.25], "b": [0.5]})
    moved = {concept: {0: seeds[0] + shift} for concept, seeds in values.items()}
    assert paired_difference(moved, values).p_value == expected


def test_only_common_concepts_are_compared() -> None:
    difference = paired_difference(
        nested({"a": [2.0, 4.0], "b": [9.0]}), nested({"a": [1.0, 3.0], "c": [0.0]})
    )
    assert difference.mean == 1.0
    assert (difference.n_concepts, difference.p_value) == (1, 1.0)
    assert not difference.excludes_zero
    with pytest.raises(ValueError, match="in common"):
        paired_difference({"a": {0: 1.0}}, {"b": {0: 1.0}})


def test_seeds_are_paired_by_their_number() -> None:
    """A seed moves both sides alike; their order does not count, and other seeds are no pairs."""
    values = {c: {0: 0.9, 1: 0.1, 2: 0.5} for c in "ab"}
    reference = {c: {2: 0.4, 1: 0.0, 0: 0.8} for c in "ab"}
    same = paired_difference(values, reference)
    assert same[:3] == pytest.approx((0.1, 0.1, 0.1))
    first = {c: {0: 0.9, 2: 0.5} for c in "ab"}  # seed 1 failed
    last = {c: {1: 0.0, 2: 0.4} for c in "ab"}  # seed 0 failed
    others = paired_difference(first, last)
    assert others[:3] == pytest.approx((0.5, 0.5, 0.5))  # by the means, not place by place
    result = recovery(first, last, {c: {0: 0.7, 2: 0.2} for c in "ab"})
    assert result is not None and result == pytest.approx((0.5, 0.5, 0.5))


def test_a_side_with_more_seeds_counts_by_its_mean() -> None:
    difference = paired_difference({"a": {0: 0.5, 1: 0.7}}, {"a": {0: 0.2}})
    assert difference.mean == pytest.approx(0.4)
    assert difference.n_concepts == 1


def test_equal_sides_are_not_different_too_often() -> None:
    generator = np.random.default_rng(4)
    hits = 0
    for _ in range(200):
        base = draw(generator, 5, 1)
        other = {concept: {0: v[0] + generator.normal(0, 0.3)} for concept, v in base.items()}
        hits += paired_difference(other, base, resamples=400).excludes_zero
    assert hits / 200 <= 0.1


def test_recovery_is_the_share_given_back() -> None:
    clean = {"a": {0: 0.8}, "b": {0: 0.7}, "c": {0: 0.9}}
    poisoned = {"a": {0: 0.2}, "b": {0: 0.1}, "c": {0: 0.3}}
    defended = {"a": {0: 0.5}, "b": {0: 0.4}, "c": {0: 0.6}}
    result = recovery(clean, poisoned, defended)
    assert result is not None
    assert result == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("clean", "poisoned"),
    [
        (
            {"a": {0: 0.5}, "b": {0: 0.3}, "c": {0: 0.4}},
            {"a": {0: 0.4}, "b": {0: 0.4}, "c": {0: 0.41}},
        ),
        ({"a": {0: 0.9}}, {"a": {0: 0.1}}),
        ({"a": {0: 0.5}, "b": {0: 0.5}}, {"a": {0: 0.5}, "b": {0: 0.5}}),
        ({"a": {0: 0.3}, "b": {0: 0.31}}, {"a": {0: 0.5}, "b": {0: 0.51}}),
    ],
)
def test_recovery_is_undefined_where_nothing_is_shown_to_be_taken(
    clean: dict[str, dict[int, float]], poisoned: dict[str, dict[int, float]]
) -> None:
    assert recovery(clean, poisoned, clean) is None


def test_of_a_distance_the_poison_takes_by_raising_it() -> None:
    clean, poisoned, defended = ({"a": {0: v}, "b": {0: v + 1.0}} for v in (10.0, 30.0, 15.0))
    result = recovery(clean, poisoned, defended, higher_is_better=False)
    assert result is not None and result.mean == pytest.approx(0.75)
    assert recovery(poisoned, clean, defended, higher_is_better=False) is None


def test_recovery_s_interval_holds_the_truth() -> None:
    generator = np.random.default_rng(6)
    base = generator.normal(0.2, 0.05, 10)
    clean, poisoned, defended = (
        nested({str(i): [*(b + lift + generator.normal(0, 0.05, 2))] for i, b in enumerate(base)})
        for lift in (0.5, 0.0, 0.4)
    )
    result = recovery(clean, poisoned, defended)
    assert result is not None and result.low < 0.8 < result.high
    assert result.high - result.low < 0.5


def test_recovery_s_interval_of_few_concepts_is_long_enough() -> None:
    """Plain percentiles hold the truth in fewer than 8 of 10 cases."""
    generator, hits, shown = np.random.default_rng(1), 0, 0
    for _ in range(300):
        clean, taken = generator.normal(0.7, 0.15, 4), generator.normal(0.28, 0.2, 4)
        given = generator.normal(0.8, 0.35, 4) * taken + generator.normal(0, 0.06, 4)
        sides = (clean, clean - taken, clean - taken + given)
        result = recovery(*({str(i): {0: float(v)} for i, v in enumerate(side)} for side in sides))
        if result is not None:
            shown += 1
            hits += result.low < 0.8 < result.high
    assert shown > 100
    assert hits / shown > 0.88


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ({}, {}),
        ({"a": 0.2}, {"a": 0.2}),
        ({"a": 0.01, "b": 0.04, "c": 0.03}, {"a": 0.03, "b": 0.06, "c": 0.06}),
        ({"a": 0.5, "b": 0.6}, {"a": 1.0, "b": 1.0}),
        (
            {"a": 0.01, "b": 0.013, "c": 0.014, "d": 0.19, "e": 0.35},
            {"a": 0.05, "b": 0.052, "c": 0.052, "d": 0.38, "e": 0.38},
        ),
    ],
)
def test_holm(p_values: dict[str, float], adjusted: dict[str, float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)
    assert list(holm(p_values)) == list(p_values)


CANDIDATES = {
    "nominal": {"a": {0: 0.10}, "b": {0: 0.05}, "c": {0: 0.12}, "d": {0: 0.08}},
    "szt": {"a": {0: 0.50}, "b": {0: 0.46}, "c": {0: 0.55}, "d": {0: 0.44}},
    "t600": {"a": {0: 0.48}, "b": {0: 0.47}, "c": {0: 0.52}, "d": {0: 0.46}},
}


def test_those_within_noise_of_the_best_are_tied() -> None:
    assert tied_best(CANDIDATES) == {"szt", "t600"}


def test_lower_may_be_better() -> None:
    assert tied_best(CANDIDATES, higher_is_better=False) == {"nominal"}


def test_what_is_better_on_the_concepts_of_both_is_not_shown_to_be_worse() -> None:
    """Measured on the hard concepts alone, its mean is lower all the same."""
    hard = {f"hard {i}": {0: 0.1 + 0.001 * i} for i in range(6)}
    easy = {f"easy {i}": {0: 0.9 + 0.001 * i} for i in range(4)}
    part = {name: {0: seeds[0] + 0.2 + 0.001 * (len(name) % 2)} for name, seeds in hard.items()}
    assert tied_best({"whole": {**hard, **easy}, "part": part}) == {"whole", "part"}


def test_with_one_concept_all_are_tied() -> None:
    assert tied_best({n: {"a": v["a"]} for n, v in CANDIDATES.items()}) == set(CANDIDATES)
    assert tied_best({}) == frozenset()
