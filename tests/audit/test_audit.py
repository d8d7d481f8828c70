"""The audit: its suites, its postings, every flag up and down, and a whole audit in small."""

import json
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from safezone.audit.audit import AUDIT, EXPECTED, audit, own_sampling, own_training, plan_audit
from safezone.audit.cases import PROTECTED, Case, Plan, partial_name, read_cases
from safezone.audit.flags import FEW_CONCEPTS, FLAGS, Facts, raised
from safezone.audit.outcome import Learned, Outcome, verdict
from safezone.audit.protection import change_of
from safezone.audit.suites import POSTINGS, SUITES, suite
from safezone.commands import audit as command
from safezone.commands.arguments import parse
from safezone.concepts import save_concept
from safezone.defenses import defense
from safezone.errors import UserError
from safezone.files import locked, write_json
from safezone.lab.presets import preset, quick
from safezone.lab.settings import Sampling
from safezone.lab.stage import job
from safezone.models import Model
from safezone.results.statistics import Interval
from safezone.scores.rows import CLEAN, NOMINAL
from small_lab import SETTINGS, concept, small_lab


def test_a_suite_begins_with_plain_training_and_its_defenses_exist() -> None:
    for each in SUITES.values():
        assert (each.plain.defense, each.plain.posting) == (NOMINAL, None)
        assert len({attacker.name for attacker in each.attackers}) == len(each.attackers)
        for attacker in each.attackers:
            for builtin in (True, False):
                assert defense(attacker.defense_for(builtin)).name
            assert attacker.posting is None or attacker.posting in POSTINGS


def test_a_suite_of_a_version_never_changes() -> None:
    """Whoever quotes a number of standard-1 means these; a change is another version."""
    names = [each.name for each in SUITES["standard-1"].attackers]
    assert names == [
        *("plain", "posted-1080", "posted-2048", "webp", "screenshot", "jpeg", "vae", "upscale"),
        *("purifier", "t600", "jpeg+t600", "szt"),
    ]
    assert suite("standard") is suite("standard-1")
    with pytest.raises(UserError, match=r"no suite 'strict'.*quick-1, standard-1"):
        suite("strict")


@pytest.mark.parametrize("name", POSTINGS)
def test_a_posting_keeps_what_is_shown_and_changes_pixels(name: str) -> None:
    generator = np.random.default_rng(0)
    wide = np.asarray(
        Image.fromarray(generator.integers(0, 256, (30, 60, 3), dtype=np.uint8)).resize(
            (2400, 1200)
        )
    )
    posted = POSTINGS[name](wide)
    limit = POSTINGS[name].long_side
    assert posted.dtype == np.uint8
    assert max(posted.shape) == (2400 if limit is None else limit)
    assert posted.shape[1] == 2 * posted.shape[0]
    small = wide[:400, :800]
    back = POSTINGS[name](small)
    assert back.shape == small.shape  # nothing is enlarged
    change = np.abs(back.astype(int) - small).mean()
    assert 0 < change < 20


def _folders(
    root: Path,
    *,
    suffix: str = "",
    made: Mapping[str, Any] | None = None,
    change: int = 8,
    shrink: int = 1,
) -> list[Path]:
    """Originals and protected images of one concept."""
    clean, protected = concept("One", 3), concept("One", 3)
    images = protected.images.to(torch.int16)
    images = images + torch.where(torch.arange(64) % 2 == 0, change, -change)
    masks = protected.masks
    assert masks is not None
    protected = replace(
        protected,
        images=images.clamp(0, 255).to(torch.uint8)[..., ::shrink, ::shrink],
        masks=masks[:, ::shrink, ::shrink],
    )
    save_concept(clean, root / "clean")
    save_concept(protected, root / "protected")
    if made is not None:
        write_json(root / "protected" / "manifest.json", made)
    if suffix:
        for path in sorted((root / "protected").glob("*.png")):
            Image.open(path).save(path.with_suffix(suffix))
            path.unlink()
    return [root / "protected", root / "clean"]


MADE = {"poison": "adm+", "kappa": 16 / 255, "model": "tiny"}


