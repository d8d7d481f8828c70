"""Differences, recovery and worst cases of a table with known answers."""

import csv
import io
import math
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from safezone.results.comparisons import (
    compare,
    effects,
    ratios_markdown,
    with_average,
    worst_cases,
)
from safezone.results.statistics import holm
from safezone.results.tables import csv_of
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


def lines_of(frame: pd.DataFrame) -> list[Any]:
    return list(frame.itertuples())


def test_differences_are_paired_and_adjusted_over_the_poisons() -> None:
    found = {(c.poison, c.defense): c for c in lines_of(compare(rows(), METRIC))}
    assert set(found) == {key for key in MEANS if key[1] != "nominal"}
    szt = found["a", "szt"]
    assert szt.difference == pytest.approx(0.3, abs=0.02)
    assert szt.high - szt.low < 0.04  # unpaired it would be above 0.06
    assert not szt.tied
    assert found["a", "jpeg"].tied
    assert not found["b", "jpeg"].tied
    family = {p: found[p, "jpeg"].p for p in ("clean", "a", "b")}
    assert {p: found[p, "jpeg"].p_holm for p in family} == holm(family)


def test_recovery_is_the_returned_share_of_what_was_taken() -> None:
    found = {(c.poison, c.defense): c for c in lines_of(compare(rows(), METRIC))}
    returned = found["a", "szt"]
    assert returned.recovery == pytest.approx(0.5, abs=0.03)
    assert returned.recovery_low < returned.recovery < returned.recovery_high
    assert math.isnan(found["clean", "szt"].recovery)


def cases(rows: list[Row], higher: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Best attacks by poison and weakest points by defense."""
    frame = worst_cases(rows, METRIC, higher)
    return (
        {case.of: case for case in lines_of(frame[frame.kind == "best attack"])},
        {case.of: case for case in lines_of(frame[frame.kind == "weakest point"])},
    )


def test_the_worst_case_of_a_poison_is_over_all_defenses_and_of_a_defense_over_all_poisons() -> (
    None
):
    attacks, weakest = cases(rows(), True)
    assert {poison: case.at for poison, case in attacks.items()} == {"a": "szt", "b": "szt"}
    assert attacks["a"].tied_with == ()
    assert {name: case.at for name, case in weakest.items()} == {
        "nominal": "a",
        "szt": "a",
        "jpeg": "a",
    }
    assert math.isnan(weakest["nominal"].recovery)
    assert cases(rows(), False)[0]["b"].at == "jpeg"


def test_what_is_not_shown_to_differ_is_tied_with_the_worst_case() -> None:
    attacks, _ = cases([r for r in rows() if r.defense != "szt"], True)
    assert {attacks["a"].at, *attacks["a"].tied_with} == {"nominal", "jpeg"}


def test_the_average_needs_every_poison() -> None:
    whole = with_average(rows(), "mean")
    of = {(r.concept, r.defense, r.seed): r.value for r in whole if r.poison == "mean"}
    assert len(of) == 8 * 3 * 2
    pair = [r.value for r in rows() if (r.concept, r.defense, r.seed) == ("c1", "szt", 1)][1:]
    assert of["c1", "szt", 1] == pytest.approx(sum(pair) / 2)
    less = [r for r in rows() if (r.poison, r.concept) != ("b", "c1")]
    assert not [r for r in with_average(less, "mean") if (r.poison, r.concept) == ("mean", "c1")]


def test_the_files_have_a_line_each() -> None:
    compared = list(csv.DictReader(io.StringIO(csv_of(compare(rows(), METRIC)))))
    assert len(compared) == 6
    assert float(compared[0]["low"]) <= float(compared[0]["difference"])
    assert list(compared[0])[5:9] == ["p", "p_holm", "tied", "n_concepts"]
    text = csv_of(worst_cases(rows(), METRIC, True))
    kinds = [line["kind"] for line in csv.DictReader(io.StringIO(text))]
    assert kinds == ["best attack"] * 2 + ["weakest point"] * 3
    for frame in (compare([], METRIC), worst_cases([], METRIC, True)):
        assert len(frame) == 0 and csv_of(frame).count("\n") == 1


def test_effects_are_shares_of_the_clean_similarity() -> None:
    means = {("clean", "nominal"): 0.8, ("adm+", "nominal"): 0.2, ("adm+", "szt"): 0.5}
    rows = [
        Row(f"c{c}", p, d, "ti", "m", s, "instance_similarity", mean + 0.001 * c, 1, 1)
        for (p, d), mean in means.items()
        for c in range(5)
        for s in range(2)
    ]
    (effect,) = effects(rows)
    assert effect.taken is not None
    assert effect.taken.mean == pytest.approx(0.75, abs=0.01)
    assert effect.taken.low <= effect.taken.mean <= effect.taken.high
    returned = effect.returned["szt"]
    assert returned is not None
    assert returned.mean == pytest.approx(0.5, abs=0.01)


def test_an_effect_within_noise_is_no_ratio() -> None:
    rows = [
        Row(f"c{c}", p, "nominal", "ti", "m", 0, "instance_similarity", value, 1, 1)
        for p, values in {"clean": (0.1, -0.1, 0.2), "adm+": (-0.1, 0.1, 0.1)}.items()
        for c, value in enumerate(values)
    ]
    (effect,) = effects(rows)
    assert effect.taken is None


def test_a_defense_returns_nothing_of_what_was_not_taken_or_not_measured() -> None:
    means = {
        ("clean", "nominal"): 0.3,
        ("raises", "nominal"): 0.5,
        ("raises", "szt"): 0.4,
        ("takes", "nominal"): 0.1,
        ("takes", "jpeg"): 0.2,
    }
    rows = [
        Row(f"c{c}", p, d, "ti", "m", 0, "instance_similarity", mean + 0.001 * c, 1, 1)
        for (p, d), mean in means.items()
        for c in range(5)
    ]
    raises, takes = effects(rows)
    assert raises.taken is not None and raises.taken.high < 0
    assert raises.returned == {"szt": None} and set(takes.returned) == {"jpeg"}
    lines = ratios_markdown(rows).splitlines()
    assert lines[2].endswith("| – | – |")
    assert lines[3].count("–") == 1 and "50%" in lines[3]
    assert all(math.isnan(line.recovery) for line in lines_of(compare(rows[:15], METRIC)))
    many = [replace(row, defense=f"steps={n}k") for n in range(13) for row in rows[-5:]]
    assert ratios_markdown([*rows, *many]).startswith("| Share | RAISES | TAKES |")
