"""Files that other programs read: one key, fp32, and read back by those programs."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from safezone.arrays import randn, stream
from safezone.errors import UserError
from safezone.generate import generate
from safezone.models import Model
from safezone.personalize import Adapter, load_embedding, save_embedding


def adapter_of(model: Model, vectors: int = 1) -> Adapter:
    values = randn([stream("adapter", k) for k in range(vectors)], (model.embedding_width,))
    return Adapter(0.1 * values, "<duck>", "dog", {"seed": 3, "settings": {"steps": 5}})


@pytest.mark.parametrize("vectors", [1, 3])
def test_what_is_saved_is_loaded(tiny_model: Model, tmp_path: Path, vectors: int) -> None:
    adapter = adapter_of(tiny_model, vectors)
    save_embedding(adapter, tmp_path / "duck.safetensors")
    loaded = load_embedding(tmp_path / "duck.safetensors")
    assert torch.equal(loaded.vectors, adapter.vectors)
    assert (loaded.placeholder, loaded.class_word) == ("<duck>", "dog")
    assert loaded.provenance == adapter.provenance


def test_the_file_has_one_key_in_fp32(tiny_model: Model, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "duck.safetensors"
    adapter = adapter_of(tiny_model)
    save_embedding(replace(adapter, vectors=adapter.vectors.double()), path)
    tensors = load_file(path)
    assert list(tensors) == ["<duck>"]
    assert tensors["<duck>"].dtype == torch.float32
    assert tensors["<duck>"].shape == (1, tiny_model.embedding_width)
    assert [p.name for p in path.parent.iterdir()] == ["duck.safetensors"]


def test_equal_adapters_are_equal_files(tiny_model: Model, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for path in paths:
        save_embedding(adapter_of(tiny_model), path)
    assert len({path.read_bytes() for path in paths}) == 1


@pytest.mark.parametrize("vectors", [1, 3])
def test_the_stock_pipeline_draws_the_same_image(
    tiny_model: Model, tiny_model_folder: Path, tmp_path: Path, vectors: int
) -> None:
    adapter = adapter_of(tiny_model, vectors)
    save_embedding(adapter, tmp_path / "duck.safetensors")
    (ours,) = generate(
        tiny_model,
        [adapter],
        ["a photo of a {} on grass"],
        seed=4,
        noise_keys=["duck"],
        steps=6,
        guidance=5.0,
        progress=False,
    )
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model_folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.load_textual_inversion(str(tmp_path / "duck.safetensors"))
    (theirs,) = pipeline(
        "a photo of a <duck> on grass",
        latents=randn([stream(4, "generate", "duck", 0, 0)], (4, 8, 8)),
        num_inference_steps=6,
        guidance_scale=5.0,
        output_type="pil",
    ).images
    difference = ours[0].permute(1, 2, 0).numpy().astype(int) - np.asarray(theirs).astype(int)
    assert abs(difference).max() <= 1
    assert ours.float().std() > 5


@pytest.mark.parametrize(
    ("key", "shape", "placeholder"),
    [
        ("<toy>", (1, 8), "<toy>"),
        ("<toy>", (3, 8), "<toy>"),
        ("<toy>", (8,), "<toy>"),
        ("emb_params", (2, 8), "<other>"),
    ],
)
def test_files_of_others_are_read(
    tmp_path: Path, key: str, shape: tuple[int, ...], placeholder: str
) -> None:
    values = torch.arange(float(np.prod(shape))).view(shape)
    save_file({key: values.half()}, tmp_path / "other.safetensors")
    adapter = load_embedding(tmp_path / "other.safetensors")
    assert adapter.placeholder == placeholder
    assert adapter.vectors.dtype == torch.float32
    assert torch.equal(adapter.vectors, values.view(-1, 8))
    assert adapter.provenance == {}


def header_only(path: Path) -> None:
    text = json.dumps({"x": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_bytes(b"\x80\x02}q\x00."), "not a safetensors file"),
        (header_only, "not a safetensors file"),
        (lambda path: save_file({"a": torch.ones(2), "b": torch.ones(2)}, path), "2 tensors"),
        (
            lambda path: save_file({"clip_l": torch.ones(1, 2), "clip_g": torch.ones(2, 3)}, path),
            "unequal numbers",
        ),
        (lambda path: save_file({"a": torch.ones(2, 2, 2)}, path), r"\[vectors, width\]"),
        (lambda path: save_file({"a": torch.ones(2, dtype=torch.int64)}, path), "int64"),
        (lambda path: save_file({"a": torch.full((2,), torch.nan)}, path), "NaN"),
        (
            lambda path: save_file({"a": torch.ones(2)}, path, {"safezone": "{"}),
            "broken safezone metadata",
        ),
    ],
)
def test_other_files_are_refused(tmp_path: Path, write: object, words: str) -> None:
    path = tmp_path / "x.safetensors"
    write(path)  # type: ignore[operator]
    with pytest.raises(UserError, match=words):
        load_embedding(path)


def test_the_file_name_must_say_what_it_is(tiny_model: Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.safetensors"):
        save_embedding(adapter_of(tiny_model), tmp_path / "duck.bin")
    assert not list(tmp_path.iterdir())