def _facts(
    root: Path,
    *,
    clean: bool = True,
    suffix: str = "",
    made: Mapping[str, Any] | None = MADE,
    masks: bool = False,
    count: int = FEW_CONCEPTS,
    learned: float = 0.8,
    floor: float = 0.1,
    change: int = 8,
    shrink: int = 1,
    model: str = "tiny",
    builtin: bool = False,
    costs: bool = False,
    left_out: Mapping[str, str] = {},
    own_training: bool = False,
    own_sampling: bool = False,
    seeds: int = 2,
) -> Facts:
    protected, original = _folders(root, suffix=suffix, made=made, change=change, shrink=shrink)
    (case,) = read_cases(protected, original if clean else None, 64)
    case = replace(case, generated_masks=masks)
    suite = SUITES["standard-1"]
    plan = Plan((case,) * count, suite, ("ti",), seeds, (), (), {}, builtin, left_out)

    def of(name: str, value: float, on_clean: float) -> Learned:
        none = float("nan")
        return Learned(
            name, name, Interval(value, none, none), Interval(on_clean, none, none), None
        )

    plain = of("plain", 0.4, learned)
    worst = of("szt", 0.6, learned - (0.3 if costs else 0.01))
    clean_value = plain.clean if clean else None
    outcome = Outcome("ti", plain, worst, (plain, worst), clean_value, {}, {}, {}, {})
    return Facts(
        plan, [outcome], model, floor, [change_of(case)] * count, own_training, own_sampling
    )


NOTHING: dict[str, Any] = {"left_out": {"purifier": "left out"}}
RAISE: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no-originals": ({"clean": False}, {}),
    "clean-not-learned": ({"learned": 0.15}, {}),
    "budget-exceeded": ({"change": 20}, {}),
    "other-size": ({"shrink": 2}, {}),
    "lossy-file": ({"suffix": ".jpg"}, {}),
    "care-costs-clean": ({"costs": True}, {}),
    "purifier-of-this-world": ({"builtin": True}, {"builtin": True, **NOTHING}),
    "white-box": ({}, {"model": "another"}),
    "carried-over": ({"model": "another"}, {}),
    "unknown-maker": ({"made": None}, {}),
    "other-training": ({"own_training": True}, {}),
    "other-sampling": ({"own_sampling": True}, {}),
    "few-concepts": ({"count": FEW_CONCEPTS - 1}, {}),
    "one-seed": ({"seeds": 1}, {}),
    "generated-masks": ({"masks": True}, {}),
    "stronger-attack-missing": (NOTHING, {}),
}
"""By flag: what raises it, and what does not."""


def test_every_flag_has_its_case() -> None:
    assert set(RAISE) == {flag.name for flag in FLAGS}


@pytest.mark.parametrize("name", RAISE)
def test_a_flag_is_raised_when_it_holds_and_only_then(tmp_path: Path, name: str) -> None:
    up, down = RAISE[name]
    assert name in {flag.name for flag in raised(_facts(tmp_path / "up", **up))}
    assert name not in {flag.name for flag in raised(_facts(tmp_path / "down", **down))}


MUCH = Learned("plain", "plain", Interval(0.7, 0.6, 0.8), Interval(0.8, 0.7, 0.9), None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda outcome: outcome, "the protection did not hold"),
        (
            lambda outcome: replace(outcome, worst=outcome.plain),
            "ones 0.40, 43% of what clean images gave; the one careful training learned no more: "
            "the protection held against it",
        ),
        (
            lambda outcome: replace(outcome, plain=MUCH, worst=MUCH),
            "the one careful training learned no more: the protection did not hold",
        ),
        (lambda outcome: replace(outcome, clean=None), "without the originals"),
        (
            lambda outcome: replace(outcome, clean=Interval(0.15, 0.1, 0.2)),
            "says nothing about the protection",
        ),
    ],
)
def test_the_verdict_says_what_was_seen_and_never_safe(
    tmp_path: Path, change: Callable[[Outcome], Outcome], words: str
) -> None:
    text = verdict(change(_facts(tmp_path).outcomes[0]), 0.1)
    assert words in text
    assert "safe" not in text.lower()


def test_parts_of_the_images_are_protected(tmp_path: Path) -> None:
    protected, clean = _folders(tmp_path)
    (case,) = read_cases(protected, clean, 64)
    assert case.clean is not None
    third = case.partly(33)
    assert torch.equal(third.images[0], case.protected.images[0])
    assert torch.equal(third.images[1:], case.clean.images[1:])


def test_originals_that_do_not_belong_are_refused(tmp_path: Path) -> None:
    protected, clean = _folders(tmp_path)
    (clean / "c.png").unlink()
    (clean / "masks" / "c.png").unlink()
    with pytest.raises(UserError, match="--clean must hold the original of each"):
        read_cases(protected, clean, 64)


def _plan(root: Path, model: Model, name: str) -> tuple[Any, Plan]:
    protected, clean = _folders(root, made=MADE)
    lab = small_lab(root / "out" / "work", model)
    cases: tuple[Case, ...] = read_cases(protected, clean, 64)
    return lab, plan_audit(lab, cases, SUITES[name], ("textual inversion",), seeds=1, partial=[33])


