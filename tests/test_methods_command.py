"""LoRA and Custom Diffusion from the command line, from training to another program's file."""

import json
import os
import re
import shlex
import stat
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from safezone.cli import main
from safezone.errors import UserError
from safezone.lab import trainings
from safezone.lab.presets import KINDS, TRAINING, kind_of, preset, read_settings
from safezone.lab.training import Training
from safezone.models import Model
from safezone.models.deltas import LowRank
from safezone.personalize import (
    METHODS,
    Adapter,
    load_adapter,
    save_adapter,
    save_embedding,
    train,
)
from safezone.personalize.checkpoints import State, save_state
from safezone.poisons.passes import Checkpoints
from tiny import write_tiny_folder, write_tiny_xl_folder


@pytest.mark.parametrize(("kind", "method"), TRAINING)
def test_every_preset_is_one_that_the_trainer_takes(kind: str, method: str) -> None:
    training = preset(kind, method).training
    assert training == TRAINING[kind, method]
    assert type(training.personalization()) is METHODS[method]
    assert {(k, m) for k in KINDS for m in METHODS} == set(TRAINING)


def test_the_presets_are_the_papers() -> None:
    steps = {key: training.steps for key, training in TRAINING.items()}
    assert (steps["sd15", "ti"], steps["sd21", "ti"], steps["sd15-rf", "ti"]) == (5000, 2500, 2500)
    assert (TRAINING["sdxl", "ti"].steps, TRAINING["sdxl", "ti"].accumulation) == (500, 5)
    assert steps["sd15", "lora"] == steps["sd15", "custom-diffusion"] == 1000
    assert TRAINING["sd15", "lora"].rank == 4


def test_kinds_are_told_from_folders(tmp_path: Path) -> None:
    flow = write_tiny_folder(tmp_path / "flow", prediction_type="flow_prediction")
    assert kind_of(str(flow)) == "sd15-rf"
    assert kind_of(str(write_tiny_xl_folder(tmp_path / "xl"))) == "sdxl"
    (tmp_path / "xl.safetensors").touch()
    assert kind_of(str(tmp_path / "xl.safetensors")) == "sdxl"
    assert kind_of(str(write_tiny_folder(tmp_path / "plain"))) == "sd15"
    assert kind_of("stabilityai/stable-diffusion-2-1") == "sd21"
    assert (kind_of("mini"), kind_of("nobody/knows")) == ("mini", "sd15")


