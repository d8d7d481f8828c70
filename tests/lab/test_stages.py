"""Keys, grids, settings and stages: what is done stays done, what fails does not stop the rest."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from safezone.cli import main
from safezone.commands.opening import tell_limits
from safezone.concepts import load_concept, save_concept
from safezone.concepts.datasets import export_concepts
from safezone.defenses import defense
from safezone.errors import UserError
from safezone.lab import makers, trainings
from safezone.lab.lab import Lab
from safezone.lab.presets import DEMO, PRESETS, read_settings, settings_yaml
from safezone.lab.run import Grid, Run, content_key
from safezone.lab.schedule import plan, run_grid
from safezone.lab.settings import Poisoning, Sampling, Settings, fraction
from safezone.lab.stage import job, named, of_runs
from safezone.lab.store import MANIFEST, RUN_RECORD, Artifact
from safezone.lab.training import Training
from safezone.lab.trainings import TrainingJob, train_all
from safezone.models import Model
from safezone.models.pixel import MINI_PIXEL, load_pixel_model
from safezone.personalize import METHODS, Adapter, TrainingRun, save_adapter, train
from safezone.personalize.files import EMBEDDING
from safezone.poisons import BoundObjective, NetworkObjective, Poison, Unpoisoned, poison_many
from safezone.poisons.objectives import encoder_norm
from safezone.results.meaning import MINI_LIMITS
from safezone.results.run_images import read_run_images
from safezone.scores import CLEAN
from safezone.scores.text_image import with_class_word
from small_lab import SETTINGS, concept, grid
from tiny import write_tiny_pixel_folder

RUN = Run("CatHeart", "adm+", "szt", "textual inversion", "tiny", 0)
# Runs, grids and keys


def test_a_grid_is_the_product_and_its_runs_are_hashable() -> None:
    made = Grid.product(
        "g", concepts="ab", poisons=("clean",), defenses=("nominal", "szt"), seeds=(0, 1), model="m"
    )
    assert len(set(made)) == len(made) == 8
    assert [run.seed for run in made][:2] == [0, 1]


def test_a_grid_refuses_a_run_twice() -> None:
    with pytest.raises(ValueError, match="twice"):
        Grid("g", (RUN, RUN))


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UserError, match="seed is -1"):
        replace(RUN, seed=-1)


@pytest.mark.parametrize(
    "parts",
    [
        ("poison", 2, "x"),
        ("poison", 1, "y"),
        ("poison", 1, "x", None),
        ("poison", 1, SETTINGS.poisoning.poison("adm+")),
        ("poison", 1, SETTINGS.poisoning.poison("adm-")),
        ("poison", 1, Poisoning(steps=2).poison("adm+")),
        ("poison", 1, defense("t600").timesteps),
        ("poison", 1, defense("below600").timesteps),
    ],
)
def test_every_part_counts_in_a_content_key(parts: tuple[object, ...]) -> None:
    assert content_key(*parts) == content_key(*parts)
    assert content_key(*parts) != content_key("poison", 1, "x")


def test_a_file_counts_by_its_content(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"1")
    second.write_bytes(b"1")
    assert content_key(first) == content_key(second)
    second.write_bytes(b"2")
    assert content_key(first) != content_key(second)


class Undecorated(NetworkObjective):
    def bind(self, model: Model) -> BoundObjective:
        return BoundObjective((), encoder_norm)


@pytest.mark.parametrize("value", [object(), partial(encoder_norm), Undecorated()])
def test_what_has_no_content_is_refused(value: Any) -> None:
    for part in (value, Poison("own", value, -1)):
        with pytest.raises(UserError, match=f"a {type(value).__name__} cannot be part of a conten"):
            content_key(part)


def test_weights_have_a_key(tiny_model: Model) -> None:
    before = tiny_model.fingerprint()
    parameter = next(tiny_model.unet.parameters())  # type: ignore[attr-defined]
    kept = parameter.detach().clone()
    with torch.no_grad():
        parameter[(0,) * parameter.ndim] += 1
        changed = tiny_model.fingerprint()
        parameter.copy_(kept)
    assert tiny_model.fingerprint() == before != changed


CHANGES: dict[str, tuple[Callable[[Settings], Settings], str]] = {
    "poison": (lambda s: replace(s, poisoning=Poisoning(steps=2)), "poison"),
    "training": (lambda s: replace(s, training=replace(s.training, steps=3)), "personalize"),
    "sampling": (lambda s: replace(s, sampling=replace(s.sampling, steps=3)), "generate"),
}
ORDER = tuple(stage.name for stage in of_runs())


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_changes_its_stage_and_those_after_it(name: str, lab: Lab) -> None:
    change, first = CHANGES[name]
    other = replace(lab, settings=change(lab.settings))
    run = replace(RUN, concept="One")
    same = [job(lab, run).of[name].key == job(other, run).of[name].key for name in ORDER]
    start = ORDER.index(first)
    assert same == [index < start for index in range(len(ORDER))]


@pytest.mark.parametrize(
    "training",
    [
        replace(SETTINGS.training, runs_per_pass=7),
        replace(SETTINGS.training, checkpoint_every=7),
    ],
)
def test_what_only_changes_the_way_leaves_the_keys(training: Training, lab: Lab) -> None:
    other = replace(lab, settings=replace(lab.settings, training=training))
    run = replace(RUN, concept="One")
    assert job(lab, run).of["personalize"] == job(other, run).of["personalize"]


def test_one_poisoned_concept_serves_all_defenses_and_with_poison_seed_all_seeds(lab: Lab) -> None:
    runs = [r for r in grid(lab, ("adm+",), seeds=3) if r.concept == "One"]
    assert len({job(lab, run).of["poison"] for run in runs}) == 1
    own = replace(lab, settings=replace(SETTINGS, cells=replace(SETTINGS.cells, poison_seed=None)))
    assert len({job(own, run).of["poison"] for run in runs}) == 3


def test_the_key_of_purified_images_holds_the_weights_of_what_purifies(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pixel model's weights count, wherever they lie; a plain defense's key is as before."""
    run = replace(RUN, concept="One")
    keys = {}
    for place, seed in (("a", 1), ("b", 2), ("c", 1)):
        write_tiny_pixel_folder(tmp_path / place / MINI_PIXEL, seed=seed)
        monkeypatch.setattr("safezone.models.pixel.WEIGHTS", tmp_path / place)
        load_pixel_model.cache_clear()
        keys[place] = [
            job(replace(lab), replace(run, defense=name)).of["preprocess"].key
            for name in ("jpeg", "regen", "pdmpure", "jpeg+pdmpure")
        ]
    load_pixel_model.cache_clear()
    assert len(set(keys["a"])) == 4
    assert keys["a"] == keys["c"]
    assert [x == y for x, y in zip(keys["a"], keys["b"], strict=True)] == [True, True, False, False]


