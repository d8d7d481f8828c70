"""What can be opened is opened whole; what cannot is told in one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from safezone.errors import UserError
from safezone.models import builtin_folder, known, load_model
from safezone.models.stable import StableDiffusion
from tiny import tiny_pipeline

UNET = Path("unet/diffusion_pytorch_model.safetensors")


def edit_json(file: Path, **changes: object) -> None:
    value = json.loads(file.read_text())
    value.update(changes)
    file.write_text(json.dumps(value))


def drop_a_weight(folder: Path) -> None:
    weights = load_file(folder / UNET)
    del weights["conv_in.bias"]
    save_file(weights, folder / UNET)


def reshape_a_weight(folder: Path) -> None:
    weights = load_file(folder / UNET)
    weights["conv_in.bias"] = torch.zeros(3)
    save_file(weights, folder / UNET)


def drop_vocabulary(folder: Path) -> None:
    for name in ("vocab.json", "merges.txt", "tokenizer.json"):
        (folder / "tokenizer" / name).unlink()


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no index": (lambda f: (f / "model_index.json").unlink(), "no model_index.json"),
    "bad index": (lambda f: (f / "model_index.json").write_text("{"), "not valid JSON"),
    "index is a list": (lambda f: (f / "model_index.json").write_text("[]"), "JSON object"),
    "three encoders": (
        lambda f: edit_json(f / "model_index.json", text_encoder_3=["transformers", "X"]),
        "only pipelines like Stable Diffusion",
    ),
    "no second encoder": (
        lambda f: edit_json(f / "model_index.json", text_encoder_2=["transformers", "X"]),
        "no text_encoder_2 folder",
    ),
    "no unet": (lambda f: shutil.rmtree(f / "unet"), "no unet folder"),
    "no scheduler file": (
        lambda f: (f / "scheduler/scheduler_config.json").unlink(),
        "scheduler_config.json is missing",
    ),
    "pickled": (lambda f: (f / UNET).rename((f / UNET).with_suffix(".bin")), "pickled"),
    "a variant": (
        lambda f: (f / UNET).rename((f / UNET).with_suffix(".fp16.safetensors")),
        "model.fp16.safetensors, a variant.*rename it to diffusion_pytorch_model.safetensors",
    ),
    "no weights": (lambda f: (f / UNET).unlink(), "has no diffusion_pytorch_model.safetensors"),
    "half written": (
        lambda f: (f / UNET).write_bytes((f / UNET).read_bytes()[:5000]),
        "unet cannot be opened",
    ),
    "missing weight": (drop_a_weight, "lacks 1 weights, the first is conv_in.bias"),
    "misshapen weight": (reshape_a_weight, "unet cannot be opened|lacks 1 weights"),
    "inpainting": (lambda f: edit_json(f / "unet/config.json", in_channels=9), "inpainting"),
    "sample prediction": (
        lambda f: edit_json(f / "scheduler/scheduler_config.json", prediction_type="sample"),
        "prediction_type 'sample'",
    ),
    "odd betas": (
        lambda f: edit_json(f / "scheduler/scheduler_config.json", beta_schedule="odd"),
        "betas",
    ),
    "betas of no number": (
        lambda f: edit_json(f / "scheduler/scheduler_config.json", num_train_timesteps="many"),
        "betas",
    ),
    "no size": (lambda f: edit_json(f / "unet/config.json", sample_size=None), "sample_size None"),
    "two sides": (
        lambda f: edit_json(f / "unet/config.json", sample_size=[8, 8]),
        r"sample_size \[8, 8\]",
    ),
    "no vocabulary": (drop_vocabulary, "tokenizer"),
}


@pytest.mark.parametrize(("damage", "sentence"), BROKEN.values(), ids=BROKEN)
def test_a_broken_folder_is_told_in_one_sentence(
    tiny_model_folder: Path,
    tmp_path: Path,
    damage: Callable[[Path], object],
    sentence: str,
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_model_folder, folder)
    damage(folder)
    with pytest.raises(UserError, match=sentence) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert "copy" in str(caught.value) or "scheduler" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("no-such-model", "no model folder"),
        ("/no/such/folder", "no model folder"),
        ("~nobody-at-all", "no model folder '~nobody-at-all'"),
        (Path("owner/name"), "no model folder"),  # a Path is never asked of the hub
        ("nobody-at-all/no-such-model", "no folder"),  # offline in tests
    ],
)
def test_unknown_names(name: str | Path, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_model(name)


@pytest.mark.parametrize(
    ("name", "words"), [("model.safetensors", "no safetensors"), ("model.ckpt", "can run code")]
)
def test_a_single_file_that_is_no_checkpoint(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=words):
        load_model(tmp_path / name)


def test_a_single_file_without_its_configurations_is_told_what_it_needs(tmp_path: Path) -> None:
    save_file({"model.diffusion_model.x": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"configurations and the tokenizer .* into .*/model"):
        load_model(tmp_path / "model.safetensors")


def test_a_single_file_with_its_configurations_opens(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The conversion of names is diffusers' own; here it is a pipeline opened from a folder."""
    file = tmp_path / "toy.safetensors"
    save_file({"model.diffusion_model.x": torch.zeros(2)}, file)
    shutil.copytree(tiny_model_folder, tmp_path / "toy")
    told: dict[str, object] = {}

    def convert(path: str, **options: object) -> StableDiffusionPipeline:
        told.update(options, path=path)
        return StableDiffusionPipeline.from_pretrained(options["config"], safety_checker=None)

    monkeypatch.setattr(StableDiffusionPipeline, "from_single_file", convert)
    model, folder = load_model(file), load_model(tiny_model_folder)
    assert (told["path"], told["config"]) == (str(file), str(tmp_path / "toy"))
    assert (model.name, model.folder) == ("toy", file)
    assert type(model.process) is type(folder.process)
    assert torch.equal(model.word_vectors("cat"), folder.word_vectors("cat"))
    other: Any = StableDiffusionPipeline.from_pretrained(tiny_model_folder, safety_checker=None)
    other.unet.register_to_config(in_channels=9)
    monkeypatch.setattr(StableDiffusionPipeline, "from_single_file", lambda *_, **__: other)
    with pytest.raises(UserError, match=r"toy.safetensors takes 9 channels for 4: an inpainting"):
        load_model(file)