def test_a_file_may_name_the_method(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("model: mini\ntraining:\n  method: lora\n  rank: 8\n")
    training = read_settings(file, None).training
    assert (training.method, training.rank) == ("lora", 8)
    assert training.learning_rate == TRAINING["mini", "lora"].learning_rate
    assert read_settings(file, None, method="ti").training.method == "lora"


@pytest.mark.parametrize(
    ("training", "words"),
    [
        (Training("ti", rank=8), "ti has no such setting"),
        (Training("lora", vectors=2), "lora has no such setting"),
        (Training("ti", start="no-such-file"), "does not exist"),
    ],
)
def test_settings_of_another_method_are_refused(training: Training, words: str) -> None:
    with pytest.raises(UserError, match=words):
        training.personalization()


def test_every_setting_reaches_a_method() -> None:
    own = {each.name for kind in METHODS.values() for each in fields(kind)}
    way = {"method", "runs_per_pass", "tracker", "checkpointing", "compile", "captured"}
    assert {each.name for each in fields(Training)} <= own | way


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "dog"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(
            folder / f"{i}.png"
        )
    return folder


@pytest.mark.parametrize("method", ["lora", "custom-diffusion"])
def test_from_pictures_to_another_programs_file(
    pictures: Path,
    tiny_model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    method: str,
) -> None:
    model, runs = ("--model", str(tiny_model_folder)), str(tmp_path / "runs")
    train = ["personalize", str(pictures), "--method", method, "--steps", "3", "--out", runs]
    more = ["--prior-weight", "0.5", "--prior-images", "2", "--preview-every", "2"]
    twice = ["--defense", "nominal", "--defense", "Nominal"]
    status = main([*train, *more, *twice, *model])
    told = capsys.readouterr().err
    assert status == 0, told
    assert f"{pictures.name}: its class word is '{pictures.name}', the folder's name" in told
    (run,) = Path(runs).rglob("run.json")
    record = json.loads(run.read_text())
    assert record["method"] == METHODS[method].name
    for path in run.parent.glob("*.safetensors"):
        assert os.fsencode(tmp_path) not in path.read_bytes()  # nobody is told where pictures lie
    assert list(Path(runs).rglob("previews/*/step-*.png"))
    prompts = ["--prompts", "a photo of a {}", "--steps", "2"]
    assert main(["generate", runs, *prompts, *model]) == 0, capsys.readouterr().err
    images = json.loads(next(Path(runs).rglob("images.json")).read_text())
    assert images["method"] == METHODS[method].name
    assert "was learned on" not in capsys.readouterr().err
    run.write_text(json.dumps({**record, "model": "another"}))
    assert main(["generate", runs, *prompts, *model]) == 0
    assert "was learned on another, and tiny draws it" in capsys.readouterr().err
    out = tmp_path / "out"
    export = ["export", runs, "--out", str(out), "--form", "diffusers"]
    status = main(export)
    if method == "custom-diffusion":
        assert status == 2
        assert "give a rank" in capsys.readouterr().err
        assert main([*export, "--rank", "2"]) == 0
        assert "relative error" in capsys.readouterr().out
    (lora,) = out.rglob("pytorch_lora_weights.safetensors")
    assert all(torch.isfinite(each).all() for each in load_file(lora).values())


@pytest.mark.parametrize("fits", [1, 0])
def test_a_command_trains_fewer_runs_at_once_where_memory_runs_out(
    pictures: Path,
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fits: int,
) -> None:
    tried: list[int] = []

    def small(model: Model, runs: list[object], *rest: Any, **more: Any) -> object:
        tried.append(len(runs))
        if len(runs) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return train(model, runs, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(trainings, "train", small)
    words = ["personalize", str(pictures), "--seeds", "2", "--steps", "2", "--out"]
    status = main([*words, str(tmp_path / "out"), "--model", str(tiny_model_folder)])
    said = capsys.readouterr()
    if fits:
        assert (status, tried) == (0, [2, 1, 1]), said.err
        assert len(list((tmp_path / "out").rglob("learned_embeds.safetensors"))) == 2
    else:
        assert (status, tried) == (2, [2, 1])
        assert "--checkpointing" in said.err


@pytest.mark.parametrize(
    ("name", "right"), [("sd15-fr", "sd15-rf"), ("sd21-w", "sd21-v"), ("mini_v", "mini-v")]
)
def test_a_model_has_one_name_and_near_ones_are_refused(
    name: str, right: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"{name}.*did you mean {right}"):
        read_settings(None, name)
    (tmp_path / name).mkdir()  # a folder may be called as one likes
    assert read_settings(None, name).model == name


def test_the_rectified_flow_model_has_its_steps() -> None:
    assert preset("sd15rf").training.steps == 2500
    assert preset("sd21v").training.steps == preset("sd21").training.steps == 2500


@pytest.fixture
def others_lora(tiny_model: Model, tmp_path: Path) -> Path:
    """In kohya's names, without a word of ours."""
    layer = next(name for name in tiny_model.layers if name.endswith("attn2.to_k"))
    outputs, inputs = tiny_model.layers[layer]
    stem = f"lora_unet_{layer.removeprefix('unet.').replace('.', '_')}"
    tensors = {
        f"{stem}.lora_down.weight": torch.ones(2, inputs),
        f"{stem}.lora_up.weight": torch.ones(outputs, 2),
        f"{stem}.alpha": torch.tensor(1.0),
    }
    save_file(tensors, tmp_path / "others.safetensors")
    return tmp_path / "others.safetensors"


@pytest.mark.parametrize("way", ["prompt", "file", "yaml"])
def test_a_lora_of_others_draws_complete_prompts(
    others_lora: Path,
    tiny_model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    way: str,
) -> None:
    (tmp_path / "mine.txt").write_text("a photo of a dog\n", encoding="utf-8")
    (tmp_path / "mine.yaml").write_text("sampling: {prompts: [a photo of a dog]}", encoding="utf-8")
    given = {
        "prompt": ["--prompts", "a photo of a dog"],
        "file": ["--prompts", str(tmp_path / "mine.txt")],
        "yaml": ["--config", str(tmp_path / "mine.yaml")],
    }[way]
    out = tmp_path / "out"
    draw = ["generate", str(others_lora), "--model", str(tiny_model_folder), "--out", str(out)]
    fast = ["--steps", "2", "--images-per-prompt", "1"]
    assert main([*draw, *fast, *given]) == 0, capsys.readouterr().err
    (record,) = out.rglob("images.json")
    assert [image["prompt"] for image in json.loads(record.read_text())["images"]] == [
        "a photo of a dog"
    ]
    with_braces = [*draw[:-1], str(tmp_path / "no"), "--prompts", "a {}"]
    assert main(with_braces) == 2
    assert "write the prompt in full" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_a_prompt_that_leaves_the_learned_word_out_is_refused(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"<toy>": torch.ones(1, 32)}, tmp_path / "my e.safetensors")
    draw = ["generate", str(tmp_path / "my e.safetensors"), "--model", str(tiny_model_folder)]
    assert main([*draw, "--out", str(tmp_path / "out"), "--prompts", "a photo of a dog"]) == 2
    assert "put {} or <toy> where it belongs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*draw, "--steps", "2", "--prompts", "a photo of <toy>"]) == 0
    # The command that is printed next takes what was drawn, of a file by itself too.
    (report,) = re.findall(r"^next: safezone (.+)", capsys.readouterr().out, re.M)
    assert main(shlex.split(report)) == 0


def test_images_that_all_became_nan_leave_no_folder(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"<toy>": torch.full((1, 32), 3e38)}, tmp_path / "e.safetensors")
    draw = ["generate", str(tmp_path / "e.safetensors"), "--model", str(tiny_model_folder)]
    out = tmp_path / "deep" / "out"
    assert main([*draw, "--out", str(out), "--steps", "2", "--prompts", "a {}"]) == 1
    assert "NaN" in capsys.readouterr().out
    assert not out.exists()


