"""A complete, random, SD-1.5-like diffusers pipeline folder that loads in a second."""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from tokenizers import pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

START, END = "<|startoftext|>", "<|endoftext|>"
# Longest first, so that the merges of "at" do not break "cat": every word is one token.
WORDS = tuple(
    sorted(
        "a an the of on in and with at photo painting picture style small big close old new red "  # noqa: SIM905
        "green blue yellow cat dog toy vase ball star cube object grass beach snow water wood "
        "brick night fabric background".split(),
        key=lambda word: (-len(word), word),
    )
)


def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's byte alphabet, the words above and the special tokens last, with their merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(character + "</w>" for character in alphabet)]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        left, *rest = [*word[:-1], word[-1] + "</w>"]
        for right in rest:
            if (left, right) not in merges:
                merges.append((left, right))
                tokens.append(left + right)
            left += right
    tokens += [START, END]
    return {token: i for i, token in enumerate(tokens)}, merges


def write_tokenizer(folder: Path, length: int) -> CLIPTokenizer:
    """A real CLIPTokenizer through the files that hubs hold: vocab.json and merges.txt."""
    vocabulary, merges = clip_vocabulary()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": length,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
    return tokenizer


def tiny_pipeline(
    folder: Path,
    *,
    prediction_type: str = "epsilon",
    length: int = 77,
    seed: int = 0,
    linear: bool = False,
) -> StableDiffusionPipeline:
    """Random components, 64 x 64 pixels, f = 8, 4 latent channels, token vectors of width 32.

    ``prediction_type``: "epsilon", "v_prediction", or "flow_prediction" for a flow-matching
    scheduler. ``folder`` receives the tokenizer's files. ``linear``: the attention's projections
    are linear layers and heads have a width, as in SD 2.x.
    """
    tokenizer = write_tokenizer(folder / "tokenizer", length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=(8, 8, 16, 16),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            mid_block_add_attention=False,
            scaling_factor=0.18215,
            sample_size=64,
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=2 if not linear else (2, 4),
            use_linear_projection=linear,
            norm_num_groups=8,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=length,
                projection_dim=32,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    if prediction_type == "flow_prediction":
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)
    else:
        scheduler = PNDMScheduler(
            num_train_timesteps=1000,
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type=prediction_type,
            skip_prk_steps=True,
            set_alpha_to_one=False,
            steps_offset=1,
        )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def write_tiny_folder(
    folder: Path,
    *,
    prediction_type: str = "epsilon",
    length: int = 77,
    seed: int = 0,
    linear: bool = False,
) -> Path:
    """Writes ``tiny_pipeline`` as safetensors and returns ``folder``."""
    pipeline = tiny_pipeline(
        folder, prediction_type=prediction_type, length=length, seed=seed, linear=linear
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def write_tiny_rectified_folder(folder: Path, *, seed: int = 0) -> Path:
    """XCLiu/2_rectified_flow_from_sd_1_5, small and random: the scheduler's file says PNDM and
    epsilon, and only the index says what the model is."""
    write_tiny_folder(folder, seed=seed)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {
        "_class_name": "RectifiedFlowPipeline",
        "_diffusers_version": "0.20.2",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "safety_checker": [
            "stable_diffusion",
            "StableDiffusionSafetyChecker",
        ],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def write_tiny_xl_folder(folder: Path, seed: int = 2) -> Path:
    """SDXL's architecture, small: token vectors of width 32 + 48, a pooled embedding, time ids."""
    base = tiny_pipeline(folder, seed=seed)
    write_tokenizer(folder / "tokenizer_2", 77)
    tokenizer_2 = CLIPTokenizer.from_pretrained(folder / "tokenizer_2", pad_token="a</w>")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            cross_attention_dim=32 + 48,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=48 + 6 * 8,
            norm_num_groups=8,
        )
        config = CLIPTextConfig(
            **{**base.text_encoder.config.to_dict(), "hidden_size": 48, "projection_dim": 48}
        )
        text_encoder_2 = CLIPTextModelWithProjection(config)
    pipeline = StableDiffusionXLPipeline(
        vae=base.vae,
        text_encoder=base.text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=base.tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet,
        scheduler=base.scheduler,
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def write_tiny_pixel_folder(folder: Path, *, size: int = 64, seed: int = 1) -> Path:
    """A random unconditional diffusion model of pixels, as ``mini-pixel`` is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DModel(
            sample_size=size,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            add_attention=False,
        )
    unet.save_pretrained(folder / "unet", safe_serialization=True)
    DDIMScheduler(num_train_timesteps=1000).save_pretrained(folder / "scheduler")
    return folder


def write_clip(folder: Path, width: int = 16) -> None:
    tokenizer = write_tokenizer(folder, 16)
    shared = {"hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 1}
    config = CLIPConfig(
        text_config={
            **shared,
            "num_attention_heads": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 16,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={**shared, "num_attention_heads": 2, "image_size": 64, "patch_size": 8},
        projection_dim=12,
    )
    CLIPModel(config).save_pretrained(folder)
    settings = {
        "size": {"height": 64, "width": 64},
        "do_center_crop": False,
        "resample": 4,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