@pytest.mark.parametrize("device", ["no-device", "cuda:99"])
def test_unknown_devices(tiny_model_folder: Path, device: str) -> None:
    with pytest.raises(UserError, match="device"):
        load_model(tiny_model_folder, device=device)


def test_missing_builtin_weights_name_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "WEIGHTS", tmp_path)
    with pytest.raises(UserError, match="python -m training"):
        load_model("mini")
    with pytest.raises(UserError, match="no built-in model"):
        builtin_folder("maxi")


def test_a_builtin_name_opens_its_folder(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_model_folder, tmp_path / "mini")
    monkeypatch.setattr(known, "WEIGHTS", tmp_path)
    model = load_model("mini")
    assert (model.name, model.folder) == ("mini", tmp_path / "mini")


def test_half_precision_on_disk_is_single_precision_in_memory(tmp_path: Path) -> None:
    pipeline = tiny_pipeline(tmp_path)
    weight = pipeline.unet.conv_in.weight.detach().clone()
    pipeline.to(dtype=torch.float16).save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert isinstance(model, StableDiffusion)
    assert load_file(tmp_path / UNET)["conv_in.weight"].dtype == torch.float16
    for module in (model.unet, model.vae, model.text_encoder):
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert torch.equal(model.unet.conv_in.weight, weight.half().float())


def test_text_encoder_keys_with_the_older_prefix(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_model_folder, folder)
    file = folder / "text_encoder/model.safetensors"
    weights = {
        f"text_model.{key.removeprefix('text_model.')}": value
        for key, value in load_file(file).items()
    }
    save_file(weights, file, metadata={"format": "pt"})
    old, new = load_model(folder), load_model(tiny_model_folder)
    assert torch.equal(old.word_vectors("cat"), new.word_vectors("cat"))
    hidden = [m.embed_text(m.tokenize(["a cat"])).encoder_hidden_states for m in (old, new)]
    assert torch.equal(hidden[0], hidden[1])
