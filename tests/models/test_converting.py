"""Pickled weights are read as weights, once, and never as programs."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from safezone.cli import main
from safezone.errors import UserError
from safezone.models import load_model
from safezone.models.parts import WEIGHT_FILES, convert
from tiny import write_tiny_folder


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    """A folder as older hub models are: the U-Net in two shards, the rest in one .bin each."""
    folder = write_tiny_folder(tmp_path / "pickled")
    for part, stem in WEIGHT_FILES.items():
        file = folder / part / f"{stem}.safetensors"
        if file.is_file():
            torch.save(load_file(file), file.with_suffix(".bin"))
            file.unlink()
    unet = folder / "unet"
    whole = torch.load(unet / "diffusion_pytorch_model.bin", weights_only=True)
    half = len(whole) // 2
    names = ("a.bin", "b.bin")
    parts = dict(list(whole.items())[:half]), dict(list(whole.items())[half:])
    for name, part_weights in zip(names, parts, strict=True):
        torch.save(part_weights, unet / name)
    listed = {key: name for name, p in zip(names, parts, strict=True) for key in p}
    (unet / "diffusion_pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": listed})
    )
    (unet / "diffusion_pytorch_model.bin").unlink()
    return folder


def test_the_converted_folder_is_the_same_model(pickled: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="safezone models convert"):
        load_model(pickled)
    assert main(["models", "convert", str(pickled), str(tmp_path / "out")]) == 0
    same = load_model(write_tiny_folder(tmp_path / "same"))
    assert load_model(tmp_path / "out").fingerprint() == same.fingerprint()
    assert not list((tmp_path / "out").rglob("*.bin*"))


class Program:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (Path.touch, (Path("made-by-a-pickle"),))  # type: ignore[return-value]


BAD: dict[str, Callable[[Path], object]] = {
    "a program": lambda f: f.write_bytes(pickle.dumps(Program())),
    "a program in torch's form": lambda f: torch.save({"a": Program()}, f),
    "no table": lambda f: torch.save(torch.zeros(2), f),
    "other values": lambda f: torch.save({"a": "text"}, f),
    "cut": lambda f: f.write_bytes(f.read_bytes()[:900]),
    "missing": lambda f: f.unlink(),
}


@pytest.mark.parametrize("damage", BAD.values(), ids=BAD)
def test_what_is_no_weights_is_refused_and_nothing_runs(
    pickled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object]
) -> None:
    monkeypatch.chdir(tmp_path)
    damage(pickled / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match="diffusion_pytorch_model") as caught:
        convert(pickled, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "made-by-a-pickle").exists()


def test_other_folders_and_places_are_refused(pickled: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a diffusers folder"):
        convert(tmp_path, tmp_path / "out")
    shutil.copytree(pickled, tmp_path / "taken")
    with pytest.raises(UserError, match="not empty"):
        convert(pickled, tmp_path / "taken")
    assert main(["models", "convert", str(pickled)]) == 2
