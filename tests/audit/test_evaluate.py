"""Evaluate and verify in small: honest entries are within, whatever is tampered with is found."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from PIL import Image

from safezone.audit import suites
from safezone.audit.entry import (
    ATTACK,
    BoardEntry,
    Claimed,
    Code,
    contradictions,
    headline_numbers,
)
from safezone.audit.entry import training_names as names_of
from safezone.audit.evaluate import (
    Found,
    Subject,
    Trial,
    entry_of,
    evaluate,
    read_subject,
)
from safezone.audit.suites import SUITES, Attacker, ObjectSuite, Suite, picture_key
from safezone.audit.verify import Verdict, compared, drawn_concepts, tolerances, verify
from safezone.commands.entries import _source
from safezone.errors import UserError
from safezone.lab.settings import Poisoning, Sampling
from safezone.lab.training import Training
from safezone.models import Model
from small_lab import concept, small_lab

CONCEPTS = ("One", "Two")
_OF_QUICK = {each.name: each for each in SUITES["quick-1"].attackers}
ATTACKERS = (
    *(_OF_QUICK["plain"], _OF_QUICK["szt"]),
    Attacker("webp", "posted as WebP", posting="webp"),
)
TINY = ObjectSuite(
    "objects-tiny",
    concepts=CONCEPTS,
    images=2,
    attackers=Suite("tiny", ATTACKERS),
    seeds=1,
    poisoning=Poisoning(steps=2),
    training=Training(steps=2, batch_size=1, learning_rate=1e-2, runs_per_pass=8),
    sampling=Sampling(("a {}",), steps=2),
    spread=0.02,
)
"""Its spread is far above that of the tests' encoder, which sees three numbers of an image."""
POISON = """
from dataclasses import replace
from safezone.poisons import poison
ROW = replace(poison("ea"), name="mine")
"""
DEFENSE = """
from dataclasses import dataclass
from safezone.defenses import Defense

@dataclass(frozen=True)
class Darker:
    by: int = 5

    def __call__(self, images, seed):
        return images.int().sub(self.by).clamp(0, 255).to(images.dtype)

ROW = Defense("darker", preprocess=Darker())
"""


@pytest.fixture(scope="module", autouse=True)
def tiny_suite() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setattr(suites, "OBJECT_SUITES", MappingProxyType({TINY.name: TINY}))
    yield
    patch.undo()


def _trial(folder: Path, model: Model, seed: int = 0) -> Trial:
    lab = small_lab(folder, model)
    concepts = [concept(name, place) for place, name in enumerate(CONCEPTS)]
    settings = TINY.settings("tiny", seed)
    return Trial(replace(lab, settings=settings, concepts=TINY.chosen(concepts)), TINY, {}, seed)


def _measured(trial: Trial, subject: Subject) -> Found:
    return evaluate(replace(trial, wanted={subject: TINY.concepts}))[subject]


def _verdict(
    trial: Trial, entry: BoardEntry, subject: Subject, drawn: Sequence[str] = CONCEPTS
) -> Verdict:
    return verify(trial, {"entry": (subject, entry)}, drawn)["entry"]


@pytest.fixture(scope="module")
def adm() -> Subject:
    return read_subject(TINY, "adm+", None)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, tiny_model: Model) -> Trial:
    """Where the entry is measured."""
    return _trial(tmp_path_factory.mktemp("evaluate") / "work", tiny_model)


@pytest.fixture(scope="module")
def entry(first: Trial, adm: Subject) -> BoardEntry:
    return entry_of(first, adm, _measured(first, adm), Claimed())


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory, tiny_model: Model) -> Trial:
    """Where verifications share what they make."""
    return _trial(tmp_path_factory.mktemp("verify") / "work", tiny_model)


@pytest.fixture(scope="module")
def found(again: Trial, adm: Subject) -> Found:
    return _measured(again, adm)


def test_an_entry_holds_every_number_and_what_it_rests_on(entry: BoardEntry) -> None:
    assert contradictions(entry) == []
    assert list(entry.measured) == list(CONCEPTS)
    assert list(entry.measured["One"]) == ["clean", "plain", "szt", "webp"]
    means = {name: entry.values(name) for name in names_of(TINY, "protection")[1:]}
    averages = {n: sum(sum(of.values()) for of in v.values()) / 2 for n, v in means.items()}
    assert entry.worst.mean == pytest.approx(max(averages.values()))
    assert entry.plain.mean == pytest.approx(averages["plain"])
    assert {each.largest for each in entry.changes.values()} == {
        16
    }  # it starts anywhere in the budget
    assert set(entry.hashes.images) == set(CONCEPTS)