# Stages


def test_a_purified_cell_goes_through_all_stages(lab: Lab, tmp_path: Path) -> None:
    run = next(r for r in grid(lab) if r.poison == CLEAN and r.defense == "nominal")
    cell = replace(lab, folder=tmp_path / "purified")
    purified = replace(run, defense="jpeg+regen+zm")
    results = run_grid(cell, Grid("one", (purified,)), progress=False)
    assert not results.failed
    assert {row.defense for row in results.rows} == {"jpeg+regen+zm"}
    assert job(cell, purified).of["preprocess"].place.is_dir()


def test_a_grid_is_made_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = grid(lab)
    first = run_grid(lab, runs, progress=False)
    assert not first.failed
    assert len({row.metric for row in first.rows}) >= 1
    assert {(r.concept, r.poison, r.defense) for r in first.rows} == {
        (r.concept, r.poison, r.defense) for r in runs
    }
    assert all(made == total for made, total in plan(lab, runs).values())
    assert not list((lab.folder / "training").iterdir())

    def never(*_: object, **__: object) -> None:
        raise AssertionError("done already")

    for name in (
        "poisonings.write_poisoned",
        "makers.write_images",
        "makers.score_rows",
        "makers.save_concept",
    ):
        monkeypatch.setattr(f"safezone.lab.{name}", never)
    monkeypatch.setattr(trainings, "train", never)
    assert run_grid(lab, runs, progress=False).rows == first.rows


def test_the_images_of_a_run_do_not_depend_on_its_neighbours(lab: Lab, tmp_path: Path) -> None:
    run = next(r for r in grid(lab) if r.poison == "adm+" and r.defense == "szt")
    alone = replace(lab, folder=tmp_path / "alone")
    run_grid(lab, grid(lab), progress=False)
    run_grid(alone, Grid("one", (run,)), progress=False)
    ours, theirs = (job(each, run).of["poison"].place for each in (lab, alone))
    assert (ours / "a.png").read_bytes() == (theirs / "a.png").read_bytes()
    size = lab.model.image_size
    ours, theirs = (job(each, run).of["preprocess"].place for each in (lab, alone))
    assert load_concept(ours, size).content_key() == load_concept(theirs, size).content_key()


