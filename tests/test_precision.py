"""What models compute in, everywhere a model runs; and one sentence when memory runs out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from safezone.cli import main
from safezone.commands import opening
from safezone.models import load_model
from safezone.models.known import set_precision
from safezone.personalize import Adapter, save_adapter
from tiny import write_tiny_folder

COMMANDS: dict[str, Callable[[str], list[str]]] = {
    "personalize": lambda f: ["personalize", f, "--out", "out"],
    "generate": lambda f: ["generate", f, "--prompts", "a {}"],
    "poison": lambda f: ["poison", f, "--out", "out", "--poison", "ea"],
    "claim": lambda f: ["claim", "--out", "out"],
    "grid": lambda f: ["grid", "run", "table9", "--out", "out"],
    "figure": lambda f: ["figure", "9", "--out", "out"],
    "analyze timesteps": lambda f: ["analyze", "timesteps", f, "--out", "out"],
    "analyze sensitivity": lambda f: [
        *("analyze", "sensitivity", f, "--out", "out", "--prompt", "a cat", "--word", "cat")
    ],
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image and an embedding."""
    folder = tmp_path_factory.mktemp("exported") / "toy"
    folder.mkdir()
    for k in range(3):
        image = torch.randint(0, 256, (64, 64, 3), generator=torch.Generator().manual_seed(k))
        Image.fromarray(image.to(torch.uint8).numpy()).save(folder / f"{k}.png")
    save_adapter(Adapter(torch.ones(1, 32), "<x-1>", "dog"), folder / "learned_embeds.safetensors")
    return folder


@pytest.fixture
def concept(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """That folder, from another one to work in."""
    monkeypatch.chdir(tmp_path)
    return str(exported)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("precision", ["float32-exact", "bfloat16"])
def test_every_command_that_runs_a_model_takes_a_precision(
    name: str, precision: str, concept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    class Opened(Exception):
        pass

    def load(model: str, device: Any, dtype: torch.dtype, **options: Any) -> None:
        asked.append((dtype, options))
        raise Opened

    monkeypatch.setattr(opening, "load_model", load)
    told = ["--precision", precision, "--long-prompts", "chunks"]
    with pytest.raises(Opened):
        main([*COMMANDS[name](concept), *told])
    assert asked == [(getattr(torch, precision.removesuffix("-exact")), {"long_prompts": "chunks"})]


ERRORS = {
    "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    "python": MemoryError(),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("name", COMMANDS)
def test_when_memory_runs_out_a_sentence_says_what_to_lower(
    name: str,
    error: Exception,
    concept: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(opening, "load_model", load)
    capsys.readouterr()
    assert main(COMMANDS[name](concept)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert "memory ran out; give --precision bfloat16" in lines[-1]
    assert ("--checkpointing" in lines[-1]) == (name in ("personalize", "claim", "grid", "figure"))
    assert "Traceback" not in "\n".join(lines)


def test_other_errors_stay_what_they_are(concept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(opening, "load_model", load)
    with pytest.raises(RuntimeError, match="mat1"):
        main(COMMANDS["poison"](concept))


@pytest.mark.parametrize(
    ("precision", "fast", "words"),
    [
        ("float32", True, "float32 with TF32"),
        ("float32-exact", False, "float32"),
        ("bfloat16", True, "bfloat16"),
    ],
)
def test_tf32_is_for_gpus_and_can_be_turned_off(precision: Any, fast: bool, words: str) -> None:
    backends: Any = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = not fast
        assert set_precision(precision, torch.device("cpu")) == words.removesuffix(" with TF32")
        assert [backend.allow_tf32 for backend in backends] == [not fast] * 2, "a CPU has none"
        assert set_precision(precision, torch.device("cuda")) == words
        assert [backend.allow_tf32 for backend in backends] == [fast] * 2
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def test_what_is_made_in_tf32_has_another_key(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "model")
    plain, fast = load_model(folder), load_model(folder)
    half = load_model(folder, dtype=torch.bfloat16)
    fast.precision = "float32 with TF32"
    assert len({model.fingerprint() for model in (plain, fast, half)}) == 3


def test_the_record_says_the_precision_and_what_was_not_seen(concept: str, tmp_path: Path) -> None:
    told = ["--steps", "2", "--batch-size", "1", "--precision", "bfloat16", "--threads", "1"]
    assert main(["personalize", concept, "--out", "runs", *told]) == 0
    (file,) = (tmp_path / "runs").rglob("run.json")
    record = json.loads(file.read_text())
    assert (record["precision"], "unseen" in record) == ("bfloat16", False)
    long = "a {} and " + "a red cat on grass and " * 20
    drawn = ["--precision", "bfloat16", "--steps", "1", "--prompts", long]
    assert main(["generate", "runs", *drawn]) == 0
    (file,) = (tmp_path / "runs").rglob("images.json")
    record = json.loads(file.read_text())
    (unseen,) = record["unseen"].values()
    assert unseen.endswith("on grass and")
    assert record["precision"] == "bfloat16"


def test_captions_longer_than_the_encoder_are_told_once_and_recorded(
    concept: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = sorted(path for path in Path(concept).iterdir() if path.suffix == ".png")
    for path in images:
        caption = "a {} and " + "a red cat on grass and " * 20 + f"the ball {path.stem}"
        path.with_suffix(".txt").write_text(caption)
    train = ["personalize", concept, "--out", "long", "--templates", "captions", "--steps", "6"]
    assert main([*train, "--batch-size", "1", "--threads", "1"]) == 0
    error = capsys.readouterr().err
    told = [line for line in error.splitlines() if "does not see" in line]
    assert told, error
    assert len(told) == len(set(told)) <= len(images)  # each caption that was drawn, once
    (file,) = (tmp_path / "long").rglob("run.json")
    unseen = json.loads(file.read_text())["unseen"]
    assert {text[-10:] for text in unseen.values()} == {f"the ball {path.stem}" for path in images}