def test_export_takes_the_model_that_explains_the_names(
    others_lora: Path, tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    export = ["export", str(others_lora), "--out", str(out), "--form", "diffusers"]
    assert main(export) == 2
    assert "give the model" in capsys.readouterr().err
    assert not out.exists()
    assert main([*export, "--model", str(tiny_model_folder)]) == 0, capsys.readouterr().err
    (path,) = out.rglob("*.safetensors")
    assert sorted(name.rsplit(".", 2)[1] for name in load_file(path)) == ["lora_A", "lora_B"]


def test_adapters_of_one_name_are_not_written_over_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in "ab":
        (tmp_path / folder).mkdir()
        save_file({"<toy>": torch.ones(1, 32)}, tmp_path / folder / "my toy.safetensors")
    files = [str(tmp_path / folder / "my toy.safetensors") for folder in "ab"]
    assert main(["export", *files, "--out", str(tmp_path / "out")]) == 2
    assert "both be written as my-toy" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    for word in ("wrote", "replaced"):
        assert main(["export", files[0], "--out", str(tmp_path / "out")]) == 0
        said = capsys.readouterr().out
        assert f"{word} {tmp_path / 'out' / 'my-toy.safetensors'}" in said
        assert "in prompts: my-toy" in said


@pytest.mark.parametrize(("form", "status"), [("kohya", 2), ("diffusers", 0)])
def test_the_second_file_of_an_adapter_is_not_written_over_either(
    form: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of Custom Diffusion kohya's form has toy and toy-lora, which may be a LoRA's own name."""
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    change = LowRank(torch.ones(1, 3), torch.ones(2, 1))
    for name, vectors in (("toy", 1), ("toy-lora", 0)):
        adapter = Adapter(torch.ones(vectors, 32), "<x>", "dog", deltas={layer: change})
        save_adapter(adapter, tmp_path / "in" / name)
    export = ["export", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--form", form]
    assert main([*export, "--rank", "1"]) == status
    if status:
        assert "both be written as toy-lora" in capsys.readouterr().err
    assert len(list(tmp_path.glob("out/**/*.safetensors"))) == (0 if status else 3)


@pytest.mark.parametrize(("width", "fits"), [(768, True), (128, False)])
def test_an_export_says_where_it_cannot_be_used_and_not_where_the_images_lie(
    width: int, fits: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {"images": "/home/me/toy", "training": "../toy", "seed": 3}
    adapter = Adapter(torch.ones(1, width), "<toy>", "toy", told)
    save_adapter(adapter, tmp_path / "in")
    assert main(["export", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    assert (f"width {width}" in capsys.readouterr().out) is not fits
    (file,) = (tmp_path / "out").glob("*.safetensors")
    assert load_adapter(file).provenance == {"seed": 3}


def test_the_word_of_a_run_s_own_file_is_the_concept_s(tmp_path: Path) -> None:
    file = save_adapter(Adapter(torch.ones(1, 768), "<toy>", "toy"), tmp_path / "in")
    assert main(["export", str(file), "--out", str(tmp_path / "out")]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["toy.safetensors"]


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
def test_every_file_that_export_replaces_is_named(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside what is replaced, what is new is called new, and what is another's stays."""
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    save_file({"<toy>": torch.ones(1, 32)}, tmp_path / "toy.safetensors")
    save_file({f"{layer}.lora_A.weight": torch.ones(1, 32), f"{layer}.lora_B.weight":
               torch.ones(32, 1)}, tmp_path / "lora.safetensors")  # fmt: skip
    files = [str(tmp_path / f"{name}.safetensors") for name in ("toy", "lora")]
    out = tmp_path / "out"
    export = ["export", "--out", str(out), "--form", form]
    assert main([*export, files[0], "--json"]) == 0
    (first,) = json.loads(capsys.readouterr().out)["exported"]
    assert first["replaced"] == []
    assert main([*export, *files, "--json"]) == 0
    again, lora = json.loads(capsys.readouterr().out)["exported"]
    assert again["replaced"] == again["files"] == first["files"]
    assert lora["replaced"] == []
    assert len(list(out.rglob("*.safetensors"))) == 2
    (out / "letter.safetensors").write_bytes(b"another's")
    assert main([*export, *files]) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines() if "safetensors" in line] == [
        "replaced",
        "replaced",
    ]
    assert (out / "letter.safetensors").read_bytes() == b"another's"


def test_what_one_adapter_cannot_be_written_as_is_said_before_any_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"<toy>": torch.ones(1, 32)}, tmp_path / "first.safetensors")
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    save_file({f"{layer}.diff": torch.ones(32, 32)}, tmp_path / "second.safetensors")
    files = [str(tmp_path / f"{name}.safetensors") for name in ("first", "second")]
    assert main(["export", *files, "--form", "diffusers", "--out", str(tmp_path / "out")]) == 2
    assert "give a rank" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["toy", "lora"])