def test_what_cannot_run_is_left_out_and_said(tmp_path: Path, tiny_model: Model) -> None:
    _, plan = _plan(tmp_path, tiny_model, "standard-1")
    assert "stabilityai/stable-diffusion-x4-upscaler is not on this" in plan.left_out["upscale"]
    assert "not on this machine" in plan.left_out["purifier"]
    runs = list(plan.grid("tiny"))
    cells = {(run.poison, run.defense) for run in runs}
    assert {(a.poison_name(PROTECTED), a.defense) for a in plan.attackers} <= cells
    assert {(CLEAN, NOMINAL), (CLEAN, "szt"), (partial_name(33), NOMINAL)} <= cells
    assert len(runs) == len(set(runs))


def test_the_concepts_without_masks_are_named(tmp_path: Path, tiny_model: Model) -> None:
    protected, clean = _folders(tmp_path)
    (case,) = read_cases(protected, clean, 64)
    bare = replace(case, protected=replace(case.protected, name="Two", masks=None))
    lab, methods = small_lab(tmp_path / "work", tiny_model), ("textual inversion",)
    plan = plan_audit(lab, (case, bare), SUITES["quick-1"], methods, seeds=1)
    assert plan.left_out == {
        "szt": "it needs masks, and there are none of Two; give them, or let --masks draw them"
    }


def test_parts_cannot_be_protected_without_the_originals(tmp_path: Path) -> None:
    protected, _ = _folders(tmp_path)
    options = parse(command.AuditCommand, [str(protected), "--partial", "50"])
    with pytest.raises(UserError, match=r"--partial needs the originals.*--clean"):
        command.plan_of(options)


def test_a_whole_audit_is_made_once_and_can_be_read(tmp_path: Path, tiny_model: Model) -> None:
    lab, plan = _plan(tmp_path, tiny_model, "quick-1")
    sampling = replace(lab.settings.sampling, prompts=("a {} in {braces} by a {}",))
    lab = plan.lab(replace(lab, settings=replace(lab.settings, sampling=sampling)))
    done = audit(lab, plan, tmp_path / "out", title="Mine", command="", progress=False)
    assert not done.failed
    assert json.loads((tmp_path / "out" / EXPECTED).read_text())["begun"] == 0
    told = json.loads((tmp_path / "out" / AUDIT).read_text())
    (method,) = told["methods"].values()
    assert [each["attacker"] for each in method["attackers"]] == ["plain", "jpeg", "t600", "szt"]
    best = max(each["similarity"]["mean"] for each in method["attackers"])
    assert told["worst_case"] == pytest.approx(best)
    assert set(method["partial"]) == {"33"}
    assert told["visibility"][0]["linf"] == pytest.approx(8 / 255)
    assert {"white-box", "few-concepts", "other-sampling"} <= set(told["flags"])
    page = done.page.read_text()
    assert told["verdicts"][0] in page
    assert page.count("not tested") >= 3 * 3
    assert "Does it hold?" in page
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "work").rglob("*.png")}
    audit(lab, plan, tmp_path / "out", title="Mine", command="", progress=False)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert json.loads((tmp_path / "out" / EXPECTED).read_text())["begun"] == 1


def test_an_audit_that_another_process_is_at_is_not_touched(
    tmp_path: Path, tiny_model: Model
) -> None:
    lab, plan = _plan(tmp_path, tiny_model, "quick-1")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / AUDIT).write_text("theirs")
    busy = pytest.raises(UserError, match="another process is working")
    with locked(tmp_path / "out", file=".audit.lock"), busy:
        audit(plan.lab(lab), plan, tmp_path / "out", title="", command="", progress=False)
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {AUDIT, ".audit.lock"}


