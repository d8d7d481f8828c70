"""Three sentences, and each says what the numbers say, also when they contradict the paper."""

from collections.abc import Callable

import pytest

from safezone.results.meaning import meaning_sentences
from safezone.scores.rows import Row

Make = Callable[..., list[Row]]

CASES = {
    "as in the paper": (
        {("clean", "nominal"): 0.45, ("adm+", "nominal"): 0.05, ("adm+", "szt"): 0.50},
        ["fell from 0.4", "raised it from 0.0", "protection of ADM+ did not hold against SZT"],
    ),
    "in part": (
        {("clean", "nominal"): 0.45, ("adm+", "nominal"): 0.05, ("adm+", "szt"): 0.20},
        ["fell from", "raised it from", "that of ADM+ was undone by SZT in part"],
    ),
    "no poison effect": (
        {("clean", "nominal"): 0.45, ("ea", "nominal"): 0.45, ("ea", "szt"): 0.45},
        ["changed within noise", "changed it within noise", "effect of the poisons is not shown"],
    ),
    "the poison helps": (
        {("clean", "nominal"): 0.30, ("ea", "nominal"): 0.45, ("ea", "szt"): 0.45},
        ["rose from", "changed it within noise", "effect of the poisons is not shown"],
    ),
    "the defense harms": (
        {("clean", "nominal"): 0.45, ("ea", "nominal"): 0.25, ("ea", "szt"): 0.05},
        ["fell from", "lowered it from", "that SZT undoes the protection of EA is not shown"],
    ),
    "another defense is tied": (
        {
            ("clean", "nominal"): 0.45,
            ("ea", "nominal"): 0.05,
            ("ea", "t600"): 0.45,
            ("ea", "szt"): 0.45,
        },
        ["fell", "it is tied with T600 under EA", "did not hold"],
    ),
    "another defense is better": (
        {
            ("clean", "nominal"): 0.45,
            ("ea", "nominal"): 0.05,
            ("ea", "lm"): 0.45,
            ("ea", "szt"): 0.25,
        },
        ["fell", "it is shown to be worse than LM under EA", "in part"],
    ),
    "without SZT": (
        {
            ("clean", "nominal"): 0.45,
            ("ea", "nominal"): 0.05,
            ("ea", "lm"): 0.2,
            ("ea", "t600"): 0.4,
        },
        ["fell", "The best defense measured, T600, raised it", "by T600 in part"],
    ),
    "without a defense": (
        {("clean", "nominal"): 0.45, ("ea", "nominal"): 0.05},
        ["fell", "No defense was measured", "stands, since no defense was tried"],
    ),
    "without clean": (
        {("ea", "nominal"): 0.05, ("ea", "szt"): 0.45},
        ["cannot be told", "raised it", "not shown"],
    ),
    "without a poison": (
        {("clean", "nominal"): 0.45, ("clean", "szt"): 0.45},
        ["No poison was measured", "No defense was measured", "not shown"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_sentences_follow_the_numbers(name: str, make: Make) -> None:
    means, parts = CASES[name]
    sentences = meaning_sentences(make(means))
    assert len(sentences) == 3
    for sentence, part in zip(sentences, parts, strict=True):
        assert part in sentence
        assert sentence.endswith(".") and "nan" not in sentence
        assert "  " not in sentence and ". " not in sentence
    assert "6 concepts and 2 seeds of textual-inversion on mini" in sentences[2]


def test_nothing_measured() -> None:
    sentences = meaning_sentences([])
    assert len(sentences) == 3 and "Nothing follows" in sentences[2]


def test_one_concept_shows_nothing(make: Make) -> None:
    means = CASES["as in the paper"][0]
    sentences = meaning_sentences(make(means, concepts=1, seeds=1))
    assert "changed within noise" in sentences[0] and "no interval" in sentences[0]
    assert "1 concept and 1 seed" in sentences[2]


def test_what_a_defense_takes_has_a_true_minus(make: Make) -> None:
    means = {("clean", "nominal"): 0.45, ("adm+", "nominal"): 0.15, ("adm+", "szt"): 0.05}
    given_back = meaning_sentences(make(means))[1].partition("giving back ")[2]
    assert given_back.startswith("−") and "-" not in given_back


def test_poisons_are_told_apart(make: Make) -> None:
    means = {("clean", "nominal"): 0.45, ("clean", "szt"): 0.5}
    for poison, harm in (("adm+", 0.4), ("ea", 0.2), ("da", 0.0)):
        means |= {(poison, "nominal"): 0.45 - harm, (poison, "szt"): 0.48}
    sentences = meaning_sentences(make(means))
    fell, within = sentences[0].split("; it changed within noise ")
    assert "ADM+" in fell and "EA" in fell and "DA" in within
    assert "% of what ADM+ took and" in sentences[1] and "of what DA took" not in sentences[1]
    assert "protection of ADM+ and EA did not hold" in sentences[2]


def test_what_is_said_of_other_defenses_is_shown_of_each() -> None:
    """One that differs from SZT within noise isn't said to be better, beside one that is."""
    spread = (0.3, -0.3, 0.25, -0.25, 0.2, -0.2, 0.28, -0.28)
    cells = {"szt": (0.75, 0.0), "jpeg": (0.85, 0.0), "t600": (0.78, 1.0)}
    rows = []
    for place, each in enumerate(spread):
        small, concept = 0.001 * place, f"c{place}"
        made = {("clean", "nominal"): 0.9, ("ea", "nominal"): 0.4 + small}
        made |= {("ea", d): level + wide * each + small**2 for d, (level, wide) in cells.items()}
        for (poison, defense), value in made.items():
            run = (concept, poison, defense, "textual inversion", "mini", 0)
            rows.append(Row(*run, "instance_similarity", value, 12, 5))
    (_, sentence, *_) = meaning_sentences(rows)
    assert "shown to be worse than JPEG under EA" in sentence
    assert "T600" not in sentence
