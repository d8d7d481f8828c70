"""Encoders read real folders of tiny random models, and only those that are whole."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPModel,
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetModel,
)

from safezone.errors import UserError
from safezone.scores import CachedEncoder, load_encoder, load_text_image_encoder, loading
from safezone.scores.encoders import DINOV2, MINI, Preprocessing, read_preprocessing
from tiny import write_clip

IMAGES = torch.randint(
    0, 256, (5, 3, 40, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def write_resnet(folder: Path) -> None:
    ResNetModel(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    ).save_pretrained(folder)


def write_convnext(folder: Path) -> None:
    ConvNextModel(
        ConvNextConfig(num_stages=2, hidden_sizes=[8, 12], depths=[1, 1])
    ).save_pretrained(folder)


def write_dinov2(folder: Path) -> None:
    Dinov2Model(
        Dinov2Config(
            hidden_size=12, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
        )
    ).save_pretrained(folder)


WRITERS: dict[str, Callable[[Path], None]] = {
    "resnet": write_resnet,
    "convnext": write_convnext,
    "dinov2": write_dinov2,
    "clip": write_clip,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    result = {}
    for name, write in WRITERS.items():
        result[name] = tmp_path_factory.mktemp(name) / "encoder"
        write(result[name])
    return result


@pytest.mark.parametrize("kind", WRITERS)
def test_features_are_rows_that_do_not_depend_on_their_neighbours(
    folders: dict[str, Path], kind: str
) -> None:
    encoder = load_encoder(folders[kind])
    together = encoder.features(IMAGES)
    alone = torch.cat([encoder.features(image[None]) for image in IMAGES])
    assert together.shape == (5, 12)
    assert together.dtype == torch.float32 and not together.requires_grad
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-6


@pytest.mark.parametrize("kind", WRITERS)
def test_no_images_are_refused(folders: dict[str, Path], kind: str) -> None:
    with pytest.raises(ValueError, match="no images"):
        load_encoder(folders[kind]).features(IMAGES[:0])


def test_dinov2_features_are_the_class_token(folders: dict[str, Path]) -> None:
    network = Dinov2Model.from_pretrained(folders["dinov2"]).eval()
    with torch.no_grad():
        expected = network(DINOV2(IMAGES)).last_hidden_state[:, 0]
    torch.testing.assert_close(load_encoder(folders["dinov2"]).features(IMAGES), expected)


def test_clip_agrees_with_the_stock_model(folders: dict[str, Path]) -> None:
    encoder = load_text_image_encoder(folders["clip"])
    model = CLIPModel.from_pretrained(folders["clip"]).eval()
    texts = ["a cat", "a red vase", "a cat"]
    tokens = encoder.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = model(**tokens, pixel_values=MINI(IMAGES))
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(unit(encoder.features(IMAGES)), output.image_embeds)
    torch.testing.assert_close(
        unit(encoder.text_features(texts)), output.text_embeds, rtol=1e-4, atol=1e-5
    )


def test_clip_cuts_texts_that_are_too_long(folders: dict[str, Path]) -> None:
    encoder = load_text_image_encoder(folders["clip"])
    assert encoder.text_features(["a cat on the beach " * 30]).isfinite().all()


def test_a_projection_beside_the_network_is_applied(folders: dict[str, Path]) -> None:
    path = folders["resnet"] / "projection.safetensors"
    plain = load_encoder(folders["resnet"]).features(IMAGES)
    weight, bias = torch.randn(4, 12), torch.randn(4)
    try:
        save_file({"weight": weight, "bias": bias}, path)
        projected = load_encoder(folders["resnet"]).features(IMAGES)
    finally:
        path.unlink()
    torch.testing.assert_close(projected, plain @ weight.T + bias)


class Counting:
    """An encoder that counts the images it has seen."""

    name = "counting"
    seen = 0

    def features(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return images.float().mean(dim=(2, 3))

    def fingerprint(self) -> str:
        return self.name


def test_the_cache_asks_once_for_each_content() -> None:
    inner = Counting()
    encoder = CachedEncoder(inner)
    twice = torch.cat([IMAGES, IMAGES[:2]])
    for _ in range(2):
        torch.testing.assert_close(encoder.features(twice), Counting().features(twice))
    assert inner.seen == len(IMAGES)
    encoder.features(IMAGES[:1] ^ 1)
    assert inner.seen == len(IMAGES) + 1


def test_the_cache_forgets_what_is_beyond_its_capacity() -> None:
    inner = Counting()
    encoder = CachedEncoder(inner, capacity=2)
    encoder.features(IMAGES)
    encoder.features(IMAGES[-2:])
    assert inner.seen == len(IMAGES)
    encoder.features(IMAGES[:1])
    assert inner.seen == len(IMAGES) + 1


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_resizing_agrees_with_pillow(mode: str) -> None:
    ramp = torch.stack(
        [torch.arange(96).repeat(96, 1) * 2, torch.zeros(96, 96), IMAGES.new_full((96, 96), 200)]
    ).to(torch.uint8)
    prepare = Preprocessing(32, mode, (24, 24), (0, 0, 0), (1, 1, 1))
    resample = Image.Resampling[mode.upper()]
    picture = Image.fromarray(ramp.permute(1, 2, 0).numpy()).resize((32, 32), resample)
    expected = np.asarray(picture.crop((4, 4, 28, 28)), dtype=np.float32) / 255
    result = prepare(ramp[None])[0].permute(1, 2, 0)
    np.testing.assert_allclose(result, expected, atol=1 / 255)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, MINI),
        (
            {"size": 224, "resample": 3, "crop_size": {"height": 200, "width": 180}},
            Preprocessing(224, "bicubic", (200, 180), MINI.mean, MINI.std),
        ),
        (
            {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 2},
            Preprocessing(256, "bilinear", (224, 224), MINI.mean, MINI.std),
        ),
        (
            {"size": {"shortest_edge": 384}, "crop_pct": 0.875, "resample": 2},
            Preprocessing((384, 384), "bilinear", (384, 384), MINI.mean, MINI.std),
        ),
        (
            {"size": {"height": 32, "width": 48}, "image_std": [0.1, 0.2, 0.3]},
            Preprocessing((32, 48), "area", None, MINI.mean, (0.1, 0.2, 0.3)),
        ),
    ],
)
def test_preprocessor_settings(
    tmp_path: Path, settings: dict[str, object], expected: Preprocessing
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    assert read_preprocessing(tmp_path, MINI) == expected


def test_a_folder_without_a_model_type_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="'bert' is none of"):
        load_encoder(tmp_path)


def test_missing_weights_are_not_made_up(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folders["resnet"] / "config.json").read_text())
    with pytest.raises(UserError, match="cannot be opened as ResNetModel"):
        load_encoder(tmp_path)
    tensors = load_file(folders["resnet"] / "model.safetensors")
    tensors.pop("embedder.embedder.convolution.weight")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 weights, the first is embedder"):
        load_encoder(tmp_path)


def test_pickled_weights_are_not_opened(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folders["resnet"] / "config.json").read_text())
    torch.save(load_file(folders["resnet"] / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load_encoder(tmp_path)


def test_a_clip_without_a_tokenizer_is_told(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folders["clip"] / name).read_bytes())
    with pytest.raises(UserError, match="no tokenizer"):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mini-instanse", "near it: mini-instance"),
        ("./nowhere", "no such encoder or folder"),
        ("someone/some-model", "neither a folder nor a model"),
        ("dinov2", "facebook/dinov2-base"),
    ],
)
def test_unknown_names_are_told(
    name: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=told):
        load_encoder(name)


def test_absent_built_in_weights_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loading, "BUILTIN_FOLDER", tmp_path)
    with pytest.raises(UserError, match="install the package again"):
        load_encoder("mini-instance")


def test_an_encoder_without_text_is_told(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="reads no text"):
        load_text_image_encoder(folders["resnet"])
