"""The key sets of other programs, and what is lost where a format cannot hold all."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from safezone.arrays import stream
from safezone.errors import UserError
from safezone.models import Model
from safezone.models.deltas import Delta, Full, LowRank
from safezone.personalize import Adapter, export_adapter, load_adapter, save_adapter
from safezone.personalize.exports import low_rank
from safezone.personalize.layer_names import diffusers_key, kohya_key

BLOCK = "transformer_blocks.0.attn2"

# (ours, diffusers', kohya's for one text encoder), from diffusers' loading documentation and the
# tables of kohya's networks/lora.py and AUTOMATIC1111's extensions-builtin/Lora/networks.py.
ONE_ENCODER = [
    (
        f"unet.down_blocks.0.attentions.1.{BLOCK}.to_k",
        f"unet.down_blocks.0.attentions.1.{BLOCK}.to_k",
        "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn2_to_k",
    ),
    (
        f"unet.mid_block.attentions.0.{BLOCK}.to_out.0",
        f"unet.mid_block.attentions.0.{BLOCK}.to_out.0",
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0",
    ),
    (
        "text_encoder.encoder.layers.11.self_attn.q_proj",
        "text_encoder.text_model.encoder.layers.11.self_attn.q_proj",
        "lora_te_text_model_encoder_layers_11_self_attn_q_proj",
    ),
]

# SDXL's true blocks in the names of the original U-Net (kohya's sdxl_model_util and ComfyUI).
XL = [
    (f"unet.down_blocks.1.attentions.0.{BLOCK}.to_v", "lora_unet_input_blocks_4_1_"),
    (f"unet.down_blocks.1.attentions.1.{BLOCK}.to_v", "lora_unet_input_blocks_5_1_"),
    (f"unet.down_blocks.2.attentions.0.{BLOCK}.to_v", "lora_unet_input_blocks_7_1_"),
    (f"unet.down_blocks.2.attentions.1.{BLOCK}.to_v", "lora_unet_input_blocks_8_1_"),
    (f"unet.mid_block.attentions.0.{BLOCK}.to_v", "lora_unet_middle_block_1_"),
    (f"unet.up_blocks.0.attentions.0.{BLOCK}.to_v", "lora_unet_output_blocks_0_1_"),
    (f"unet.up_blocks.0.attentions.2.{BLOCK}.to_v", "lora_unet_output_blocks_2_1_"),
    (f"unet.up_blocks.1.attentions.1.{BLOCK}.to_v", "lora_unet_output_blocks_4_1_"),
]


@pytest.mark.parametrize(("ours", "diffusers", "kohya"), ONE_ENCODER)
def test_names_for_one_text_encoder(ours: str, diffusers: str, kohya: str) -> None:
    assert diffusers_key(ours) == diffusers
    assert kohya_key(ours, xl=False) == kohya


@pytest.mark.parametrize(("ours", "kohya"), XL)
def test_names_for_xl(ours: str, kohya: str) -> None:
    assert kohya_key(ours, xl=True) == f"{kohya}transformer_blocks_0_attn2_to_v"


@pytest.mark.parametrize(("part", "number"), [("text_encoder", 1), ("text_encoder_2", 2)])
def test_names_of_the_text_encoders_of_xl(part: str, number: int) -> None:
    name = f"{part}.encoder.layers.3.mlp.fc1"
    assert kohya_key(name, xl=True) == f"lora_te{number}_text_model_encoder_layers_3_mlp_fc1"


def layers_of(model: Model, end: str, count: int = 3) -> list[str]:
    return [name for name in model.layers if name.endswith(end)][:count]


def random_lora(model: Model, alpha: float = 1.0) -> Adapter:
    deltas: dict[str, Delta] = {}
    for name in layers_of(model, "to_k") + layers_of(model, "q_proj", 1):
        outputs, inputs = model.layers[name]
        generator = stream("lora", name)
        deltas[name] = LowRank(
            torch.randn(2, inputs, generator=generator),
            torch.randn(outputs, 2, generator=generator),
            alpha / 2,
        )
    vectors = torch.zeros(0, model.embedding_width)
    return Adapter(vectors, "<duck>", "dog", {"seed": 3}, deltas, "* dog")


def random_custom(model: Model) -> Adapter:
    deltas: dict[str, Delta] = {
        name: Full(torch.randn(model.layers[name], generator=stream(name)))
        for name in layers_of(model, "attn2.to_v")
    }
    vectors = torch.randn(1, model.embedding_width, generator=stream("v"))
    return Adapter(vectors, "<duck>", "dog", {"seed": 3}, deltas, "<duck> dog")


def assert_same(one: Adapter, other: Adapter) -> None:
    assert set(one.deltas) == set(other.deltas)
    for name, delta in one.deltas.items():
        torch.testing.assert_close(delta.weight(), other.deltas[name].weight())


def test_a_diffusers_file_holds_pairs_and_nothing_else(tiny_model: Model, tmp_path: Path) -> None:
    adapter = random_lora(tiny_model, alpha=3.0)
    path = save_adapter(adapter, tmp_path)
    assert path.name == "pytorch_lora_weights.safetensors"
    tensors = load_file(path)
    keys = {diffusers_key(name) for name in adapter.deltas}
    assert set(tensors) == {f"{k}.lora_{ab}.weight" for k in keys for ab in "AB"}
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    with safe_open(path, framework="pt") as file:
        assert list(file.metadata()) == ["safezone"]
    assert_same(load_adapter(path), adapter)


def test_a_kohya_file_holds_pairs_and_alphas(tiny_model: Model, tmp_path: Path) -> None:
    adapter = random_lora(tiny_model, alpha=3.0)
    (path,) = export_adapter(adapter, tmp_path, "duck", "kohya").files
    tensors = load_file(path)
    keys = {kohya_key(name, xl=False) for name in adapter.deltas}
    ends = ("lora_down.weight", "lora_up.weight", "alpha")
    assert set(tensors) == {f"{key}.{end}" for key in keys for end in ends}
    assert {float(v) for k, v in tensors.items() if k.endswith("alpha")} == {3.0}
    assert path.name == "duck.safetensors"
    assert_same(load_adapter(path, tiny_model), adapter)
    with pytest.raises(UserError, match="give the model"):
        load_adapter(path)


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
def test_custom_diffusion_as_a_lora_tells_its_error(
    tiny_model: Model, tmp_path: Path, form: str
) -> None:
    adapter = random_custom(tiny_model)
    exported = export_adapter(adapter, tmp_path, "duck", form, rank=4)
    names = {
        "kohya": ["duck.safetensors", "duck-lora.safetensors"],
        "diffusers": ["learned_embeds.safetensors", "pytorch_lora_weights.safetensors"],
    }
    assert [path.name for path in exported.files] == names[form]
    embedding, lora = (load_adapter(path, tiny_model) for path in exported.files)
    assert torch.equal(embedding.vectors, adapter.vectors)
    lost = total = 0.0
    for name, delta in adapter.deltas.items():
        lost += float((delta.weight() - lora.deltas[name].weight()).square().sum())
        total += float(delta.weight().square().sum())
    assert exported.error is not None
    assert exported.error == pytest.approx((lost / total) ** 0.5, rel=1e-4)
    assert exported.error is not None
    assert 0 < exported.error < 1


def test_a_full_rank_loses_nothing(tiny_model: Model) -> None:
    adapter = random_custom(tiny_model)
    deltas, error = low_rank(adapter.deltas, 64)
    assert error == pytest.approx(0, abs=1e-6)
    for name, delta in deltas.items():
        torch.testing.assert_close(delta.weight(), adapter.deltas[name].weight())
    assert low_rank(random_lora(tiny_model).deltas, 1)[1] is None


def test_custom_diffusion_whole_in_kohyas_names(tiny_model: Model, tmp_path: Path) -> None:
    adapter = random_custom(tiny_model)
    exported = export_adapter(adapter, tmp_path, "duck", "kohya")
    assert exported.error is None
    tensors = load_file(exported.files[1])
    assert set(tensors) == {f"{kohya_key(name, xl=False)}.diff" for name in adapter.deltas}
    assert_same(load_adapter(exported.files[1], tiny_model), adapter)
    with pytest.raises(UserError, match="give a rank"):
        export_adapter(adapter, tmp_path, "duck", "diffusers")


@pytest.mark.parametrize(
    ("down", "up"),
    [
        (".lora.down.weight", ".lora.up.weight"),
        (".processor.to_k_lora.down.weight", ".processor.to_k_lora.up.weight"),
        (".lora_down.weight", ".lora_up.weight"),
    ],
)
def test_older_names_of_diffusers_are_read(
    tiny_model: Model, tmp_path: Path, down: str, up: str
) -> None:
    layer = layers_of(tiny_model, "attn2.to_k", 1)[0]
    outputs, inputs = tiny_model.layers[layer]
    stem = layer.removesuffix(".to_k") if "processor" in down else layer
    tensors = {f"{stem}{down}": torch.ones(2, inputs), f"{stem}{up}": torch.ones(outputs, 2)}
    save_file({name: each.half() for name, each in tensors.items()}, tmp_path / "x.safetensors")
    adapter = load_adapter(tmp_path / "x.safetensors", tiny_model)
    assert list(adapter.deltas) == [layer]
    assert torch.equal(adapter.deltas[layer].weight(), torch.full((outputs, inputs), 2.0))


K = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({f"{K}.lora_A.weight": torch.ones(2, 32)}, "but no"),
        ({f"{K}.diff": torch.ones(16, 32), "x.hada_w1_a": torch.ones(2, 2)}, "hada_w1_a"),
        ({f"{K}.diff": torch.ones(16, 32, 3, 3)}, "1 x 1"),
        ({f"{K}.diff": torch.full((16, 32), torch.nan)}, "NaN"),
        ({"unet.nowhere.to_k.diff": torch.ones(2, 2)}, "does not have"),
        ({f"{K}.diff": torch.ones(16, 31)}, "does not have"),
    ],
    ids=["half a pair", "an extension", "a convolution", "NaN", "another layer", "another shape"],
)
def test_files_that_are_no_plain_lora_are_refused(
    tiny_model: Model, tmp_path: Path, tensors: dict[str, torch.Tensor], words: str
) -> None:
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=words):
        load_adapter(tmp_path / "x.safetensors", tiny_model)
