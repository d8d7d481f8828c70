"""Pickled weights are read as weights, once, and never as programs."""

import json
import pickle
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import WEIGHTS_NAME as DIFFUSERS
from safetensors.torch import load_file
from transformers.utils import WEIGHTS_NAME as CLIP

from safezone.cli import main
from safezone.errors import UserError
from safezone.models import load_model
from safezone.models.known import hub_name
from safezone.models.parts import convert
from tiny import write_tiny_folder


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    """A folder as older hub models are: the U-Net in two shards, the rest in one .bin each.

    By the names that diffusers and transformers give their .bin files.
    """
    folder = write_tiny_folder(tmp_path / "pickled")
    for part, name in {**dict.fromkeys(("unet", "vae"), DIFFUSERS), "text_encoder": CLIP}.items():
        (file,) = (folder / part).glob("*.safetensors")
        torch.save(load_file(file), folder / part / name)
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


def test_a_safety_checker_is_left_out_and_stock_diffusers_opens_the_rest(
    pickled: Path, tmp_path: Path
) -> None:
    checker = pickled / "safety_checker"
    checker.mkdir()
    (checker / "config.json").write_text("{}")
    (checker / "pytorch_model.bin").write_bytes(b"never read")
    index = json.loads((pickled / "model_index.json").read_text())
    index |= {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],  # which was not fetched
        "requires_safety_checker": True,
    }
    (pickled / "model_index.json").write_text(json.dumps(index))
    out = convert(pickled, tmp_path / "out")
    pipeline = StableDiffusionPipeline.from_pretrained(out)
    assert pipeline.safety_checker is None and pipeline.feature_extractor is None
    assert not (out / "safety_checker").exists()


def test_a_variant_is_not_taken_for_the_weights(pickled: Path, tmp_path: Path) -> None:
    """diffusers opens ``.fp16.safetensors`` only for those who name the variant."""
    (pickled / "vae" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"not opened")
    shutil.rmtree(pickled / "unet")
    shutil.copytree(write_tiny_folder(tmp_path / "same") / "unet", pickled / "unet")
    with pytest.raises(UserError, match="vae has only pickled"):
        load_model(pickled)
    convert(pickled, tmp_path / "out")
    same = load_model(tmp_path / "same").fingerprint()
    assert load_model(tmp_path / "out").fingerprint() == same


def test_what_is_fetched_to_be_converted(
    pickled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder first, as everywhere; else the hub's, by a short name too, with its .bin files."""
    asked: list[tuple[str, list[str]]] = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(pickled)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    convert("sd21-v", tmp_path / "out")
    ((name, patterns),) = asked
    assert name == hub_name("sd21-v")
    files = {f.relative_to(pickled).as_posix() for f in pickled.rglob("*.bin*")}
    fetched = {f for f in files if any(fnmatch(f, pattern) for pattern in patterns)}
    assert fetched == files - {"unet/a.bin", "unet/b.bin"}  # ours: the hub's end in -00001-of-00002
    shutil.copytree(pickled, tmp_path / "sd15")
    assert main(["models", "convert", "sd15", "again"]) == 0
    assert len(asked) == 1


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
