"""Pixel models and the upscaler from folders as hubs have them, with tiny random weights."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionUpscalePipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from safezone.arrays import rand, stream
from safezone.defenses import (
    DiffPure,
    GridPure,
    PDMPure,
    defense,
    pixel_purify,
    purify,
    resolve,
)
from safezone.defenses.purify import NoisyUpscaling, RoundTrip, networks
from safezone.errors import UserError
from safezone.models import Model
from safezone.models.pixel import (
    PROMPT_FILE,
    SuperResolution,
    cache_prompt,
    load_pixel_model,
    load_upscaler,
)
from tiny import write_tiny_pixel_folder, write_tokenizer


def write_tiny_stage_two(folder: Path) -> Path:
    """DeepFloyd IF-II's parts, random: 6 channels in and out, timestep classes, a T5 encoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=32,
            in_channels=6,
            out_channels=6,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            cross_attention_dim=16,
            encoder_hid_dim=24,
            encoder_hid_dim_type="text_proj",
            class_embed_type="timestep",
            attention_head_dim=8,
            norm_num_groups=8,
            resnet_time_scale_shift="scale_shift",
            act_fn="gelu",
        )
        encoder = T5EncoderModel(
            T5Config(vocab_size=8, d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        )
    unet.save_pretrained(folder / "unet", safe_serialization=True)
    encoder.save_pretrained(folder / "text_encoder", safe_serialization=True)
    words = Tokenizer(WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "picture": 4}, "<unk>"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder / "tokenizer")
    DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", variance_type="learned_range", thresholding=True
    ).save_pretrained(folder / "scheduler")
    DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(
        folder / "image_noising_scheduler"
    )
    return folder


def write_tiny_upscaler(folder: Path) -> Path:
    """Stable Diffusion x4's parts, random: 7 channels in, an autoencoder of f = 4."""
    tokenizer = write_tokenizer(folder / "words", 77)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=32,
            in_channels=7,
            out_channels=4,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=8,
            norm_num_groups=8,
            num_class_embeds=1000,
        )
        vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 3,
            up_block_types=["UpDecoderBlock2D"] * 3,
            block_out_channels=(8, 8, 8),
            latent_channels=4,
            norm_num_groups=4,
            sample_size=128,
            scaling_factor=0.08333,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
    StableDiffusionUpscalePipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        low_res_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        scheduler=DDIMScheduler(prediction_type="v_prediction"),
        max_noise_level=350,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def stage_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_stage_two(tmp_path_factory.mktemp("if"))


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_upscaler(tmp_path_factory.mktemp("x4"))


def test_stage_two_opens_with_its_text_encoder_and_with_the_cached_prompt(
    stage_two: Path, tmp_path: Path
) -> None:
    first = load_pixel_model(str(stage_two))
    assert isinstance(first, SuperResolution)
    assert first.image_size == 32
    assert first.prompt.shape == (2, 77, 24)
    copy = tmp_path / "copy"
    copy.mkdir()
    for part in ("unet", "scheduler", "image_noising_scheduler"):
        (copy / part).symlink_to(stage_two / part)
    with pytest.raises(UserError, match="neither a text_encoder nor"):
        load_pixel_model(str(copy))
    cached = cache_prompt(stage_two)
    (copy / PROMPT_FILE).symlink_to(cached)
    second = load_pixel_model(str(copy))
    assert isinstance(second, SuperResolution)
    torch.testing.assert_close(second.prompt, first.prompt)
    cached.write_bytes(cached.read_bytes()[:-1])
    load_pixel_model.cache_clear()
    with pytest.raises(UserError, match=f"{PROMPT_FILE} holds no prompt_embeds"):
        load_pixel_model(str(copy))
    cached.unlink()


