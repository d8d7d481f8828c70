"""Entries: what is refused in a sentence, and what an entry says that its own numbers do not."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from board_entries import KEY, make_entry
from safezone.audit.entry import (
    LARGEST_ENTRY,
    contradictions,
    read_entry,
)
from safezone.audit.suites import OBJECT_SUITES, SUITES, object_suite
from safezone.cli import main
from safezone.concepts.datasets import BuiltinSet, miniworld_concepts
from safezone.errors import UserError
from safezone.files import write_json


def test_an_entry_is_read_as_it_was_written(tmp_path: Path) -> None:
    for attack in (None, "jpeg50+t500"):
        entry = make_entry(attack=attack)
        write_json(tmp_path / "entry.json", asdict(entry))
        assert read_entry(tmp_path / "entry.json") == entry
        assert contradictions(entry) == []


def _set(place: str, value: Any) -> Callable[[dict[str, Any]], object]:
    *path, last = place.split("/")

    def change(content: dict[str, Any]) -> None:
        for name in path:
            content = content[name]
        content[last] = value

    return change


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another form": (_set("form", "praise"), "form"),
    "no poison": (lambda content: content.pop("poison"), "poison"),
    "something more": (_set("code", "import os"), "code"),
    "a name that is a path": (_set("poison/name", "../../etc/passwd"), "poison.name"),
    "a name that is HTML": (_set("poison/name", "<script>"), "poison.name"),
    "a model that is a path": (_set("model", "/models/other"), "model"),
    "a hash that is none": (_set("hashes/model", "abc"), "hashes.model"),
    "a hash in capitals": (_set("poison/key", KEY.upper()), "poison.key"),
    "a number that is a text": (_set("plain/mean", "0.4"), "plain.mean"),
    "a similarity above one": (_set("plain/mean", 1.5), "plain.mean"),
    "NaN": (_set("worst/mean", float("nan")), "worst.mean"),
    "infinity": (_set("worst/high", float("inf")), "worst.high"),
    "a seed below zero": (_set("seed", -1), "seed"),
    "a seed that is true": (_set("seed", True), "seed"),
    "no measured values": (_set("measured", {}), "measured"),
    "measured as a list": (_set("measured", [1, 2]), "measured"),
    "a concept without values": (_set("measured/PartyBox", {"plain": []}), "measured"),
    "ten thousand trainings": (
        _set("measured/PartyBox", {f"t{n}": [0.1] for n in range(999)}),
        "measured",
    ),
    "escapes for the terminal": (_set("claimed/source", "\x1b[31mred"), "claimed.source"),
    "a text without end": (_set("claimed/source", "x" * 9999), "claimed.source"),
    "half a letter": (_set("claimed/source", "\ud800"), "Invalid JSON"),
    "an unknown suite": (_set("suite", "objects-999"), "objects-999"),
    "an attack that is none": (_set("form", "attack"), "attack"),
    "nothing": (lambda content: content.clear(), "form"),
}


def _one_sentence(text: str, word: str) -> None:
    assert word in text
    assert len(text) < 500
    assert text.isprintable()
    assert "Traceback" not in text


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_entry_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    change, word = HOSTILE[name]
    content = asdict(make_entry())
    change(json_copy := json.loads(json.dumps(content)))
    path = tmp_path / "entry.json"
    path.write_text(json.dumps(json_copy))
    with pytest.raises(UserError) as caught:
        read_entry(path)
    _one_sentence(str(caught.value), word)


NOT_JSON = {
    "text": b"hello",
    "a list": b"[1, 2]",
    "not UTF-8": b"\xff\xfe{",
    "nested": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "large": b" " * (LARGEST_ENTRY + 1),
    "a number of a thousand digits": b'{"seed": ' + b"9" * 5000 + b"}",
    "twice the same key": b'{"form": "protection", "form": "attack"}',
    "empty": b"",
}


@pytest.mark.parametrize("name", NOT_JSON)
def test_a_file_that_is_no_entry_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "entry.json"
    path.write_bytes(NOT_JSON[name])
    assert main(["verify", str(path), "--work", str(tmp_path / "work")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    _one_sentence(said.err.strip(), "entry.json")
    assert not (tmp_path / "work").exists()


_JSON = some.recursive(
    some.none() | some.booleans() | some.floats() | some.integers() | some.text(),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(), inner, max_size=3),
    max_leaves=6,
)
_PLACES = [*asdict(make_entry()), "measured/PartyBox", "hashes/images", "poison/name"]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=some.sampled_from(_PLACES), value=_JSON)
def test_whatever_stands_in_an_entry_is_read_or_refused_in_a_sentence(
    tmp_path: Path, place: str, value: Any
) -> None:
    content = json.loads(json.dumps(asdict(make_entry())))
    _set(place, value)(content)
    path = tmp_path / "entry.json"
    path.write_text(json.dumps(content))
    try:
        entry = read_entry(path)
    except UserError as error:
        _one_sentence(str(error), "entry.json")
    else:
        assert isinstance(contradictions(entry), list)


@pytest.mark.parametrize(
    ("place", "value", "word"),
    [
        ("plain/mean", 0.1, "plain does not follow"),
        ("worst/mean", 0.2, "worst does not follow"),
        ("worst/training", "jpeg", "worst does not follow"),
        ("clean/high", 1.0, "clean does not follow"),
        ("measured/PartyBox/szt", [0.1], "worst does not follow"),
        ("measured/PartyBox", {"plain": [0.1]}, "the trainings of"),
        ("measured/PartyBox/szt", [0.1, 0.1], "each of the seeds"),
        ("measured", {"PartyBox": {"plain": [0.1]}}, "the concepts of"),
        ("changes", {"PartyBox": {"largest": 16, "psnr": 30.0}}, "changes does not hold"),
        ("hashes/images", {"PartyBox": KEY}, "hashes.images does not hold"),
        ("seed", 1, "the seed is 1 and has to be 0"),
    ],
)
def test_a_number_that_does_not_follow_from_the_others_is_found(
    tmp_path: Path, place: str, value: Any, word: str
) -> None:
    content = json.loads(json.dumps(asdict(make_entry())))
    _set(place, value)(content)
    path = tmp_path / "entry.json"
    path.write_text(json.dumps(content))
    assert any(word in problem for problem in contradictions(read_entry(path)))


def test_suites_of_objects_are_of_built_in_concepts_and_never_change() -> None:
    """Whoever quotes a number of objects-1 means these; a change is another version."""
    known = {c.name for which in get_args(BuiltinSet) for c in miniworld_concepts(which=which)}
    for suite in OBJECT_SUITES.values():
        assert set(suite.concepts) <= known
        assert all("{}" in text for text in suite.sampling.templates())
    objects = OBJECT_SUITES["objects-1"]
    assert (len(objects.concepts), objects.images, objects.seeds) == (10, 5, 2)
    left = {each.name for each in SUITES["standard-1"].attackers} - {"upscale"}
    assert {each.name for each in objects.attackers.attackers} == left
    with pytest.raises(UserError, match="objects-1, objects-quick-1"):
        object_suite("objects")