def test_a_run_that_becomes_nan_is_told_and_the_others_go_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:

    def sick(model: Model, runs: list[TrainingRun], *rest: object, **more: object) -> object:
        adapters = train(model, runs, *rest, **more)  # type: ignore[arg-type]
        return [
            replace(a, provenance={**a.provenance, "failed_at": 2}) if "Two" in r.key else a
            for a, r in zip(adapters, runs, strict=True)
        ]

    monkeypatch.setattr(trainings, "train", sick)
    results = run_grid(lab, grid(lab, ("clean",)), progress=False)
    assert {run.concept for run in results.failed} == {"Two"}
    assert set(results.failed.values()) == {"the training became NaN at step 2"}
    assert {row.concept for row in results.rows if not row.reason} == {"One"}
    assert {row.reason for row in results.rows if row.concept == "Two"} == {
        "the training became NaN at step 2"
    }
    again = run_grid(lab, grid(lab, ("clean",)), progress=False)
    assert again.failed == results.failed


def test_a_poison_that_breaks_fails_its_runs_alone(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise FloatingPointError("the gradient is not finite")

    monkeypatch.setattr("safezone.lab.poisonings.poison_many", broken)
    results = run_grid(lab, grid(lab), progress=False)
    assert {run.poison for run in results.failed} == {"adm+"}
    assert {row.poison for row in results.rows if not row.reason} == {"clean"}


def test_what_breaks_in_a_shared_pass_fails_alone(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    together: list[int] = []

    def broken(models: Sequence[Model], sets: Sequence[Unpoisoned], *rest: Any, **more: Any) -> Any:
        together.append(len(sets))
        if any(torch.equal(each.images, lab.concepts["Two"].images) for each in sets):
            raise FloatingPointError("the gradient is not finite")
        return poison_many(models, sets, *rest, **more)

    monkeypatch.setattr("safezone.lab.poisonings.poison_many", broken)
    results = run_grid(lab, grid(lab), progress=False)
    assert together == [2, 1, 1]
    assert {(run.concept, run.poison) for run in results.failed} == {("Two", "adm+")}
    assert set(results.failed.values()) == {"the gradient is not finite"}


def test_captions_that_are_too_long_fail_their_concept_alone(lab: Lab) -> None:
    captions = {"One": "a {}", "Two": "a " * 99 + "{}"}
    concepts = {n: replace(concept(n), captions=(text,) * 3) for n, text in captions.items()}
    training = replace(SETTINGS.training, templates="captions")
    own = replace(lab, concepts=concepts, settings=replace(SETTINGS, training=training))
    failed = run_grid(own, grid(own, ("clean",)), progress=False).failed
    assert {run.concept for run in failed} == {"Two"}
    assert all("is too long" in reason for reason in failed.values())


def jobs(folder: Path, count: int) -> list[TrainingJob]:
    return [
        TrainingJob(
            partial(TrainingRun, f"run-{i}", concept("One"), defense("nominal"), i),
            named("personalize").artifact(folder, str(i), i),
            {},
        )
        for i in range(count)
    ]


def test_a_pass_that_stopped_while_writing_goes_on_with_the_same_runs(
    tmp_path: Path, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = replace(SETTINGS.training, runs_per_pass=3)
    whole = jobs(tmp_path / "whole", 4)
    train_all(tiny_model, whole, training, tmp_path / "s1", progress=False)
    written: list[Path] = []

    def stop(adapter: Adapter, path: Path) -> Path:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        return save_adapter(adapter, path)

    halted = jobs(tmp_path / "halted", 4)
    monkeypatch.setattr(trainings, "save_adapter", stop)
    with pytest.raises(KeyboardInterrupt):
        train_all(tiny_model, halted, training, tmp_path / "s2", progress=False)
    assert sum(each.artifact.done for each in halted) == 2
    monkeypatch.setattr(trainings, "save_adapter", save_adapter)
    train_all(tiny_model, halted, training, tmp_path / "s2", progress=False)
    for ours, theirs in zip(halted, whole, strict=True):
        files = [each.artifact.place / EMBEDDING for each in (ours, theirs)]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert not list((tmp_path / "s2").iterdir())


def test_progress_tells_what_is_left(tmp_path: Path, tiny_model: Model) -> None:
    notes: list[str] = []
    train_all(
        tiny_model,
        jobs(tmp_path, 3),
        SETTINGS.training,
        tmp_path / "s",
        progress=False,
        note=notes.append,
    )
    assert notes[0].startswith("2 of 3 runs trained, about")
    assert notes[-1] == "3 of 3 runs trained"


@pytest.mark.parametrize(
    ("method", "words"), [("ti", "<one>"), ("lora", "* toy"), ("custom-diffusion", "<one> toy")]
)
def test_images_are_recorded_with_the_words_that_drew_them(
    method: str, words: str, tmp_path: Path, tiny_model: Model
) -> None:
    """And are compared with the class noun in their place, whatever the method."""
    artifact = named("generate").artifact(tmp_path, "images", method)
    vectors = torch.zeros(0 if method == "lora" else 1, tiny_model.embedding_width)
    trigger = METHODS[method]().trigger(concept("One"))
    adapter = Adapter(vectors, "<one>", "toy", trigger=trigger)
    drawing = makers.DrawingJob(artifact, adapter, "n", 0, asdict(RUN))
    makers.write_images(tiny_model, [drawing], Sampling(("a red {}",), steps=1))
    images = read_run_images(artifact.place)
    assert images.prompts == [f"a red {words}"]
    assert with_class_word(images.prompts[0], images.placeholder, "toy") == "a red toy"


def test_what_was_made_otherwise_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "place"

    def done(key: str, record: str) -> bool:
        return Artifact("poison", key, place, record).done

    assert not done("key", MANIFEST)
    place.mkdir()
    assert not done("key", MANIFEST)
    (place / MANIFEST).write_text('{"key": "key"}')
    assert done("key", MANIFEST)
    with pytest.raises(UserError, match="other settings"):
        done("another", MANIFEST)
    with pytest.raises(UserError, match="not empty"):
        done("key", RUN_RECORD)


# Settings


@pytest.mark.parametrize("settings", [*PRESETS.values(), DEMO, SETTINGS], ids=lambda s: s.model)
def test_settings_survive_their_yaml(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(settings_yaml(settings))
    assert read_settings(path, None) == settings


def test_a_file_says_what_differs_from_the_preset_of_its_model(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("model: sd15\ntraining: {steps: 7}\npoisoning: {kappa: 8/255}\n")
    found = read_settings(path, None)
    assert found.training == replace(PRESETS["sd15"].training, steps=7)
    assert found.poisoning.kappa == pytest.approx(8 / 255)
    assert read_settings(path, "mini").training == replace(PRESETS["mini"].training, steps=7)


def test_a_defense_in_yaml_may_be_a_list_of_its_parts(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("cells:\n  defenses:\n  - nominal\n  - [jpeg, t600]\n  - szt\n")
    assert read_settings(path, None).cells.defenses == ("nominal", "jpeg+t600", "szt")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("training: {stepz: 7}", "training.stepz"),
        ("trainin: {steps: 7}", "trainin"),
        ("training: {steps: many}", "training.steps"),
        ("poisoning: {kappa: much}", "poisoning.kappa"),
        ("training: {schedule: daily}", "training.schedule"),
        ("cells: {seeds: 0}", "seeds is 0"),
        ("training: {learning_rate: 1e+38}", "learning_rate is '1e"),
        ("[1, 2]", "list of settings"),
        ("a: [", "not valid YAML at line"),
    ],
)
def test_a_wrong_file_is_told_with_its_key(text: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=hint):
        read_settings(path, None)


@pytest.mark.parametrize(("text", "value"), [("16/255", 16 / 255), ("0.5", 0.5), (0.25, 0.25)])
def test_a_budget_is_a_number_or_a_quotient(text: object, value: float) -> None:
    assert fraction(text) == pytest.approx(value)


# The command line's side


def test_photographs_are_told_what_the_built_in_model_cannot_draw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    rendered = export_concepts(tmp_path / "concepts")[0]
    assert not tell_limits("mini", [rendered])
    assert not tell_limits("some/model", [photographs])
    assert capsys.readouterr().err == ""
    assert tell_limits("mini", [rendered, photographs])
    assert MINI_LIMITS in capsys.readouterr().err


def test_a_stopped_command_tells_how_to_go_on(
    tmp_path: Path,
    tiny_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("safezone.lab.poisonings.poison_many", stop)
    folder = tmp_path / "toy"
    save_concept(concept("toy"), folder)
    arguments = ["poison", str(folder), "--model", str(tiny_model_folder), "--out"]
    assert main([*arguments, str(tmp_path / "out")]) == 130
    assert "same command again" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
