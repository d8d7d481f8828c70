"""Every kind of wrong input: one sentence on standard error, exit status 2, nothing written."""

import errno
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from safezone.cli import main


@dataclass(frozen=True)
class Place:
    """A folder with three good images and masks, a tiny model, and where output may go."""

    images: Path
    model: Path
    out: Path


@pytest.fixture
def place(tmp_path: Path, tiny_model_folder: Path) -> Place:
    images = tmp_path / "toy"
    (images / "masks").mkdir(parents=True)
    rng = np.random.default_rng(0)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    for name in ("a", "b", "c"):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(images / f"{name}.png")
        Image.fromarray(mask).save(images / "masks" / f"{name}.png")
    return Place(images, tiny_model_folder, tmp_path / "out")


def _only(place: Place, *names: str) -> None:
    for path in place.images.glob("*.png"):
        if path.stem not in names:
            path.unlink()
            (place.images / "masks" / path.name).unlink()


def _bomb(path: Path) -> None:
    """A PNG header that promises 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def _nothing(place: Place) -> None:
    pass


def _poison(*more: str) -> Callable[[Place], list[str]]:
    return lambda p: [
        *("poison", str(p.images), "--model", str(p.model), "--out", str(p.out)),
        *("--steps", "1", *more),
    ]


def _personalize(*more: str) -> Callable[[Place], list[str]]:
    return lambda p: [
        *("personalize", str(p.images), "--model", str(p.model), "--out", str(p.out)),
        *("--class-word", "ball", "--steps", "1", *more),
    ]


def _file_at_out(place: Place) -> None:
    place.out.write_text("in the way")


def _wrong_width(place: Place) -> None:
    save_file({"<toy>": torch.zeros(1, 7)}, place.images.parent / "wrong.safetensors")


def _bad_yaml(place: Place) -> None:
    (place.images.parent / "bad.yaml").write_text("training:\n  stepz: 3\n")


CASES: dict[str, tuple[Callable[[Place], object], Callable[[Place], list[str]], str]] = {
    "no such folder": (lambda p: shutil.rmtree(p.images), _poison(), "toy"),
    "no images": (lambda p: _only(p), _poison(), "toy"),
    "one image": (lambda p: _only(p, "a"), _personalize(), "3"),
    "a text file among them": (
        lambda p: (p.images / "notes.txt").write_text("hello"),
        _poison(),
        "notes.txt",
    ),
    "a text file named png": (
        lambda p: (p.images / "b.png").write_text("hello"),
        _poison(),
        "b.png",
    ),
    "truncated": (lambda p: _truncate(p.images / "b.png"), _poison(), "b.png"),
    "bomb": (lambda p: _bomb(p.images / "b.png"), _poison(), "b.png"),
    "two images of one name": (
        lambda p: shutil.copy(p.images / "a.png", p.images / "a.webp"),
        _poison(),
        "a.",
    ),
    "mask of another size": (
        lambda p: Image.new("L", (32, 32), 255).save(p.images / "masks" / "a.png"),
        _personalize("--defense", "szt"),
        "a.png",
    ),
    "empty mask": (
        lambda p: Image.new("L", (64, 64), 0).save(p.images / "masks" / "a.png"),
        _personalize("--defense", "szt"),
        "a.png",
    ),
    "one mask missing": (
        lambda p: (p.images / "masks" / "b.png").unlink(),
        _personalize("--defense", "szt"),
        "b",
    ),
    "no masks for szt": (
        lambda p: shutil.rmtree(p.images / "masks"),
        _personalize("--defense", "szt"),
        "safezone mask",
    ),
    "unknown poison": (_nothing, _poison("--poison", "adm"), "adm+"),
    "unknown defense": (_nothing, _personalize("--defense", "sztt"), "szt"),
    "unknown model": (
        _nothing,
        lambda p: ["poison", str(p.images), "--model", "no-model", "--out", str(p.out)],
        "no-model",
    ),
    "placeholder is a word": (_nothing, _personalize("--placeholder", "photo"), "photo"),
    "budget of 0": (_nothing, _poison("--kappa", "0"), "kappa"),
    "budget is no number": (_nothing, _poison("--kappa", "much"), "kappa"),
    "budget of 16": (_nothing, _poison("--kappa", "16"), "255"),
    "steps of 0": (_nothing, _personalize("--steps", "0"), "steps"),
    "poison steps of 0": (_nothing, _poison("--steps", "0"), "steps"),
    "target is no file": (_nothing, _poison("--poison", "ea", "--target", "blue.png"), "blue.png"),
    "unknown transform": (_nothing, _poison("--transform", "jpeg+swirl"), "swirl"),
    "l2 without a step": (_nothing, _poison("--norm", "l2", "--kappa", "3"), "eta"),
    "no masks for a masked poison": (
        lambda p: shutil.rmtree(p.images / "masks"),
        _poison("--poison", "adm+@szt"),
        "safezone mask",
    ),
    "learning rate of NaN": (_nothing, _personalize("--learning-rate", "nan"), "--learning-rate"),
    "negative seed": (_nothing, _poison("--seed", "-1"), "seed"),
    "output is a picture": (
        _nothing,
        lambda p: ["poison", str(p.images), "--model", str(p.model), "--out", "x.jpg"],
        "PNG",
    ),
    "output is in the way": (_file_at_out, _poison(), "out"),
    "unknown key in yaml": (
        _bad_yaml,
        lambda p: [*_personalize()(p), "--config", str(p.images.parent / "bad.yaml")],
        "stepz",
    ),
    "unknown option": (_nothing, _poison("--epsilon", "3"), "--epsilon"),
    "embedding of another width": (
        _wrong_width,
        lambda p: [
            *("generate", str(p.images.parent / "wrong.safetensors"), "--model", str(p.model)),
            *("--prompts", "a {}", "--out", str(p.out), "--seed", "0"),
        ],
        "7",
    ),
    "unknown prompt list": (
        lambda p: save_file({"<toy>": torch.zeros(1, 32)}, p.images.parent / "e.safetensors"),
        lambda p: [
            *("generate", str(p.images.parent / "e.safetensors"), "--model", str(p.model)),
            *("--prompts", "all26", "--out", str(p.out), "--seed", "0"),
        ],
        "all26",
    ),
    "nothing to report": (_nothing, lambda p: ["report", str(p.images)], "toy"),
    "unknown command": (_nothing, lambda p: ["poisn"], "poison"),
}


def _tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _one_sentence(text: str, hint: str) -> None:
    lines = [line for line in text.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, text
    assert lines[0].startswith("safezone: ")
    assert hint in lines[0]
    assert "Traceback" not in text


@pytest.mark.parametrize("name", CASES)
def test_one_sentence_and_status_2(
    name: str, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, command, hint = CASES[name]
    damage(place)
    before = _tree(tmp_path)
    assert main(command(place)) == 2
    said = capsys.readouterr()
    _one_sentence(said.err, hint)
    assert said.out == ""
    assert _tree(tmp_path) == before


def test_model_with_nan_weights(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(place.model, broken)
    path = broken / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: torch.full_like(v, float("nan")) for k, v in load_file(path).items()}, path)
    arguments = ["poison", str(place.images), "--model", str(broken), "--out", str(place.out)]
    assert main(arguments) == 2
    _one_sentence(capsys.readouterr().err, "NaN")
    assert not place.out.exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_disk_that_cannot_be_written(
    code: int,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), str(place.out))

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(os, "rename", refuse)
    assert main(_poison()(place)) == 2
    _one_sentence(capsys.readouterr().err, "out")
    assert not place.out.exists()


def test_exit_status_of_the_process(place: Place) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "safezone", "poison", str(place.images / "nowhere")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    _one_sentence(done.stderr, "--out")
