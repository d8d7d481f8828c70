"""Files of other programs as those programs make and read them.

peft, diffusers and the true architectures are asked themselves. Of ComfyUI, AUTOMATIC1111, kohya's
scripts and InvokeAI, which are not installed, the rules are written down here as their sources have
them: which keys they look for, and by which metadata and shapes they sort a file.
"""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cases.adapter_files import (
    BROKEN,
    EMBEDDINGS,
    INPUTS,
    LAYER,
    OTHER_KINDS,
    OUTPUTS,
    REFUSED,
    VECTORS,
    pair,
)
from safezone.arrays import stream
from safezone.errors import UserError
from safezone.models import Model
from safezone.models.deltas import Delta, Full, LowRank, changeable
from safezone.personalize import Adapter, LoRA, TextualInversion, export_adapter, load_adapter
from safezone.personalize.exports import prompt_name
from safezone.personalize.layer_names import kohya_key, names_of
from safezone.personalize.lora_files import diffusers_lora, kohya_lora, read_deltas

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
CONFIGS = {
    "alpha is the rank": {"r": 4, "lora_alpha": 4},
    "alpha 8 at rank 4": {"r": 4, "lora_alpha": 8},
    "rsLoRA": {"r": 4, "lora_alpha": 8, "use_rslora": True},
    "alpha_pattern": {
        "r": 4,
        "lora_alpha": 2,
        "alpha_pattern": {"attn2.to_k": 12, r"mid_block\..*\.to_v": 6},
    },
    "rank_pattern under rsLoRA": {
        "r": 4,
        "lora_alpha": 3,
        "rank_pattern": {"attn1.to_q": 2},
        "alpha_pattern": {"attn1.to_q": 5},
        "use_rslora": True,
    },
}