def test_stage_two_looks_at_the_shrunk_image_under_guidance(stage_two: Path) -> None:
    model = load_pixel_model(str(stage_two))
    images = rand([stream("a"), stream("b")], (3, 32, 32))
    t = torch.tensor([50, 50])

    def predict(seen: torch.Tensor) -> torch.Tensor:
        return model.denoiser(seen, [stream(1), stream(2)])(images, t)

    first = predict(images)
    assert first.shape == images.shape
    assert torch.equal(first, predict(images))
    changed = images.clone()
    changed[1] = 1 - changed[1]
    second = predict(changed)
    torch.testing.assert_close(second[0], first[0], atol=1e-5, rtol=1e-4)
    assert float((second[1] - first[1]).abs().max()) > 1e-4


def test_pdmpure_runs_on_stage_two_and_comes_back_by_the_upscaler(
    stage_two: Path, upscaler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = replace(load_upscaler(str(upscaler), None), steps=2)
    monkeypatch.setattr(pixel_purify, "load_upscaler", lambda name, device: quick)
    preprocess = PDMPure(model=str(stage_two), upscaler=str(upscaler), start=20, stride=10)
    ready = resolve(preprocess, None)
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=stream("x")).to(torch.uint8)
    first, second = ready(images, 3), ready(images, 3)
    assert first.shape == images.shape
    assert first.dtype == torch.uint8
    assert torch.equal(first, second)
    assert not torch.equal(first, ready(images, 4))
    assert first.float().std() > 0


def test_noisy_upscaling_and_the_round_trip_keep_shape_and_change_pixels(
    upscaler: Path, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = replace(load_upscaler(str(upscaler), None), steps=2)
    monkeypatch.setattr(purify, "load_upscaler", lambda name, device: quick)
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=stream("y")).to(torch.uint8)
    for preprocess in (NoisyUpscaling(upscaler=str(upscaler)), RoundTrip()):
        bound = preprocess.bind(tiny_model)
        once, again = bound(images, 3), bound(images, 3)
        assert (once.shape, once.dtype) == (images.shape, images.dtype)
        assert torch.equal(once, again)
        assert not torch.equal(once, images)
        assert torch.equal(bound(images[:1], 3), once[:1]), "no image depends on its neighbours"


def test_the_upscaler_multiplies_the_side_by_four(upscaler: Path) -> None:
    opened = load_upscaler(str(upscaler), None)
    large = replace(opened, steps=2)(rand([stream("c")], (3, 16, 16)), stream(0))
    assert large.shape == (1, 3, 64, 64)
    assert 0 <= float(large.min()) <= float(large.max()) <= 1


def test_a_folder_that_is_no_pixel_model_is_told(tmp_path: Path, tiny_model_folder: Path) -> None:
    with pytest.raises(UserError, match="no folder unet"):
        load_pixel_model(str(tmp_path))
    with pytest.raises(UserError, match="of 4 channels"):
        load_pixel_model(str(tiny_model_folder))
    folder = write_tiny_pixel_folder(tmp_path / "v")
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps(config | {"prediction_type": "v_prediction"})
    )
    with pytest.raises(UserError, match="predicts noise"):
        load_pixel_model(str(folder))
    with pytest.raises(UserError, match="upscaler"):
        load_upscaler("nothing-here", None)
    sides = write_tiny_pixel_folder(tmp_path / "s")
    config = json.loads((sides / "unet" / "config.json").read_text()) | {"sample_size": [64, 64]}
    (sides / "unet" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"sample_size \[64, 64\]"):
        load_pixel_model(str(sides))
    prompt = write_tiny_pixel_folder(tmp_path / "p")
    save_file({"x": torch.zeros(1)}, prompt / PROMPT_FILE)
    assert load_pixel_model(str(prompt)).image_size == 64  # an unconditional one needs no prompt


