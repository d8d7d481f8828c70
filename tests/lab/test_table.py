"""The table of stages: a sixth one is a row; what was lost is made again, what is there is used."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from safezone.cli import main
from safezone.concepts import save_concept
from safezone.files import write_json
from safezone.images import write_png
from safezone.lab import trainings
from safezone.lab.cost import Passes, poison_operations, training_operations
from safezone.lab.lab import TRAINING_FOLDER, Job, Lab
from safezone.lab.makers import one_by_one, read_images
from safezone.lab.run import TEXTUAL_INVERSION, Run
from safezone.lab.schedule import (
    by_stage,
    catalogue,
    collect,
    estimate,
    garbage,
    plan,
    run_grid,
    unfinished,
)
from safezone.lab.settings import Poisoning
from safezone.lab.stage import STAGES, Stage, job, jobs, own
from safezone.lab.store import MAKING, NEEDS, WORK, artifacts_in
from safezone.reading import read_json
from safezone.results.artifacts import INDEX, evidence
from safezone.results.folder import measure
from small_lab import SETTINGS, concept, grid


def test_costs_count_accumulation_priors_and_repetitions(lab: Lab) -> None:
    passes = Passes(1, 10, 1, per_second=1, poison=(1, 10))
    run = grid(lab).runs[0]

    def of_training(**changes: Any) -> float:
        training = replace(SETTINGS.training, steps=4, batch_size=2, **changes)
        other = replace(lab, settings=replace(SETTINGS, training=training))
        return training_operations(other, run, passes)

    assert of_training() == 2 * 10 * 4 * 2
    assert of_training(accumulation=5) == 5 * of_training()
    assert of_training(prior_weight=1.0) == 2 * of_training()
    whole = replace(lab, settings=replace(SETTINGS, poisoning=Poisoning()))
    for name, through, draws in (
        ("adm+", 11, 1),
        ("ea", 1, 1),  # reads no prompt: the encoder alone
        ("da", 11, whole.poison_settings(replace(run, poison="da")).repetitions),
    ):
        row = whole.poison_settings(replace(run, poison=name))
        expected = 2 * through * 3 * row.steps * draws
        assert poison_operations(whole, replace(run, poison=name), passes) == expected


# A sixth stage


def _brightness_settings(lab: Lab, run: Run) -> Sequence[Any] | None:
    return None if run.defense == "szt" else ["mean of all values"]


def _write_brightness(lab: Lab, job: Job) -> None:
    if job.run.concept == "Two":
        raise FloatingPointError("too bright")
    images, _ = read_images(job.of["generate"].place)
    with job.of["brightness"].written({"mean": float(images.float().mean())}) as folder:
        (folder / "said.txt").write_text("bright\n")


BRIGHTNESS = Stage(
    "brightness",
    version=1,
    record="brightness.json",
    inputs=("generate",),
    settings=_brightness_settings,
    make=partial(one_by_one, "brightness", _write_brightness),
    operations=lambda lab, run, passes: 7.0,
    size=lambda lab, run: 100.0,
)
TABLE = (*STAGES, BRIGHTNESS)


def test_a_sixth_stage_is_a_row(lab: Lab) -> None:
    """Planned, estimated, run, failing, listed and collected like the others."""
    runs = grid(lab, ("clean",))  # two concepts, two defenses; szt leaves the images as they are
    assert plan(lab, runs, TABLE)["brightness"] == (0, 2)
    passes = Passes(1, 1, 1, per_second=7.0, poison=(1, 1))
    cost = estimate(lab, runs, passes, stages=TABLE)["brightness"]
    assert (cost.todo, cost.seconds, cost.size) == (2, 2.0, 200.0)
    made = jobs(lab, runs, TABLE)
    results = run_grid(lab, runs, progress=False, stages=TABLE)
    assert {(r.concept, r.defense): why for r, why in results.failed.items()} == {
        ("Two", "nominal"): "too bright"
    }
    (one,) = (a for a, each in own(BRIGHTNESS, made).items() if each.run.concept == "One")
    assert one.done
    assert read_json(one.place / "brightness.json")["mean"] > 0
    assert plan(lab, runs, TABLE)["brightness"] == (1, 2)
    # another version of the stage before is another key
    other = tuple(replace(s, version=99) if s.name == "generate" else s for s in TABLE)
    assert job(lab, runs.runs[0], other).of["brightness"] != one


def test_a_sixth_stage_is_in_the_catalogue_and_its_garbage_is_found(
    lab: Lab, tmp_path: Path
) -> None:
    ours = replace(lab, folder=tmp_path / WORK)
    runs = grid(ours, ("clean",))
    run_grid(ours, runs, progress=False, stages=TABLE)
    assert by_stage(catalogue(tmp_path, TABLE), TABLE)["brightness"][0] == 1
    made = {a.place for each in jobs(ours, runs, TABLE) for a in each.of.values()}
    needed = sorted(str(place.relative_to(ours.folder)) for place in made)
    write_json(tmp_path / "mine" / NEEDS, {"artifacts": needed})
    assert garbage(tmp_path, TABLE) == []
    without = [name for name in needed if not name.startswith("brightness")]
    write_json(tmp_path / "mine" / NEEDS, {"artifacts": without})
    assert [folder.parent.name for folder in garbage(tmp_path, TABLE)] == ["brightness"]


def test_what_a_claim_in_the_folder_rests_on_is_no_garbage(lab: Lab, tmp_path: Path) -> None:
    """It has its results in the folder itself, where grids may have been run as well."""
    ours = replace(lab, folder=tmp_path / WORK)
    claimed, more = grid(ours, ("clean",)), grid(ours)
    measure(ours, claimed, tmp_path, tmp_path, title="claim", command="", kind="claim")
    measure(ours, more, tmp_path, tmp_path / "mine", title="mine", command="")
    assert unfinished(tmp_path).keys() == {".", "mine"} and garbage(tmp_path) == []
    (tmp_path / "mine" / NEEDS).unlink()
    names = [folder.name for folder in garbage(tmp_path)]
    assert names and all("adm+" in name for name in names)
    lock = ours.folder / TRAINING_FOLDER / f"{MAKING}abc"  # of a killed process
    lock.parent.mkdir(exist_ok=True)
    lock.touch()
    collect(tmp_path, garbage(tmp_path))
    assert garbage(tmp_path) == [] and not lock.exists()
    assert plan(ours, claimed)["generate"] == (4, 4)


def test_rows_and_pictures_are_those_of_the_grid_whatever_name_made_them(
    lab: Lab, tmp_path: Path
) -> None:
    """Weights that were moved have another name, and training settings may be named or not."""
    before, ours = tmp_path / "before", replace(lab, folder=tmp_path / WORK)
    runs = grid(ours, ("clean",))
    measure(ours, runs, tmp_path, before, title="before", command="")
    moved = replace(runs, runs=tuple(replace(run, model="moved/tiny") for run in runs))
    measured = measure(ours, moved, tmp_path, tmp_path / "after", title="after", command="")
    assert {row.model for row in measured.rows} == {"moved/tiny"}
    index = read_json(tmp_path / "after" / INDEX)
    assert {model for model, _ in evidence(tmp_path / "after", index, 100)} == {"moved/tiny"}
    method = f"{TEXTUAL_INVERSION}; steps=5k"  # the preset's own
    named = replace(runs, runs=tuple(replace(run, method=method) for run in runs))
    elsewhere = replace(ours, folder=tmp_path / "other", reuse=artifacts_in(ours.folder))
    assert {row.method for row in run_grid(elsewhere, named, progress=False).rows} == {method}


# What was lost


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("clean", "a.png"),
        ("poison", "b.png"),
        ("poison", "masks/c.png"),
        ("preprocess", "a.png"),
        ("personalize", "learned_embeds.safetensors"),
        ("generate", "00-0.png"),
        ("score", "rows.jsonl"),
    ],
)
def test_a_record_without_its_files_is_made_again(stage: str, name: str, lab: Lab) -> None:
    """To the same bytes, and nothing else in the folder is touched."""
    runs = replace(grid(lab), runs=grid(lab).runs[-1:])  # adm+ and szt: every stage is its own
    run_grid(lab, runs, progress=False)
    artifact = job(lab, runs.runs[0]).of[stage]
    (artifact.place / "notes.txt").write_text("mine")
    content = (artifact.place / name).read_bytes()
    (artifact.place / name).unlink()
    assert not artifact.done
    assert plan(lab, runs)[stage] == (0, 1)
    run_grid(lab, runs, progress=False)
    assert artifact.done
    assert (artifact.place / name).read_bytes() == content
    assert (artifact.place / "notes.txt").read_text() == "mine"


# One recipe of each key


def _common(model: Path) -> list[str]:
    return ["--model", str(model), "--steps", "2"]


def _grid_run(file: Path, model: Path, data: Path, out: Path, *more: str) -> list[str]:
    return [
        *("grid", "run", str(file), *_common(model), "--data", str(data), "--out", str(out)),
        *("--seeds", "1", "--poisoning.steps", "1", "--sampling.steps", "2"),
        *("--sampling.prompts", "a {}", "--instance-encoder", "mini-instance"),
        *("--text-image-encoder", "none", *more),
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    save_concept(concept("toy"), tmp_path / "data" / "toy")
    return tmp_path / "data"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    axes = {"poisons": ["clean", "adm+"], "defenses": ["nominal", "szt"], "seeds": [0]}
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({"name": "mine", "axes": axes}))
    return path


def _never(*_: object, **__: object) -> None:
    raise AssertionError("it is there already")


def test_a_grid_uses_what_the_commands_made(
    tmp_path: Path,
    data: Path,
    file: Path,
    tiny_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Poisons, adapters of clean and of poisoned images, and images, to the same rows."""
    model, commands = tiny_model_folder, tmp_path / "commands"
    assert main(_grid_run(file, model, data, tmp_path / "alone")) == 0
    poisoned = commands / "toy-poisoned"
    poison = ["poison", str(data / "toy"), "--model", str(model), "--steps", "1"]
    assert main([*poison, "--poison", "adm+", "--out", str(poisoned)]) == 0
    both = ["--defense", "nominal", "--defense", "szt"]
    for folder, out in ((data / "toy", "clean"), (poisoned, "poisoned")):
        learn = ["personalize", str(folder), *both, *_common(model), "--out"]
        assert main([*learn, str(commands / out)]) == 0
    draw = ["--steps", "2", "--prompts", "a {}", "--model", str(model)]
    assert main(["generate", str(commands / "clean"), *draw]) == 0
    with monkeypatch.context() as patched:
        patched.setattr(trainings, "train", _never)
        patched.setattr("safezone.lab.poisonings.poison_many", _never)
        again = _grid_run(file, model, data, tmp_path / "again", "--reuse", str(commands))
        assert main(again) == 0
    rows = [(tmp_path / name / "mine" / "rows.jsonl").read_text() for name in ("alone", "again")]
    assert rows[0] == rows[1]