def test_trainings_of_a_file_are_those_of_the_method_that_it_names(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    protected, clean = _folders(tmp_path)
    file = tmp_path / "settings.yaml"
    file.write_text("training: {method: lora, steps: 7}\n")
    where = (protected, "--clean", clean, "--model", tiny_model_folder, "--config", file)
    scoring = ("--instance-encoder", "mini-instance", "--text-image-encoder", "mini-clip")

    def steps(*words: str) -> dict[str, int]:
        options = parse(command.AuditCommand, [*map(str, where), *scoring, *words])
        lab, plan = command.plan_of(options)
        return {run.method: lab.training(run).steps for run in plan.grid(lab.model.name)}

    both = ("--method", "ti", "--method", "lora")
    assert steps(*both) == {"textual inversion": 5000, "lora": 7}
    with pytest.raises(UserError, match=r"settings.yaml has trainings of lora.*--method lora"):
        steps()
    file.write_text("training: {steps: 7}\n")  # of whatever is asked for
    assert steps(*both) == {"textual inversion": 7, "lora": 1000}
    assert steps("--method", "lora") == {"lora": 7}


def test_settings_that_change_no_number_are_no_other_training() -> None:
    usual = preset("mini")
    for training, other in (
        (replace(usual.training, runs_per_pass=3, checkpoint_every=7), False),
        (replace(usual.training, steps=9), True),
    ):
        assert own_training(replace(usual, training=training)) is other
    for name, given in (("standard-1", usual), ("quick-1", quick(usual))):
        assert not own_sampling(given, name)
        assert own_sampling(replace(given, sampling=Sampling(("a {}",))), name)


def test_a_process_that_helps_opens_the_lab_of_the_same_grid(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    protected, clean = _folders(tmp_path, made=MADE)
    words = (protected, "--clean", clean, "--model", tiny_model_folder, "--out", tmp_path / "out")
    scoring = ("--instance-encoder", "mini-instance", "--text-image-encoder", "mini-clip")
    options = parse(command.AuditCommand, [*map(str, words), *scoring])
    opened = pickle.loads(pickle.dumps(partial(command.open_audit, options, 2)))()
    lab, plan = command.plan_of(options)
    assert (opened.sharers, opened.folder) == (2, lab.folder)
    for run in plan.grid(lab.model.name):
        assert job(opened, run).of["score"].place == job(lab, run).of["score"].place


def test_a_quick_audit_draws_fewer_images_unless_it_is_told_otherwise() -> None:
    def drawn(*words: str) -> list[str]:
        options = parse(command.AuditCommand, ["folder", *words])
        return [*options.sampling.texts()] * options.sampling.images_per_prompt

    quick = ("--attacker", "quick")
    assert [len(drawn()), len(drawn(*quick)), len(drawn("--attacker=quick-1"))] == [12, 6, 6]
    assert [len(drawn("--model", "sd15")), len(drawn(*quick, "--model", "sd15"))] == [120, 24]
    assert len(drawn(*quick, "--sampling.prompts", "mini")) == 12


@pytest.mark.parametrize(
    ("words", "percents"), [([], (25, 50, 75)), (["--attacker", "quick"], (50,))]
)
def test_how_many_images_are_protected(
    tmp_path: Path, tiny_model_folder: Path, words: list[str], percents: tuple[int, ...]
) -> None:
    protected, clean = _folders(tmp_path)
    where = [str(protected), "--clean", str(clean), "--model", str(tiny_model_folder)]
    scoring = ("--instance-encoder", "mini-instance", "--text-image-encoder", "mini-clip")
    for given, expected in (([], percents), (["--partial", "10"], (10,))):
        options = parse(command.AuditCommand, [*where, *scoring, *words, *given])
        assert command.plan_of(options)[1].partial == expected


@pytest.mark.parametrize(
    ("made", "again"),
    [
        (MADE, {4: 4}),  # the protected images are those of 16/255
        ({**MADE, "model": "another"}, {4: 4, 16: 16}),
        ({**MADE, "kappa": 8 / 255}, {4: 4, 16: 16}),
        ({**MADE, "steps": SETTINGS.poisoning.steps, "transform": None}, {4: 4}),
        ({**MADE, "steps": 100}, {4: 4, 16: 16}),
        ({**MADE, "transform": "Flip()"}, {4: 4, 16: 16}),
    ],
)
def test_budgets_make_our_own_poison_again(
    made: Mapping[str, Any], again: dict[int, int], tmp_path: Path, tiny_model: Model
) -> None:
    protected, clean = _folders(tmp_path, made=made)
    lab = small_lab(tmp_path / "work", tiny_model)
    cases = read_cases(protected, clean, 64)
    methods = ("textual inversion",)
    plan = plan_audit(lab, cases, SUITES["quick-1"], methods, seeds=1, budgets=[4, 16])
    assert {n: round(row.budget.kappa * 255) for n, row in plan.budgets.items()} == again
    assert all(row.steps == SETTINGS.poisoning.steps for row in plan.budgets.values())
    assert plan.of_levels[4] == "kappa 4"
    assert plan.of_levels[16] == ("kappa 16" if 16 in again else "protected")
    poisons = {run.poison for run in plan.grid("tiny")}
    assert {*plan.of_levels.values(), "clean"} <= poisons
    (bare,) = read_cases(protected, None, 64)
    with pytest.raises(UserError, match="--budgets makes the protection again"):
        plan_audit(lab, (bare,), SUITES["quick-1"], methods, seeds=1, budgets=[4])
    other = replace(cases[0], manifest={**made, "poison": "ea"})
    for second, words in ((other, "these are adm+, ea"), (replace(other, manifest={}), "made,")):
        with pytest.raises(UserError, match=re.escape(words)):
            plan_audit(lab, (*cases, second), SUITES["quick-1"], methods, seeds=1, budgets=[4])
    lengths = replace(SETTINGS.poisoning, norm="l2", kappa=3.0, eta=0.2)
    lab = replace(lab, settings=replace(lab.settings, poisoning=lengths))
    with pytest.raises(UserError, match="the budget of adm\\+ is of another kind; leave it out"):
        plan_audit(lab, cases, SUITES["quick-1"], methods, seeds=1, budgets=[4])
