"""Differences, recovery and worst cases of a table with known answers."""

import csv
import io

import pytest

from safezone.results.comparisons import (
    best_attacks,
    compare,
    comparisons_csv,
    weakest_points,
    with_average,
    worst_cases_csv,
)
from safezone.results.statistics import holm
from safezone.scores import Row

METRIC = "instance_similarity"
MEANS = {
    ("clean", "nominal"): 0.8,
    ("clean", "szt"): 0.8,
    ("clean", "jpeg"): 0.8,
    ("a", "nominal"): 0.2,
    ("a", "szt"): 0.5,
    ("a", "jpeg"): 0.2,
    ("b", "nominal"): 0.6,
    ("b", "szt"): 0.75,
    ("b", "jpeg"): 0.4,
}


def rows() -> list[Row]:
    """Eight concepts, two seeds; concepts differ much, differences to the reference little."""
    found = []
    for (poison, defense), mean in MEANS.items():
        for c in range(8):
            for seed in range(2):
                wave = 0.01 * ((c * 7 + seed * 3 + len(defense) * 5) % 5 - 2)
                value = mean + 0.02 * (c - 3.5) + (wave if defense != "nominal" else 0)
                cell = (f"c{c}", poison, defense, "m", "mini", seed, METRIC)
                found.append(Row(*cell, value, 6, 5))
    return found


def test_differences_are_paired_and_adjusted_over_the_poisons() -> None:
    found = {(c.poison, c.defense): c for c in compare(rows(), METRIC)}
    assert set(found) == {key for key in MEANS if key[1] != "nominal"}
    szt = found["a", "szt"]
    assert szt.difference.mean == pytest.approx(0.3, abs=0.02)
    assert szt.difference.high - szt.difference.low < 0.04  # unpaired it would be above 0.06
    assert not szt.tied
    assert found["a", "jpeg"].tied
    assert not found["b", "jpeg"].tied
    family = {p: found[p, "jpeg"].difference.p_value for p in ("clean", "a", "b")}
    assert {p: found[p, "jpeg"].p_holm for p in family} == holm(family)


def test_recovery_is_the_returned_share_of_what_was_taken() -> None:
    found = {(c.poison, c.defense): c.recovery for c in compare(rows(), METRIC)}
    returned = found["a", "szt"]
    assert returned is not None
    assert returned.mean == pytest.approx(0.5, abs=0.03)
    assert returned.low < returned.mean < returned.high
    assert found["clean", "szt"] is None


def test_the_worst_case_of_a_poison_is_over_all_defenses_and_of_a_defense_over_all_poisons() -> (
    None
):
    attacks = {case.of: case for case in best_attacks(rows(), METRIC, True)}
    assert {poison: case.chosen for poison, case in attacks.items()} == {"a": "szt", "b": "szt"}
    assert attacks["a"].tied == ()
    weakest = {case.of: case for case in weakest_points(rows(), METRIC, True)}
    assert {name: case.chosen for name, case in weakest.items()} == {
        "nominal": "a",
        "szt": "a",
        "jpeg": "a",
    }
    assert weakest["nominal"].recovery is None
    lower = {case.of: case.chosen for case in best_attacks(rows(), METRIC, False)}
    assert lower["b"] == "jpeg"


def test_what_is_not_shown_to_differ_is_tied_with_the_worst_case() -> None:
    noisy = [r for r in rows() if r.defense != "szt"]
    (a, _) = best_attacks(noisy, METRIC, True)
    assert {a.chosen, *a.tied} == {"nominal", "jpeg"}


def test_the_average_needs_every_poison() -> None:
    whole = with_average(rows(), "mean")
    of = {(r.concept, r.defense, r.seed): r.value for r in whole if r.poison == "mean"}
    assert len(of) == 8 * 3 * 2
    pair = [r.value for r in rows() if (r.concept, r.defense, r.seed) == ("c1", "szt", 1)][1:]
    assert of["c1", "szt", 1] == pytest.approx(sum(pair) / 2)
    less = [r for r in rows() if (r.poison, r.concept) != ("b", "c1")]
    assert not [r for r in with_average(less, "mean") if (r.poison, r.concept) == ("mean", "c1")]


def test_the_files_have_a_line_each() -> None:
    compared = list(csv.DictReader(io.StringIO(comparisons_csv(compare(rows(), METRIC)))))
    assert len(compared) == 6
    assert float(compared[0]["low"]) <= float(compared[0]["difference"])
    cases = worst_cases_csv(
        best_attacks(rows(), METRIC, True), weakest_points(rows(), METRIC, True)
    )
    kinds = [line["kind"] for line in csv.DictReader(io.StringIO(cases))]
    assert kinds == ["best attack"] * 2 + ["weakest point"] * 3