def test_a_command_uses_what_a_grid_made(
    tmp_path: Path,
    data: Path,
    file: Path,
    tiny_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, out = tiny_model_folder, tmp_path / "grids"
    assert main(_grid_run(file, model, data, out)) == 0
    learned = next((out / WORK / "personalize").glob("toy,clean,szt,0-*"))
    learn = ["personalize", str(data / "toy"), "--defense", "szt", *_common(model)]
    monkeypatch.setattr(trainings, "train", _never)
    reuse = ["--reuse", str(out)]
    assert main([*learn, *reuse, "--out", str(tmp_path / "mine")]) == 0
    place = tmp_path / "mine" / "toy" / "szt" / "seed0"
    name = "learned_embeds.safetensors"
    assert (place / name).read_bytes() == (learned / name).read_bytes()
    record = read_json(place / "run.json")
    assert record["training"] == "../../training"  # of the new place
    assert record["key"] == read_json(learned / "run.json")["key"]
    # a changed file is not believed
    (learned / name).write_bytes(b"changed")
    with pytest.raises(AssertionError, match="already"):
        main([*learn, *reuse, "--out", str(tmp_path / "other")])
    assert main([*learn, "--reuse", str(tmp_path / "data"), "--out", str(tmp_path / "x")]) == 2


def test_images_that_were_changed_have_a_key_of_their_own(
    tmp_path: Path, data: Path, tiny_model_folder: Path
) -> None:
    """A poison's folder is believed as long as its pictures are those that were written."""
    keys = []
    poisoned = tmp_path / "poisoned"
    poison = ["poison", str(data / "toy"), "--model", str(tiny_model_folder)]
    assert main([*poison, "--steps", "1", "--out", str(poisoned)]) == 0
    for out in ("before", "after"):
        learn = ["personalize", str(poisoned), *_common(tiny_model_folder), "--out"]
        assert main([*learn, str(tmp_path / out)]) == 0
        keys.append(read_json(next((tmp_path / out).rglob("run.json")))["key"])
        write_png(poisoned / "a.png", torch.zeros(3, 64, 64, dtype=torch.uint8))
    assert keys[0] != keys[1]