def randomised(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Draws the up matrices; returns what peft itself then adds to each weight."""
    changes = {}
    for name, layer in module.named_modules():
        if hasattr(layer, "lora_B"):
            (up,) = layer.lora_B.values()
            torch.nn.init.normal_(up.weight, generator=stream("up", name))
            (key,) = layer.lora_B
            changes[name.removeprefix("base_model.model.")] = layer.get_delta_weight(key).detach()
    return changes


def assert_same(
    deltas: dict[str, Delta], changes: dict[str, torch.Tensor], prefix: str = "unet."
) -> None:
    assert set(deltas) == {f"{prefix}{name}" for name in changes}
    for name, change in changes.items():
        ours = deltas[f"{prefix}{name}"].weight()
        torch.testing.assert_close(ours, change.view_as(ours), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", CONFIGS)
def test_alpha_is_what_diffusers_wrote_beside_the_tensors(
    tiny_model: Model, tiny_model_folder: Path, tmp_path: Path, kind: str
) -> None:
    settings: Any = CONFIGS[kind]
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model_folder, safety_checker=None)
    pipeline.unet.add_adapter(LoraConfig(target_modules=[*ATTENTION, "proj_in"], **settings))
    plain = {k: v for k, v in settings.items() if not k.endswith("pattern")}
    pipeline.text_encoder.add_adapter(LoraConfig(target_modules=["q_proj", "fc1"], **plain))
    changes = randomised(pipeline.unet)
    text = randomised(pipeline.text_encoder)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(pipeline.unet),
        text_encoder_lora_layers=get_peft_model_state_dict(pipeline.text_encoder),
        **_collate_lora_metadata({"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}),
    )
    path = tmp_path / "pytorch_lora_weights.safetensors"
    adapter = load_adapter(path, tiny_model)
    assert_same({k: v for k, v in adapter.deltas.items() if k.startswith("unet.")}, changes)
    for name, change in text.items():
        ours = adapter.deltas[f"text_encoder.{name.removeprefix('text_model.')}"]
        torch.testing.assert_close(ours.weight(), change, rtol=1e-5, atol=1e-6)
    again = export_adapter(adapter, tmp_path / "out", "toy", "kohya").files[0]
    for name, delta in load_adapter(again, tiny_model).deltas.items():
        torch.testing.assert_close(delta.weight(), adapter.deltas[name].weight())


@pytest.mark.parametrize("kind", CONFIGS)
def test_alpha_is_what_peft_wrote_into_the_folder(
    tiny_model: Model, tiny_model_folder: Path, tmp_path: Path, kind: str
) -> None:
    settings: Any = CONFIGS[kind]
    unet = UNet2DConditionModel.from_pretrained(tiny_model_folder, subfolder="unet")
    wrapped = get_peft_model(unet, LoraConfig(target_modules=ATTENTION, **settings))
    changes = randomised(wrapped)
    wrapped.save_pretrained(str(tmp_path))
    adapter = load_adapter(tmp_path / "adapter_model.safetensors", tiny_model)
    assert_same(dict(adapter.deltas), changes)


# The true architectures, without weights.

COMMON: dict[str, Any] = {"sample_size": 64, "act_fn": "silu", "layers_per_block": 2}
TRUE_UNETS: dict[str, dict[str, Any]] = {
    "sd15": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21": {
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "sdxl": {
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
ENCODERS = {
    "sd15": {"text_encoder": (12, 768)},
    "sd21": {"text_encoder": (23, 1024)},
    "sdxl": {"text_encoder": (12, 768), "text_encoder_2": (32, 1280)},
}


@pytest.fixture(scope="module")
def true_layers() -> dict[str, dict[str, tuple[int, ...]]]:
    """The shapes of the weights of all layers that a LoRA may change, by our names."""
    result: dict[str, dict[str, tuple[int, ...]]] = {}
    for kind, settings in TRUE_UNETS.items():
        with torch.device("meta"):
            unet: Any = UNet2DConditionModel(**COMMON, **settings)
        weights: Any = {f"unet.{name}": layer.weight for name, layer in changeable(unet).items()}
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        for part, (count, width) in ENCODERS[kind].items():
            for i in range(count):
                for end in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    shapes[f"{part}.encoder.layers.{i}.self_attn.{end}"] = (width, width)
                shapes[f"{part}.encoder.layers.{i}.mlp.fc1"] = (4 * width, width)
                shapes[f"{part}.encoder.layers.{i}.mlp.fc2"] = (width, 4 * width)
        result[kind] = shapes
    return result


def lora_of(shapes: dict[str, tuple[int, ...]], names: Iterable[str]) -> Adapter:
    deltas: dict[str, Delta] = {}
    for name in names:
        outputs, inputs = shapes[name][:2]
        deltas[name] = LowRank(torch.ones(1, inputs), torch.ones(outputs, 1), 0.5)
    convolutions = frozenset(name for name in deltas if len(shapes[name]) == 4)
    return Adapter(torch.zeros(0, 8), "", "dog", {}, deltas, "* dog", convolutions=convolutions)


@pytest.mark.parametrize("kind", TRUE_UNETS)
def test_every_layer_has_a_name_of_its_own_which_leads_back(
    true_layers: dict[str, dict[str, tuple[int, ...]]], kind: str
) -> None:
    names = list(true_layers[kind])
    known = names_of(names)
    assert set(known.values()) == set(names)
    keys = [kohya_key(name, kind == "sdxl") for name in names]
    assert len(set(keys)) == len(names)
    assert [known[key] for key in keys] == names


def test_an_sdxl_lora_without_our_metadata_keeps_every_layer_at_export(
    true_layers: dict[str, dict[str, tuple[int, ...]]], tmp_path: Path
) -> None:
    shapes = true_layers["sdxl"]
    attention = [n for n in shapes if n.endswith((*ATTENTION, *("q_proj", "k_proj", "v_proj")))]
    tensors = diffusers_lora(lora_of(shapes, attention).deltas)
    save_file(tensors, tmp_path / "others.safetensors")
    (path,) = export_adapter(
        load_adapter(tmp_path / "others.safetensors"), tmp_path / "out", "toy", "kohya"
    ).files
    keys = {name.split(".")[0] for name in load_file(path)}
    assert len(keys) == len(attention)
    assert sum(key.startswith("lora_te2_") for key in keys) == 3 * 32


def test_diffusers_knows_every_sdxl_layer_by_kohyas_names(
    true_layers: dict[str, dict[str, tuple[int, ...]]],
) -> None:
    """Resnets among them: one naming for all, or it drops the others."""
    shapes = {n: s for n, s in true_layers["sdxl"].items() if n.startswith("unet.")}
    deltas = {
        name: LowRank(torch.full((1, 1), float(i)), torch.ones(1, 1))
        for i, name in enumerate(shapes)
    }
    config = SimpleNamespace(layers_per_block=2)
    converted, _ = StableDiffusionXLPipeline.lora_state_dict(
        kohya_lora(deltas, xl=True), unet_config=config
    )
    layers = {
        re.sub(r"[._]lora\.down\.weight$", "", name): float(value)
        for name, value in converted.items()
        if name.endswith("lora.down.weight")
    }
    expected = {
        re.sub(r"\.(attn[12])\.to_(q|k|v|out)(\.0)?$", r".\1.processor.to_\2", name): float(i)
        for i, name in enumerate(shapes)
    }
    assert layers == expected


def test_names_of_comfyui_reach_the_unet_and_the_right_encoder(
    true_layers: dict[str, dict[str, tuple[int, ...]]], tmp_path: Path
) -> None:
    """Its own files: the original U-Net's path, and its encoders' own names."""
    names = {
        "diffusion_model.input_blocks.4.1.transformer_blocks.1.attn2.to_k": (
            "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k"
        ),
        "diffusion_model.output_blocks.8.0.skip_connection": (
            "unet.up_blocks.2.resnets.2.conv_shortcut"
        ),
        "diffusion_model.middle_block.2.emb_layers.1": "unet.mid_block.resnets.1.time_emb_proj",
        "diffusion_model.label_emb.0.2": "unet.add_embedding.linear_2",
        "text_encoders.clip_l.transformer.text_model.encoder.layers.3.mlp.fc1": (
            "text_encoder.encoder.layers.3.mlp.fc1"
        ),
        "text_encoders.clip_g.transformer.text_model.encoder.layers.3.mlp.fc1": (
            "text_encoder_2.encoder.layers.3.mlp.fc1"
        ),
    }
    tensors = {}
    for stem in names:
        tensors[f"{stem}.lora_down.weight"] = torch.ones(1, 2)
        tensors[f"{stem}.lora_up.weight"] = torch.ones(3, 1)
    layers = true_layers["sdxl"]
    deltas, _ = read_deltas(tensors, {}, layers, tmp_path / "x.safetensors")
    assert list(deltas) == list(names.values())
    with pytest.raises(UserError, match="only a model explains; give the model"):
        read_deltas(tensors, {}, None, tmp_path / "x.safetensors")


def test_names_of_the_dreambooth_script_with_a_text_encoder(
    tiny_model: Model, tmp_path: Path
) -> None:
    stem = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    outputs, inputs = tiny_model.layers["text_encoder.encoder.layers.0.self_attn.q_proj"]
    tensors = {
        f"{stem}.lora_linear_layer.down.weight": torch.ones(2, inputs),
        f"{stem}.lora_linear_layer.up.weight": torch.ones(outputs, 2),
        f"{LAYER.removesuffix('.to_k')}.processor.to_k_lora.down.weight": torch.ones(2, INPUTS),
        f"{LAYER.removesuffix('.to_k')}.processor.to_k_lora.up.weight": torch.ones(OUTPUTS, 2),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    for model in (tiny_model, None):
        adapter = load_adapter(tmp_path / "x.safetensors", model)
        assert set(adapter.deltas) == {"text_encoder.encoder.layers.0.self_attn.q_proj", LAYER}


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
def test_convolutions_have_four_axes_in_every_file(
    tiny_model: Model, tiny_model_folder: Path, tmp_path: Path, form: str
) -> None:
    names = sorted(tiny_model.convolutions)
    assert {name.rsplit(".", 1)[1] for name in names} >= {"proj_in", "proj_out", "conv_shortcut"}
    deltas: dict[str, Delta] = {}
    for name in [*names, LAYER]:
        outputs, inputs = tiny_model.layers[name]
        deltas[name] = LowRank(
            torch.randn(2, inputs, generator=stream("down", name)),
            torch.randn(outputs, 2, generator=stream("up", name)),
        )
    adapter = Adapter(
        torch.zeros(0, 32), "", "dog", {}, deltas, "* dog", convolutions=tiny_model.convolutions
    )
    (path,) = export_adapter(adapter, tmp_path, "toy", form).files
    loaded = load_adapter(path, tiny_model)
    assert loaded.convolutions == tiny_model.convolutions
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model_folder, safety_checker=None)
    pipeline.load_lora_weights(str(path))
    theirs = {
        f"unet.{name}": layer.get_delta_weight("default_0")
        for name, layer in pipeline.unet.named_modules()
        if hasattr(layer, "get_delta_weight")
    }
    assert set(theirs) == set(deltas)
    for name, delta in loaded.deltas.items():
        torch.testing.assert_close(delta.weight().view_as(theirs[name]), theirs[name])
        torch.testing.assert_close(delta.weight(), deltas[name].weight())


def test_whole_changes_of_convolutions_have_four_axes_too(
    tiny_model: Model, tmp_path: Path
) -> None:
    name = min(tiny_model.convolutions)
    change = torch.randn(tiny_model.layers[name], generator=stream("whole"))
    adapter = Adapter(
        torch.zeros(0, 32), "", "", {}, {name: Full(change)}, "x", convolutions=frozenset({name})
    )
    (path,) = export_adapter(adapter, tmp_path, "toy", "kohya").files
    (tensor,) = load_file(path).values()
    assert tensor.shape == (*change.shape, 1, 1)
    assert torch.equal(load_adapter(path, tiny_model).deltas[name].weight(), change)


def test_training_writes_convolutions_as_convolutions(
    tiny_model: Model, concept: Any, run_of: Callable[..., Any]
) -> None:
    from safezone.personalize import train

    method = LoRA(steps=1, targets=("proj_in", "conv_shortcut", "to_k"))
    (adapter,) = train(tiny_model, [run_of(concept)], method, progress=False)
    chosen = {n for n in tiny_model.convolutions if n.endswith(("proj_in", "conv_shortcut"))}
    assert adapter.convolutions == chosen


# What the others sort a file by.


def invokeai_kind(tensors: dict[str, torch.Tensor]) -> int:
    """The length by which InvokeAI takes an embedding for SD 1 (768), 2 (1024) or XL (1280)."""
    for key in ("emb_params", "clip_g"):
        if key in tensors:
            return tensors[key].shape[-1]
    return next(iter(tensors.values())).shape[0]


def a1111_kind(metadata: dict[str, str]) -> str:
    """The tab on which AUTOMATIC1111 shows a LoRA; of no metadata it knows nothing."""
    if metadata.get("ss_base_model_version", "").startswith("sdxl_"):
        return "sdxl"
    if metadata.get("ss_v2") == "True":
        return "sd21"
    return "sd15" if metadata else "unknown"


WIDTHS = {"sd15": (768,), "sd21": (1024,), "sdxl": (768, 1280)}


@pytest.mark.parametrize("kind", WIDTHS)
@pytest.mark.parametrize("vectors", [1, 3])
def test_embeddings_are_recognised_by_their_shape(tmp_path: Path, kind: str, vectors: int) -> None:
    widths = WIDTHS[kind]
    adapter = Adapter(
        torch.randn(vectors, sum(widths)),
        "<toy>",
        "dog",
        widths=widths if len(widths) > 1 else (),
    )
    exported = export_adapter(adapter, tmp_path, "my toy (v2) [final]", "kohya")
    (path,) = exported.files
    tensors = load_file(path)
    assert invokeai_kind(tensors) == widths[-1]
    assert path.name == "my-toy-v2-final.safetensors"
    assert exported.words == "my-toy-v2-final"
    loaded = load_adapter(path)
    assert torch.equal(loaded.vectors, adapter.vectors)
    assert loaded.placeholder == "<toy>"
    (other,) = export_adapter(adapter, tmp_path / "d", "toy", "diffusers").files
    if kind != "sdxl":  # diffusers takes the only key as the word
        assert list(load_file(other)) == ["<toy>"]


@pytest.mark.parametrize("kind", TRUE_UNETS)
@pytest.mark.parametrize("part", ["attention", "text encoder"])
def test_loras_are_sorted_by_their_metadata(
    true_layers: dict[str, dict[str, tuple[int, ...]]], tmp_path: Path, kind: str, part: str
) -> None:
    shapes = true_layers[kind]
    ends = ("attn1.to_q", "attn2.to_k") if part == "attention" else ("q_proj",)
    adapter = lora_of(shapes, [name for name in shapes if name.endswith(ends)])
    (path,) = export_adapter(adapter, tmp_path, "toy", "kohya").files
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert a1111_kind(metadata) == kind
    assert json.loads(metadata["safezone"])["trigger"] == "* dog"


# The table of docs/files.md: what each program reads of a file in kohya's names.

LOW, WHOLE = frozenset({"lora_up.weight", "lora_down.weight"}), frozenset({"diff"})
READS = {
    "ComfyUI": (LOW, WHOLE),  # comfy/lora.py, load_lora
    "AUTOMATIC1111": (LOW, WHOLE),  # network_lora.py, network_full.py
    "InvokeAI": (LOW, WHOLE),  # layers of LoRA and of diff
    "kohya's scripts": (LOW,),  # networks/lora.py looks for lora_down and alpha alone
}
ORIGINAL_XL = re.compile(
    r"lora_unet_(input_blocks_\d_\d|middle_block_\d|output_blocks_\d_\d)_\w+"
    r"|lora_unet_(time_embed|label_emb_0)_\d"
)

KOHYA_LACKS = re.compile(r"lora_unet_(time_embed|time_embedding|label_emb|add_embedding)_")


def stems_read(program: str, tensors: Iterable[str]) -> set[str]:
    """The layers, by the part of the key before the first point, that the program changes."""
    parts: dict[str, set[str]] = {}
    for name in tensors:
        stem, part = name.split(".", 1)
        parts.setdefault(stem, set()).add(part)
    stems = {stem for stem, each in parts.items() if each - {"alpha"} in READS[program]}
    if program == "kohya's scripts":  # they look into transformer blocks and resnets alone
        stems = {stem for stem in stems if not KOHYA_LACKS.match(stem)}
    return stems


def name_known(name: str, kind: str) -> str:
    """The name by which all four know a layer; those of SDXL's U-Net are ``ORIGINAL_XL``."""
    part, path = name.split(".", 1)
    path = path.replace(".", "_")
    if part != "unet":
        number = "" if kind != "sdxl" else "2" if part == "text_encoder_2" else "1"
        return f"lora_te{number}_text_model_{path}"
    return f"lora_unet_{path}"


def invokeai_base(tensors: dict[str, torch.Tensor]) -> str | None:
    """By the width of the text that the U-Net sees; None where no layer shows it."""
    lengths: dict[str, int] = {}
    for name, tensor in tensors.items():
        stem, part = name.split(".", 1)
        if part not in ("lora_down.weight", "diff"):
            continue
        if stem.startswith("lora_unet_") and stem.endswith(("_attn2_to_k", "_attn2_to_v")):
            lengths["unet"] = tensor.shape[1]
        elif stem.startswith("lora_te") and "_self_attn_" in stem:
            lengths[stem.split("_")[1]] = tensor.shape[1]
    both = lengths.get("te1", 0) + lengths.get("te2", 0) if {"te1", "te2"} <= set(lengths) else None
    length = lengths.get("unet", lengths.get("te", both))
    return {768: "sd15", 1024: "sd21", 2048: "sdxl"}.get(length or 0)


@pytest.mark.parametrize("kind", TRUE_UNETS)
def test_each_program_reads_every_layer_of_a_lora(
    true_layers: dict[str, dict[str, tuple[int, ...]]], tmp_path: Path, kind: str
) -> None:
    shapes = true_layers[kind]
    (path,) = export_adapter(lora_of(shapes, shapes), tmp_path, "toy", "kohya").files
    tensors = load_file(path)
    stems = {name.split(".")[0] for name in tensors}
    lacking = {stem for stem in stems if KOHYA_LACKS.match(stem)}
    assert len(lacking) == (4 if kind == "sdxl" else 2)
    for program in READS:
        left = lacking if program == "kohya's scripts" else set()
        assert stems_read(program, tensors) == stems - left
    expected = {name_known(n, kind) for n in shapes if kind != "sdxl" or n[:4] == "text"}
    assert expected <= stems
    assert len(stems) == len(shapes)
    assert all(ORIGINAL_XL.fullmatch(stem) for stem in stems - expected)
    assert invokeai_base(tensors) == kind
    for name, shape in shapes.items():  # a linear layer's matrices have two axes, a convolution's 4
        down = tensors[f"{kohya_key(name, kind == 'sdxl')}.lora_down.weight"]
        assert down.shape == (1, *shape[1:]), name


@pytest.mark.parametrize("kind", TRUE_UNETS)
@pytest.mark.parametrize("rank", [None, 1])
def test_who_reads_whole_changes_and_all_of_them_with_a_rank(
    true_layers: dict[str, dict[str, tuple[int, ...]]], tmp_path: Path, kind: str, rank: int | None
) -> None:
    shapes = true_layers[kind]
    names = [name for name in shapes if name.endswith("attn2.to_v")][:2]
    whole: dict[str, Delta] = {name: Full(torch.ones(shapes[name])) for name in names}
    adapter = Adapter(torch.zeros(0, 8), "", "dog", {}, whole, "* dog")
    exported = export_adapter(adapter, tmp_path, "toy", "kohya", rank=rank)
    tensors = load_file(exported.files[0])
    stems = {kohya_key(name, kind == "sdxl") for name in names}
    for program in ("ComfyUI", "AUTOMATIC1111", "InvokeAI"):
        assert stems_read(program, tensors) == stems
    assert stems_read("kohya's scripts", tensors) == (stems if rank else set())
    assert bool(exported.limits) == (rank is None)
    assert invokeai_base(tensors) == kind


@pytest.mark.parametrize("kind", WIDTHS)
@pytest.mark.parametrize("vectors", [1, 3])
def test_each_program_reads_the_embedding_s_vectors(
    tiny_model_folder: Path, tmp_path: Path, kind: str, vectors: int
) -> None:
    widths = WIDTHS[kind]
    values = torch.randn(vectors, sum(widths), generator=stream("table", kind))
    adapter = Adapter(values, "<toy>", "dog", widths=widths if len(widths) > 1 else ())
    (path,) = export_adapter(adapter, tmp_path, "toy", "kohya").files
    tensors = load_file(path)
    parts = values.split(widths, dim=1)
    # ComfyUI: the key of the encoder, else the first tensor; its name in prompts is the file's.
    keys = ("clip_h",) if kind == "sd21" else ("clip_l", "clip_g")
    for key, part in zip(keys, parts, strict=False):
        assert torch.equal(tensors.get(key, next(iter(tensors.values()))), part)
    # AUTOMATIC1111 and kohya's scripts: clip_l and clip_g, or the only tensor, [vectors, width].
    if kind == "sdxl":
        assert set(tensors) == {"clip_l", "clip_g"}
    else:
        (only,) = tensors.values()
        assert torch.equal(only, values)
    assert path.stem == "toy"
    # diffusers: the only key is the word; of two it reads none, as the command says.
    exported = export_adapter(adapter, tmp_path / "d", "toy", "diffusers")
    if kind == "sdxl":
        pipeline = StableDiffusionPipeline.from_pretrained(tiny_model_folder, safety_checker=None)
        with pytest.raises(ValueError, match="state dictionary"):
            pipeline.load_textual_inversion(str(exported.files[0]))
        assert "load_into_pipeline" in exported.limits[0]
    else:
        assert torch.equal(load_file(exported.files[0])["<toy>"], values)


def test_what_a_program_does_not_read_is_said(tmp_path: Path) -> None:
    whole = {LAYER: Full(torch.ones(OUTPUTS, INPUTS))}
    custom = Adapter(torch.ones(1, 32), "<toy>", "dog", {}, whole, "<toy> dog")
    exported = export_adapter(custom, tmp_path, "toy", "kohya")
    assert exported.words == "toy dog"
    comfy = "ComfyUI's prompts call it embedding:toy"
    whole_changes = "kohya's scripts read no whole changes: give a rank for them"
    assert exported.limits == (comfy, whole_changes)
    assert export_adapter(custom, tmp_path, "toy", "kohya", rank=2).limits == (comfy,)
    xl = Adapter(torch.ones(1, 80), "<toy>", "dog", widths=(32, 48))
    (limit,) = export_adapter(xl, tmp_path / "xl", "toy", "diffusers").limits
    assert "load_into_pipeline" in limit


def test_a_form_that_cannot_hold_it_writes_nothing(tmp_path: Path) -> None:
    whole = {LAYER: Full(torch.ones(OUTPUTS, INPUTS))}
    custom = Adapter(torch.ones(1, 32), "<toy>", "dog", {}, whole, "<toy> dog")
    with pytest.raises(UserError, match="give a rank"):
        export_adapter(custom, tmp_path / "out", "toy", "diffusers")
    with pytest.raises(UserError, match="rank is 0"):
        export_adapter(custom, tmp_path / "out", "toy", "kohya", rank=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("toy", "toy"),
        ("my toy", "my-toy"),
        ("a,b:c<d>e|f", "a-b-c-d-e-f"),
        ("v1.5_x-y", "v1.5_x-y"),
        ("(((", "concept"),
        ("мой кот", "мой-кот"),
    ],
)
def test_a_name_can_be_written_in_a_prompt(name: str, expected: str) -> None:
    assert prompt_name(name) == expected
    assert not re.search(r"[\s,:<>()\[\]|]", prompt_name(name))


