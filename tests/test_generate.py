from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from PIL import Image

from safezone.arrays import randn, stream
from safezone.errors import UserError
from safezone.generate import _rescaled, generate, preview_writer
from safezone.images import to_uint8
from safezone.models import Model, load_model
from safezone.personalize import Adapter
from tiny import write_tiny_folder

PROMPTS = ("a photo of a {}", "a {} on grass")


def adapter_of(model: Model, name: str, vectors: int = 1) -> Adapter:
    values = randn([stream(name, k) for k in range(vectors)], (model.embedding_width,))
    return Adapter(0.3 * values, f"<{name}>", "dog")


@pytest.fixture(scope="module")
def adapters(tiny_model: Model) -> list[Adapter]:
    return [adapter_of(tiny_model, name, n) for name, n in (("duck", 1), ("vase", 3), ("can", 2))]


def near(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Equal up to the rounding to 8 bits."""
    return first.shape == second.shape and int((first.int() - second.int()).abs().max()) <= 1


def draw(model: Model, adapters: Sequence[Adapter | None], **settings: Any) -> list[torch.Tensor]:
    prompts = settings.pop("prompts", PROMPTS)
    return generate(model, adapters, prompts, progress=False, **{"seed": 1, "steps": 3} | settings)


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm", "dpm++", "euler", "pndm"])
def test_adapters_in_company_equal_each_alone(
    tiny_model: Model, adapters: list[Adapter], scheduler: str
) -> None:
    keys = ["duck", "vase", "can"]
    together = draw(
        tiny_model,
        adapters,
        images_per_prompt=2,
        noise_keys=keys,
        batch_size=5,
        scheduler=scheduler,
    )
    for images, adapter, key in zip(together, adapters, keys, strict=True):
        assert images.shape == (4, 3, 64, 64)
        assert images.dtype == torch.uint8
        (alone,) = draw(
            tiny_model,
            [adapter],
            images_per_prompt=2,
            noise_keys=[key],
            batch_size=1,
            scheduler=scheduler,
        )
        assert near(images, alone)
    assert not near(together[0], together[1])


@pytest.mark.parametrize("kind", ["v_prediction", "flow_prediction"])
def test_other_parameterisations(tmp_path: Path, kind: str) -> None:
    model = load_model(write_tiny_folder(tmp_path / "model", prediction_type=kind))
    adapters = [adapter_of(model, "duck"), adapter_of(model, "vase")]
    together = draw(model, adapters, noise_keys=["a", "b"])
    (alone,) = draw(model, adapters[1:], noise_keys=["b"])
    assert near(together[1], alone)


def test_noise_belongs_to_seed_key_prompt_and_image(
    tiny_model: Model, adapters: list[Adapter]
) -> None:
    twin = replace(adapters[0])
    first, second, third = draw(
        tiny_model,
        [adapters[0], twin, twin],
        prompts=("a {}", "a {}"),
        images_per_prompt=2,
        noise_keys=["duck", "duck", "vase"],
    )
    assert near(first, second)
    assert not near(first, third)
    assert len({image.numpy().tobytes() for image in first}) == 4
    (other_seed,) = draw(tiny_model, [twin], prompts=("a {}",), noise_keys=["duck"], seed=2)
    assert not near(first[:1], other_seed)


def test_adapters_share_noise_by_default(tiny_model: Model, adapters: list[Adapter]) -> None:
    first, second = draw(tiny_model, [adapters[0], replace(adapters[0])])
    assert near(first, second)


def test_without_an_adapter(tiny_model: Model, adapters: list[Adapter]) -> None:
    plain, learned = draw(tiny_model, [None, adapters[1]], prompts=("a dog on grass",))
    assert near(plain, learned), "a prompt without {} does not use what was learned"
    word = Adapter(tiny_model.word_vectors("dog"), "<dog>", "dog")
    (as_word,) = draw(tiny_model, [word], prompts=("a {} on grass",))
    assert near(plain, as_word)


def test_guidance_of_one_is_none_and_more_matters(
    tiny_model: Model, adapters: list[Adapter]
) -> None:
    one = draw(tiny_model, adapters[:1], guidance=1.0)[0]
    nearly, five = (draw(tiny_model, adapters[:1], guidance=g)[0] for g in (1.0 + 1e-6, 5.0))
    assert near(one, nearly)
    assert not torch.equal(one, five)


def test_size(tiny_model: Model, adapters: list[Adapter]) -> None:
    assert draw(tiny_model, adapters[:1], size=48)[0].shape == (2, 3, 48, 48)


def test_no_adapters_give_no_images(tiny_model: Model) -> None:
    assert draw(tiny_model, []) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"images_per_prompt": 0}, "images_per_prompt is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"guidance": -1.0}, "guidance is -1"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"guidance_rescale": 1.5}, "guidance_rescale is 1.5"),
        ({"prompts": ()}, "no prompts"),
        ({"size": 60}, "multiple of 8"),
        ({"scheduler": "magic"}, "magic"),
        ({"steps": 1001}, "steps is 1001, .* at most 1000"),
    ],
)
def test_values_out_of_range_are_refused(
    tiny_model: Model, adapters: list[Adapter], settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        draw(tiny_model, adapters[:1], **settings)


def test_a_placeholder_without_adapter_is_refused(tiny_model: Model) -> None:
    with pytest.raises(UserError, match="no adapter"):
        draw(tiny_model, [None])


def test_an_embedding_of_another_width_is_refused(tiny_model: Model) -> None:
    with pytest.raises(UserError, match="7 numbers a vector"):
        draw(tiny_model, [Adapter(torch.ones(1, 7), "<x>", "dog")])


def test_nan_is_told(tiny_model: Model) -> None:
    broken = Adapter(torch.full((1, tiny_model.embedding_width), torch.nan), "<x>", "dog")
    with pytest.raises(UserError, match="NaN"):
        draw(tiny_model, [broken])


def test_previews_are_sheets_with_a_row_for_each_run(
    tiny_model: Model, adapters: list[Adapter], tmp_path: Path
) -> None:
    preview_writer(tiny_model, PROMPTS, tmp_path / "previews", steps=2)(40, adapters)
    sheet = np.asarray(Image.open(tmp_path / "previews" / "step-000040.png"))
    assert sheet.shape == (3 * 64, 2 * 64, 3)
    (first,) = draw(tiny_model, adapters[:1], seed=0, steps=2)
    assert near(torch.tensor(sheet[:64, :64]).permute(2, 0, 1), first[0])


def test_a_run_whose_preview_is_nan_has_a_black_row(
    tiny_model: Model, adapters: list[Adapter], tmp_path: Path
) -> None:
    broken = replace(adapters[0], vectors=adapters[0].vectors * 1e38)
    preview_writer(tiny_model, ["a {}"], tmp_path, steps=2)(7, [broken, adapters[1]])
    sheet = np.asarray(Image.open(tmp_path / "step-000007.png"))
    assert sheet.shape == (128, 64, 3)
    assert not sheet[:64].any()
    assert sheet[64:].std() > 5


def test_the_global_random_state_is_left_alone(tiny_model: Model, adapters: list[Adapter]) -> None:
    before = torch.get_rng_state()
    draw(tiny_model, adapters[:1], scheduler="ddpm")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_guidance_is_rescaled_as_diffusers_does(share: float) -> None:
    guided, prompted = (2.5 * randn([stream(n, i) for i in range(3)], (4, 8, 8)) for n in "ab")
    expected = rescale_noise_cfg(guided, prompted, guidance_rescale=share)
    torch.testing.assert_close(_rescaled(guided, prompted, share), expected)


def test_a_velocity_model_without_signal_at_the_last_timestep(tmp_path: Path) -> None:
    """The scheduler's file of ByteDance/sd2.1-base-zsnr-laionaes5 (Lin et al. 2024)."""
    folder = write_tiny_folder(tmp_path / "zsnr", prediction_type="v_prediction", linear=True)
    scheduler = DDIMScheduler(
        steps_offset=1,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    scheduler.save_pretrained(folder / "scheduler")
    model = load_model(folder)
    signal, sigma = model.process.signal_noise(torch.tensor([999]))
    assert (float(signal), float(sigma)) == (0.0, 1.0)
    assert model.scheduler("ddim").config.timestep_spacing == "trailing"
    alphas_cumprod = model.scheduler("ddim").alphas_cumprod
    for name in ("ddpm", "dpm++", "euler"):
        torch.testing.assert_close(model.scheduler(name).alphas_cumprod, alphas_cumprod)
    with pytest.raises(UserError, match=r"choose one of: ddim, ddpm, dpm\+\+, euler$"):
        model.scheduler("pndm")
    stock = StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, scheduler=scheduler
    )
    stock.set_progress_bar_config(disable=True)
    latents = randn([stream(1, "generate", "", 0, 0)], (4, 8, 8))
    found = {}
    for share in (0.0, 0.7):
        settings = {"guidance": 7.5, "guidance_rescale": share}
        (found[share],) = draw(model, [None], prompts=("a dog on grass",), **settings)
        expected = stock(
            "a dog on grass",
            latents=latents,
            num_inference_steps=3,
            guidance_scale=7.5,
            guidance_rescale=share,
            output_type="pt",
        ).images
        assert near(found[share], to_uint8(expected))
    assert not near(found[0.0], found[0.7])