def test_an_honest_entry_is_within_to_the_bit(
    entry: BoardEntry, again: Trial, adm: Subject
) -> None:
    verdict = _verdict(again, entry, adm)
    assert verdict.within
    assert {each.difference for each in verdict.deviations} == {0.0}
    assert len(verdict.deviations) == 4 * (2 + 1) + 2 * 2
    assert verdict.sentences()[0].startswith("within; of 16 numbers")
    told: dict[str, Any] = json.loads(json.dumps(verdict.as_json()))
    assert told["within"] is True
    assert {"concept", "what", "claimed", "measured", "tolerance"} <= set(told["numbers"][0])


def test_an_honest_entry_is_within_under_other_noise(
    entry: BoardEntry, tmp_path: Path, tiny_model: Model, adm: Subject
) -> None:
    verdict = _verdict(_trial(tmp_path / "work", tiny_model, seed=7), entry, adm)
    assert verdict.within
    assert any(each.difference for each in verdict.deviations)


def _with_number(entry: BoardEntry, training: str, change: float) -> BoardEntry:
    """A consistent entry whose number of one training of one concept is another."""
    own = entry.measured["Two"]
    values = {**own, training: tuple(value - change for value in own[training])}
    measured = {**entry.measured, "Two": values}
    numbers: dict[str, Any] = dict(headline_numbers(measured, names_of(TINY, entry.form)))
    return replace(entry, measured=measured, **numbers)


@pytest.mark.parametrize("training", ["clean", "plain", "szt", "webp"])
def test_a_number_beyond_the_tolerance_is_found(
    entry: BoardEntry, found: Found, training: str
) -> None:
    one, mean = tolerances(TINY, 4, 2)
    assert mean == pytest.approx(one / 2**0.5)
    for change, within in ((0.9 * one, True), (1.1 * one, False)):
        tampered = _with_number(entry, training, change)
        assert contradictions(tampered) == []
        verdict = Verdict((), compared(tampered, found))
        assert verdict.within is within
        if not within:
            (off,) = (each for each in verdict.deviations if not each.within)
            assert (off.concept, off.what) == ("Two", training)
            assert off.difference == pytest.approx(change)
            assert any("not within: Two" in sentence for sentence in verdict.sentences())
        only_one = replace(found, measured={"One": found.measured["One"]})
        assert Verdict((), compared(tampered, only_one)).within  # it was not drawn


KEY = "f" * 64


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("hashes.model", "other weights of the model"),
        ("hashes.encoder", "another encoder of similarities"),
        ("hashes.networks", "another network of a purifier"),
        ("hashes.settings", "other settings of objects-tiny"),
        ("poison.key", "other code or settings of the poison"),
        ("poison.file", "another file of the poison"),
    ],
)
def test_a_hash_that_differs_is_named_and_nothing_is_measured(
    entry: BoardEntry, tmp_path: Path, tiny_model: Model, adm: Subject, place: str, words: str
) -> None:
    group, name = place.split(".")
    changed = replace(entry, **{group: replace(getattr(entry, group), **{name: KEY})})
    trial = _trial(tmp_path / "work", tiny_model)
    verdict = _verdict(trial, changed, adm)
    assert not verdict.within
    (sentence,) = verdict.sentences()
    assert words in sentence
    assert "ffffffffffff in the entry" in sentence
    assert not (tmp_path / "work").exists()


def test_another_image_is_named(entry: BoardEntry, again: Trial, adm: Subject) -> None:
    """An eighth of the side of one picture of the concept is inverted."""
    concepts = dict(again.lab.concepts)
    images = concepts["Two"].images.clone()
    images[0, 0, 0, 0] ^= 1
    rounded = concepts["Two"].with_images(images.clone())
    assert picture_key(rounded) == picture_key(concepts["Two"])  # as another processor may
    images[0, :, :8, :8] = 255 - images[0, :, :8, :8]
    concepts["Two"] = concepts["Two"].with_images(images)
    trial = replace(again, lab=replace(again.lab, concepts=concepts))
    (sentence,) = _verdict(trial, entry, adm).sentences()
    assert "other images of Two" in sentence