# Broken files.


@pytest.mark.parametrize("case", [*BROKEN, *REFUSED])
def test_broken_files_are_refused_with_one_sentence(
    tiny_model: Model, tmp_path: Path, case: str
) -> None:
    write, words = {**BROKEN, **REFUSED}[case]
    path = tmp_path / "x.safetensors"
    write(path)
    with pytest.raises(UserError, match=words) as caught:
        load_adapter(path, tiny_model)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_kinds_are_told_by_name(tiny_model: Model, tmp_path: Path, kind: str) -> None:
    name = f"lora_unet_mid_block_attentions_0_proj_in.{OTHER_KINDS[kind]}"
    save_file({**pair(), name: torch.ones(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=f"is a {kind} file"):
        load_adapter(tmp_path / "x.safetensors", tiny_model)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_small_floating_types_are_read(
    tiny_model: Model, tmp_path: Path, dtype: torch.dtype
) -> None:
    save_file({n: t.to(dtype) for n, t in pair().items()}, tmp_path / "lora.safetensors")
    adapter = load_adapter(tmp_path / "lora.safetensors", tiny_model)
    assert torch.equal(adapter.deltas[LAYER].weight(), torch.full((OUTPUTS, INPUTS), 2.0))
    save_file({"emb_params": torch.ones(2, 32).to(dtype)}, tmp_path / "e.safetensors")
    assert torch.equal(load_adapter(tmp_path / "e.safetensors").vectors, torch.ones(2, 32))
    save_file({"x": torch.full((1, 32), torch.nan).to(dtype)}, tmp_path / "n.safetensors")
    with pytest.raises(UserError, match="NaN"):
        load_adapter(tmp_path / "n.safetensors")


@pytest.mark.parametrize("case", EMBEDDINGS)
def test_embeddings_of_every_kind_have_a_word(tmp_path: Path, case: str) -> None:
    tensors, word = EMBEDDINGS[case]
    save_file(dict(tensors), tmp_path / "x.safetensors")
    adapter = load_adapter(tmp_path / "x.safetensors")
    assert adapter.words == word
    torch.testing.assert_close(adapter.vectors, VECTORS[: len(adapter.vectors)], atol=4e-3, rtol=0)


@pytest.mark.parametrize("name", ["default", "my_adapter"])
def test_adapter_names_of_peft_are_read(tiny_model: Model, tmp_path: Path, name: str) -> None:
    tensors = {key.replace(".weight", f".{name}.weight"): value for key, value in pair().items()}
    save_file(tensors, tmp_path / "x.safetensors")
    assert list(load_adapter(tmp_path / "x.safetensors", tiny_model).deltas) == [LAYER]


# As the start of a training.


def test_a_lora_is_no_start_for_an_inversion(
    tiny_model: Model, concept: Any, run_of: Callable[..., Any], tmp_path: Path
) -> None:
    save_file(pair(), tmp_path / "x.safetensors")
    method = TextualInversion(start=tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="holds no token vectors but changes of layers"):
        method.begin(tiny_model, run_of(concept).prepare(tiny_model))
    save_file({"<x>": torch.ones(3, 32)}, tmp_path / "e.safetensors")
    method = TextualInversion(start=tmp_path / "e.safetensors", vectors=2)
    with pytest.raises(UserError, match="give vectors 3"):
        method.begin(tiny_model, run_of(concept).prepare(tiny_model))


def test_a_lora_of_the_text_encoders_mlp_is_a_start(
    tiny_model: Model, concept: Any, run_of: Callable[..., Any], tmp_path: Path
) -> None:
    ends = {"unet": ("to_q",), "text_encoder": ("q_proj", "mlp.fc1", "mlp.fc2")}
    names = [n for n in tiny_model.layers if n.endswith(ends[n.split(".")[0]])]
    shapes: dict[str, tuple[int, ...]] = dict(tiny_model.layers)
    (path,) = export_adapter(lora_of(shapes, names), tmp_path, "toy", "kohya").files
    run = run_of(concept).prepare(tiny_model)
    method = LoRA(
        start=path,
        rank=1,
        targets=("to_q",),
        text_encoder=True,
        text_targets=("q_proj", "mlp.fc1", "mlp.fc2"),
    )
    begun = method.deltas(method.begin(tiny_model, run))
    assert set(begun) == set(names)
    with pytest.raises(UserError, match="text_targets"):
        LoRA(start=path, rank=1, targets=("to_q",), text_encoder=True).begin(tiny_model, run)
    with pytest.raises(UserError, match="text_targets such as"):
        LoRA(text_encoder=True, text_targets=("fc9",)).begin(tiny_model, run)
    with pytest.raises(UserError, match="targets is an empty list"):
        LoRA(targets=()).begin(tiny_model, run)
