"""The CLIP score with the learned token kept, on folders that ``generate`` wrote."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPModel, CLIPTextModel

from safezone.arrays import rand, stream
from safezone.cli import main
from safezone.images import to_uint8, write_png
from safezone.lab.store import IMAGES_RECORD
from safezone.models import Model
from safezone.personalize import ADAPTER_FILES, read_adapter
from safezone.results.run_images import read_run_images
from safezone.scores import Pictures
from safezone.scores.loading import load_learned_token_encoder
from safezone.scores.text_image import measure_learned_token
from tiny import write_clip

NO_OTHERS = ("--instance-encoder", "mini-instance", "--text-image-encoder", "none")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A CLIP with the tiny model's own lookup."""
    folder = tmp_path_factory.mktemp("clip")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        write_clip(folder, width=32)
    model = CLIPModel.from_pretrained(folder)
    own = CLIPTextModel.from_pretrained(tiny_model_folder / "text_encoder")
    lookup = {"weight": own.get_parameter("embeddings.token_embedding.weight").detach()}
    model.text_model.embeddings.token_embedding.load_state_dict(lookup)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos") / "toy"
    folder.mkdir()
    for index, image in enumerate(to_uint8(rand([stream(name) for name in "abc"], (3, 64, 64)))):
        write_png(folder / f"{index}.png", image)
    return folder


def make(toy: Path, model: Path, out: Path, method: str) -> Path:
    """The image folder of a short training, by the commands."""
    own = ("--model", str(model), "--steps")
    trained = ("--method", method, "--class-word", "toy", "--defense", "nominal")
    assert main(["personalize", str(toy), *own, "1", *trained, "--out", str(out)]) == 0
    few = ("--prompts", "a red {}", "--images-per-prompt", "2")
    assert main(["generate", str(out), *own, "1", *few]) == 0
    (record,) = out.rglob(IMAGES_RECORD)
    return record.parent


@pytest.mark.parametrize("method", ["ti", "lora", "custom-diffusion"])
def test_score_and_report_keep_the_learned_token(
    clip: Path,
    toy: Path,
    tiny_model_folder: Path,
    tiny_model: Model,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    method: str,
) -> None:
    images = make(toy, tiny_model_folder, tmp_path / "runs", method)
    options = ("--model", str(tiny_model_folder), *NO_OTHERS, "--token-encoder", str(clip))
    capsys.readouterr()
    assert main(["score", str(images), "--clean", str(toy), *options, "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    by_metric = {score["metric"]: score["value"] for score in answer["scores"]}

    drawn, adapter = read_run_images(images), read_adapter(images.parent)
    assert len(adapter.vectors) == (0 if method == "lora" else 1)
    assert drawn.placeholder == (adapter.words if method == "lora" else adapter.placeholder)
    words = (drawn.placeholder, adapter.vectors, tiny_model.word_vectors("toy"))
    pictures = Pictures(drawn.images, drawn.prompts, drawn.images, "toy", *words)
    expected = list(measure_learned_token(load_learned_token_encoder(clip), pictures))
    assert [score.metric for score in expected] == ["clip_score_token", "clip_cosine_token"]
    for score in expected:
        assert by_metric[score.metric] == pytest.approx(score.value, abs=1e-6)

    assert main(["report", str(tmp_path / "runs"), *options]) == 0
    lines = (tmp_path / "runs" / "rows.jsonl").read_text().splitlines()
    rows = {row["metric"]: row["value"] for row in map(json.loads, lines)}
    assert {m: rows[m] for m in by_metric} == pytest.approx(by_metric, abs=1e-6)


def test_where_the_adapter_is_gone_or_the_model_another_nothing_is_scored(
    clip: Path,
    toy: Path,
    tiny_model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = make(toy, tiny_model_folder, tmp_path / "runs", "ti")
    asked = (*NO_OTHERS, "--token-encoder", str(clip))
    options = ("--model", str(tiny_model_folder), *asked)
    folder = ("score", str(images), "--clean", str(toy))
    assert main([*folder, "--model", "mini", *asked]) == 2
    assert "needs the model that drew the images" in capsys.readouterr().err
    assert main(["score", str(toy), "--clean", str(toy), *options]) == 2
    assert f"{toy} has no images.json, which --token-encoder needs" in capsys.readouterr().err
    for name in ADAPTER_FILES:
        (images.parent / name).unlink(missing_ok=True)
    for command in (folder, ("report", str(tmp_path / "runs"))):
        assert main([*command, *options]) == 2
        assert "has no adapter beside it, which --token-encoder needs" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "report.html").exists()