def test_a_rank_for_what_has_no_changes_in_full_is_refused(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    save_file({"<toy>": torch.ones(1, 32)}, tmp_path / "toy.safetensors")
    save_file({f"{layer}.lora_A.weight": torch.ones(2, 32), f"{layer}.lora_B.weight":
               torch.ones(32, 2)}, tmp_path / "lora.safetensors")  # fmt: skip
    export = ["export", str(tmp_path / f"{file}.safetensors"), "--out", str(tmp_path / "out")]
    assert main([*export, "--rank", "1"]) == 2
    assert "--rank is 1, and no adapter here has changes in full" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_learned_can_be_read_by_others(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        save_embedding(Adapter(torch.ones(1, 8), "<x>", "x"), tmp_path / "e.safetensors")
        os.umask(0o002)
        save_embedding(Adapter(torch.ones(1, 8), "<x>", "x"), tmp_path / "g.safetensors")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / f"{n}.safetensors").stat().st_mode) for n in "eg"]
    assert modes == [0o644, 0o664]


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_checkpoints_have_the_umask_s_mode_too(tmp_path: Path, mask: int) -> None:
    """Those of trainings and of poisons, so that another user of the folder can go on."""
    training, poison = tmp_path / "checkpoint.safetensors", tmp_path / "poison"
    before = os.umask(mask)
    try:
        save_state(State.start({"vectors": torch.ones(1, 1, 8)}, 1), training, "key")
        images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
        Checkpoints(poison, "key").save(["a"], 1, images, [torch.Generator()])
    finally:
        os.umask(before)
    files = [training, *poison.iterdir()]
    assert len(files) == 2
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o666 & ~mask}
    assert stat.S_IMODE(poison.stat().st_mode) == 0o777 & ~mask


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--vectors", "80"], "80 vectors"),
        (["--method", "lora", "--targets", "bogus"], "ends in 'bogus'"),
        (["--method", "lora", "--text-encoder", "--text-target", "bogus"], "text_targets such as"),
        (["--tracker", "bogus"], "no tracker 'bogus'"),
        (["--initializer", " "], "has no tokens"),
        (["--method", "lora", "--rank", "3", "--start", "LORA"], "give the targets"),
        (["--start", "LORA"], "no token vectors"),
        (["--start", "WIDE"], "give vectors 2"),
        (["--method", "custom-diffusion", "--crop-rescale"], "too few for crop_rescale"),
        (["--start", "WIDE", "--vectors", "2", "--initializer", "dog"], "start and initializer"),
        (["--method", "lora", "--placeholder", "<x>"], "lora learns no new word"),
        (["--method", "lora", "--text-target", "fc1"], "without text_encoder"),
        (["--prior-images", "9"], "without prior_weight"),
        (["--preview-prompt", "a {}"], "without preview_every"),
    ],
)
def test_what_a_method_refuses_is_refused_before_anything_is_written(
    pictures: Path,
    others_lora: Path,
    tiny_model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words: str,
) -> None:
    save_file({"<x>": torch.ones(2, 32)}, tmp_path / "wide.safetensors")
    files = {"LORA": str(others_lora), "WIDE": str(tmp_path / "wide.safetensors")}
    before = sorted(tmp_path.rglob("*"))
    train = ["personalize", str(pictures), "--model", str(tiny_model_folder)]
    more = [files.get(option, option) for option in options]
    assert main([*train, "--out", str(tmp_path / "runs"), *more]) == 2
    assert words in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