def test_a_protected_image_that_was_exchanged_is_found(
    entry: BoardEntry, first: Trial, adm: Subject, found: Found
) -> None:
    """The work folder of an evaluation is changed by hand; its entry is well-formed.

    All else of the evaluation is used again as it is.
    """
    pictures = sorted((first.lab.folder / "poison").glob("Two,adm+,*/*.png"))
    Image.new("RGB", (64, 64), "grey").save(pictures[0])
    before = {path: path.stat().st_mtime_ns for path in first.lab.folder.rglob("*.png")}
    forged = entry_of(first, adm, _measured(first, adm), Claimed())
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert contradictions(forged) == []
    for name in ("clean", "plain", "szt"):
        assert forged.values(name) == entry.values(name)
    off = {(each.concept, each.what) for each in compared(forged, found) if not each.within}
    assert off == {("Two", "PSNR, dB"), ("Two", "largest change, of 255")}


def test_both_forms_from_files_are_measured_and_verified(
    tmp_path: Path, tiny_model: Model, again: Trial
) -> None:
    poison, attack = tmp_path / "mine.py", tmp_path / "darker.py"
    poison.write_text(POISON)
    attack.write_text(DEFENSE)
    subject = read_subject(TINY, poison, attack)
    trial = _trial(tmp_path / "work", tiny_model)
    entry = entry_of(trial, subject, _measured(trial, subject), Claimed())
    assert (entry.form, entry.subject) == ("attack", "darker on mine")
    assert list(entry.measured["One"]) == ["clean", "plain", ATTACK]
    assert _verdict(again, entry, subject).within
    attack.write_text(DEFENSE.replace("= 5", "= 6"))
    other = _verdict(again, entry, read_subject(TINY, poison, attack))
    words = " ".join(other.sentences())
    assert "another file of the attack" in words
    assert "other code or settings of the attack" in words


def test_of_several_files_the_right_one_is_taken_or_none() -> None:
    one, two, entry = Path("one.py"), Path("two.py"), Path("entry.json")
    code = Code("mine", KEY, KEY)
    assert _source(entry, Code("ea", KEY), {}) == "ea"
    assert _source(entry, code, {KEY: two, "0": one}) == two
    assert _source(entry, code, {"0": one}) == one  # verify says that it is another
    for files, words in (({}, "look at it"), ({"0": one, "1": two}, "none of those")):
        with pytest.raises(UserError, match=f"entry.json rests on a Python file.*{words}"):
            _source(entry, code, files)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "has no poison"),
        (POISON + 'TWO = replace(ROW, name="two")', "has 2 poisons"),
        ("raise ValueError('no')", "fails with ValueError"),
        (POISON.replace('"mine"', '"ea"'), "a name that is taken"),
    ],
)
def test_a_file_without_one_poison_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(UserError, match=words):
        read_subject(TINY, file, None)


def test_an_attacker_that_cannot_run_leaves_no_entry(
    tmp_path: Path, tiny_model: Model, adm: Subject
) -> None:
    suite = replace(TINY, attackers=SUITES["standard-1"])
    trial = replace(_trial(tmp_path / "work", tiny_model), suite=suite, wanted={adm: CONCEPTS})
    with pytest.raises(UserError, match=r"needs its attacker upscale: .*not on this machine"):
        evaluate(trial)
    assert not (tmp_path / "work").exists()


def test_concepts_are_drawn_without_repeats_and_by_the_seed() -> None:
    suite = replace(TINY, concepts=tuple("abcdefgh"))
    draws = [drawn_concepts(suite, 3, seed) for seed in range(20)]
    assert all(len(set(draw)) == 3 for draw in draws)
    assert draws == [drawn_concepts(suite, 3, seed) for seed in range(20)]
    assert set().union(*draws) == set(suite.concepts)
    assert drawn_concepts(suite, 99, 0) == suite.concepts


def test_tolerances_let_honest_noise_pass(entry: BoardEntry) -> None:
    """Of a thousand pairs of measurements with normal noise of the suite's spread, as good as all
    are within; one number in ten thousand would be off if each were judged by itself."""
    generator = torch.Generator().manual_seed(0)
    names = names_of(TINY, "protection")

    def noisy() -> dict[str, dict[str, tuple[float, ...]]]:
        draws = TINY.spread * torch.randn(2, len(names), 1, generator=generator, dtype=torch.double)
        return {
            concept: {name: tuple(draws[i, j].tolist()) for j, name in enumerate(names)}
            for i, concept in enumerate(CONCEPTS)
        }

    def refused() -> bool:
        claim = replace(entry, measured=noisy())
        return not all(each.within for each in compared(claim, Found(noisy(), entry.changes)))

    assert sum(refused() for _ in range(1000)) <= 5