@pytest.mark.parametrize("name", ["pdmpure", "pdmpure60", "jpeg+pdmpure", "pdmpure-published"])
def test_pdmpure_on_a_real_model_is_stage_two_with_the_upscaler(
    stage_two: Path, upscaler: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    asked: list[tuple[str, str | None]] = []
    quick = replace(load_upscaler(str(upscaler), None), steps=2)

    def load_pixels(name: str, device: str | None) -> object:
        asked.append((name, device))
        return load_pixel_model(str(stage_two))

    def load_four_fold(name: str, device: str | None) -> object:
        asked.append((name, device))
        return quick

    monkeypatch.setattr(pixel_purify, "load_pixel_model", load_pixels)
    monkeypatch.setattr(pixel_purify, "load_upscaler", load_four_fold)
    real: Any = SimpleNamespace(image_size=512, device=torch.device("cpu"))
    ready = resolve(defense(name).preprocess, real)
    assert asked == [
        ("DeepFloyd/IF-II-L-v1.0", "cpu"),
        ("stabilityai/stable-diffusion-x4-upscaler", "cpu"),
    ]
    assert len(networks(ready)) == 2


def test_without_stage_two_a_real_model_is_told_what_to_fetch() -> None:
    real: Any = SimpleNamespace(image_size=512, device=torch.device("cpu"))
    with pytest.raises(UserError, match=r"accept the licence of DeepFloyd.*--without pdmpure"):
        resolve(defense("pdmpure").preprocess, real)


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("pdmpure", "pdmpure-if"),
        ("jpeg+pdmpure", "pdmpure-if"),
        ("diffpure", r"DiffPure\(model="),
        ("gridpure", r"GridPure\(model="),
    ],
)
def test_a_photograph_is_never_purified_at_128_px(name: str, instead: str) -> None:
    ready = resolve(defense(name).preprocess, None)
    with pytest.raises(UserError, match=f"for 128 px and the image has 512; use {instead}"):
        ready(torch.zeros(1, 3, 512, 512, dtype=torch.uint8), 0)


@pytest.mark.parametrize("name", ["diffpure", "diffpure50", "jpeg+gridpure", "gridpure5"])
def test_the_purifiers_of_pixels_name_the_model_that_a_real_one_needs(name: str) -> None:
    real: Any = SimpleNamespace(image_size=512, device=torch.device("cpu"))
    word = "diffpure" if "diff" in name else "gridpure"
    told = rf"{word} on photographs.*256x256_diffusion_uncond.*\(model=FOLDER\).*--without {word}"
    with pytest.raises(UserError, match=told):
        resolve(defense(name).preprocess, real)


@pytest.mark.parametrize("purifier", [DiffPure, GridPure])
def test_with_a_larger_pixel_model_photographs_are_purified(
    tmp_path: Path, purifier: type[DiffPure] | type[GridPure]
) -> None:
    """A small random folder stands for guided-diffusion's; it is opened by the loading code."""
    folder = write_tiny_pixel_folder(tmp_path / "guided")
    short = {"start": 2} if purifier is DiffPure else {"start": 1, "rounds": 1}
    real: Any = SimpleNamespace(image_size=512, device=torch.device("cpu"))
    ready = resolve(purifier(**short, model=str(folder)), real)
    assert networks(ready) == (load_pixel_model(str(folder), "cpu"),)
    image = torch.randint(0, 256, (1, 3, 192, 192), generator=stream("g")).to(torch.uint8)
    assert ready(image, 0).shape == image.shape
    assert not torch.equal(ready(image, 0), image)


def test_the_published_walk_starts_above_its_noise(tmp_path: Path) -> None:
    """The released code: noise of t = 44, denoised at 99, 88, ... 0."""
    seen: list[int] = []
    pixel: Any = load_pixel_model(str(write_tiny_pixel_folder(tmp_path / "p")))

    class Watching:
        name, image_size, device = "w", 64, torch.device("cpu")
        process = pixel.process

        def denoiser(self, images: torch.Tensor, generators: Any) -> Any:
            def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
                if not seen:
                    kept = float(pixel.process.alphas_cumprod[44])
                    spread = float((noisy - kept**0.5 * (images * 2 - 1)).var())
                    assert spread == pytest.approx(1 - kept, rel=0.1)
                seen.append(int(timesteps[0]))
                return torch.zeros_like(noisy)

            return predict

    purifier: Any = defense("pdmpure-published").preprocess
    watching: Any = Watching()
    purifier.clean(watching, torch.full((1, 3, 64, 64), 0.5), stream("published"))
    assert seen == [99, 88, 77, 66, 55, 44, 33, 22, 11, 0]
