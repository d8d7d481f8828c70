"""Each kind of Stable Diffusion, small and random, through the real loading code, end to end."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

from safezone.arrays import randn, stream
from safezone.concepts import Concept
from safezone.defenses import defense
from safezone.errors import UserError
from safezone.generate import generate
from safezone.models import Epsilon, Model, RectifiedFlow, Velocity, load_model
from safezone.personalize import (
    METHODS,
    Adapter,
    TrainingRun,
    export_adapter,
    load_adapter,
    load_into_pipeline,
    read_adapter,
    save_adapter,
    train,
)
from tiny import write_tiny_folder, write_tiny_xl_folder


@dataclass(frozen=True)
class Kind:
    write: Callable[[Path], Path]
    process: type
    flow: bool = False


KINDS = {
    "sd15": Kind(write_tiny_folder, Epsilon),
    "sd15-rf": Kind(
        lambda f: write_tiny_folder(f, prediction_type="flow_prediction"), RectifiedFlow, True
    ),
    "sd21": Kind(lambda f: write_tiny_folder(f, linear=True), Epsilon),
    "sd21-v": Kind(
        lambda f: write_tiny_folder(f, linear=True, prediction_type="v_prediction"), Velocity
    ),
    "sdxl": Kind(write_tiny_xl_folder, Epsilon),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("kinds")
    return {name: load_model(kind.write(folder / name)) for name, kind in KINDS.items()}


def concept() -> Concept:
    masks = torch.zeros(3, 64, 64, dtype=torch.bool)
    masks[:, 16:48, 16:48] = True
    pixels = torch.randint(0, 256, (3, 3, 64, 64), generator=stream("kinds")).to(torch.uint8)
    return Concept(
        name="duck", class_word="dog", images=pixels, masks=masks, image_names=("0", "1", "2")
    )


def learned(model: Model, method: str, **settings: Any) -> Adapter:
    settings = {"steps": 2, "learning_rate": 3e-2} | settings
    run = TrainingRun("duck", concept(), defense("szt"), 0)
    (adapter,) = train(model, [run], METHODS[method](**settings), progress=False)
    assert not adapter.failed
    return adapter


def drawn(model: Model, adapter: Adapter, prompt: str = "a photo of a {} on grass") -> np.ndarray:
    (images,) = generate(
        model, [adapter], [prompt], seed=4, noise_keys=["duck"], steps=4, progress=False
    )
    return images[0].permute(1, 2, 0).numpy().astype(int)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_draws_and_is_read_back(
    models: dict[str, Model], tmp_path: Path, kind: str, method: str
) -> None:
    model = models[kind]
    assert isinstance(model.process, KINDS[kind].process)
    adapter = learned(model, method)
    save_adapter(adapter, tmp_path)
    again = read_adapter(tmp_path)
    assert again.words == adapter.words
    assert abs(drawn(model, adapter) - drawn(model, again)).max() <= 1
    untouched = replace(adapter, deltas={})
    if adapter.deltas:
        assert abs(drawn(model, adapter) - drawn(model, untouched)).max() > 0


def test_encode_and_decode_of_xl_are_those_of_its_parts(models: dict[str, Model]) -> None:
    model = models["sdxl"]
    images = torch.rand(2, 3, 64, 64, generator=stream("x"))
    posterior = model.encode(images)
    assert posterior.mean.shape == (2, 4, 8, 8)
    assert model.decode(posterior.mean).shape == images.shape
    assert (model.embedding_widths, model.embedding_width) == ((32, 48), 80)
    assert model.word_vectors("dog").shape == (1, 80)


def stock(model: Model, adapter: Adapter, load: Callable[[Any], None]) -> np.ndarray:
    """What the stock pipeline draws after ``load`` has put the adapter into it."""
    pipeline = DiffusionPipeline.from_pretrained(model.folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    load(pipeline)
    size = {} if len(model.embedding_widths) == 1 else {"height": 64, "width": 64}
    images = pipeline(
        f"a photo of a {adapter.words} on grass",
        latents=randn([stream(4, "generate", "duck", 0, 0)], (4, 8, 8)),
        num_inference_steps=4,
        guidance_scale=5.0,
        output_type="np",
        **size,
    ).images
    return np.asarray((images[0] * 255).round().astype(int))


@pytest.mark.parametrize("kind", ["sd15", "sd21-v", "sdxl"])
@pytest.mark.parametrize("method", METHODS)
def test_the_stock_pipeline_draws_the_same_image_in_one_call(
    models: dict[str, Model], kind: str, method: str
) -> None:
    model = models[kind]
    settings = {"vectors": 2} if method == "ti" else {}
    adapter = learned(model, method, **settings)
    theirs = stock(model, adapter, lambda pipeline: load_into_pipeline(pipeline, adapter))
    assert abs(drawn(model, adapter) - theirs).max() <= 1


def test_a_model_of_zero_terminal_snr_learns_and_draws_as_its_pipeline(tmp_path: Path) -> None:
    """ByteDance/sd2.1-base-zsnr-laionaes5: no signal at the last timestep, guidance rescaled."""
    folder = write_tiny_folder(tmp_path / "zsnr", linear=True, prediction_type="v_prediction")
    betas: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012}
    DDIMScheduler(
        **betas,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
        rescale_betas_zero_snr=True,
    ).save_pretrained(folder / "scheduler")
    model = load_model(folder)
    assert isinstance(model.process, Velocity)
    signal, sigma = model.process.signal_noise(torch.tensor([999]))
    assert (float(signal), float(sigma)) == (0, 1)
    noise = randn([stream("zsnr")], (4, 8, 8))
    last = torch.tensor([999])
    assert torch.equal(model.process.corrupt(noise * 3, noise, last), noise)
    adapter = learned(model, "ti")
    assert bool(adapter.vectors.isfinite().all())
    prompt = "a photo of a dog on grass"
    settings: dict[str, Any] = {"seed": 4, "noise_keys": ["n"], "steps": 4, "progress": False}
    (ours,) = generate(model, [None], [prompt], guidance_rescale=0.7, **settings)
    (plain,) = generate(model, [None], [prompt], **settings)
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    theirs = pipeline(
        prompt,
        latents=randn([stream(4, "generate", "n", 0, 0)], (4, 8, 8)),
        num_inference_steps=4,
        guidance_scale=5.0,
        guidance_rescale=0.7,
        output_type="np",
    ).images
    pixels = ours[0].permute(1, 2, 0).numpy().astype(int)
    assert abs(pixels - (theirs[0] * 255).round().astype(int)).max() <= 1
    assert not torch.equal(ours, plain)


@pytest.mark.parametrize("text_encoder", [False, True])
@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_the_stock_pipeline_loads_our_lora_file(
    models: dict[str, Model], tmp_path: Path, kind: str, text_encoder: bool
) -> None:
    model = models[kind]
    adapter = learned(model, "lora", text_encoder=text_encoder, alpha=2.0)
    path = save_adapter(adapter, tmp_path)
    theirs = stock(
        model, adapter, lambda p: p.load_lora_weights(str(tmp_path), weight_name=path.name)
    )
    ours = drawn(model, adapter)
    assert abs(ours - theirs).max() <= 1
    assert abs(ours - drawn(model, replace(adapter, deltas={}))).max() > 1


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_the_stock_pipeline_loads_our_kohya_file(
    models: dict[str, Model], tmp_path: Path, kind: str
) -> None:
    model = models[kind]
    adapter = learned(model, "lora", alpha=2.0)
    (path,) = export_adapter(adapter, tmp_path, "duck", "kohya").files
    loaded = load_adapter(path, model)
    assert abs(drawn(model, loaded) - drawn(model, adapter)).max() <= 1
    if kind == "sd15":  # of SDXL diffusers knows the original block numbers of the true size only
        theirs = stock(model, adapter, lambda p: p.load_lora_weights(str(path)))
        assert abs(drawn(model, adapter) - theirs).max() <= 1


def test_an_adapter_of_another_kind_is_refused(models: dict[str, Model]) -> None:
    for method in METHODS:
        adapter = learned(models["sdxl"], method)
        with pytest.raises(UserError, match="kind of model"):
            drawn(models["sd15"], adapter)
