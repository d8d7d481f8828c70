"""The weights that ship: whole, plain diffusers format, and as good as the documents say."""

import tomllib
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from safezone.image_metrics import psnr
from safezone.models import Model, load_model
from safezone.models.known import WEIGHTS, builtin_folder
from safezone.models.pixel import load_pixel_model
from safezone.models.process import Epsilon, RectifiedFlow, Velocity
from safezone.scores import load_encoder
from training.quality import accuracy, held_out, retrieval_quality

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def mini() -> Model:
    return load_model("mini")


def test_weights_are_small_and_safe() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 100e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt"}


@pytest.mark.parametrize("name", ["mini", "mini-v"])
def test_stock_pipeline_opens_and_samples(name: str) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(builtin_folder(name), safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    images = pipe(
        "a photo of a red ball on grass",
        num_inference_steps=10,
        generator=generator,
        output_type="np",
    ).images
    assert images.shape == (1, 128, 128, 3)
    green = images[0, :16, :, 1].mean() - images[0, :16, :, 2].mean()
    assert green > 0.1  # the top of the picture is grass


def test_autoencoder_reconstructs_held_out_scenes(mini: Model) -> None:
    images, _ = held_out(32)
    pixels = images.float() / 255
    with torch.no_grad():
        output = mini.decode(mini.encode(pixels).mean).clamp(0, 1)
    assert float(psnr(output, pixels).mean()) > 24


@pytest.mark.parametrize(
    ("name", "process", "below"),
    [("mini", Epsilon, 0.5), ("mini-v", Velocity, 0.5), ("mini-rf", RectifiedFlow, 0.5)],
)
def test_loss_falls_with_the_right_prompt(name: str, process: type, below: float) -> None:
    """Text matters: the right caption predicts better than one of another scene.

    And the prediction is what the scheduler says that it is: another one would miss the target by
    more than saying nothing.
    """
    from safezone import miniworld

    model = load_model(name)
    assert isinstance(model.process, process)
    images, scenes = held_out(32)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        latents = model.encode(images.float() / 255).mean
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.full((32,), 700)
        noisy = model.process.corrupt(latents, noise, timesteps)
        target = model.process.target(latents, noise, timesteps)
        prompts = [miniworld.full_caption(scene) for scene in scenes]
        errors = [
            (model.predict(noisy, timesteps, model.embed_text(model.tokenize(texts))) - target)
            .square()
            .mean()
            for texts in (prompts, prompts[1:] + prompts[:1])
        ]
    assert errors[0] < 0.95 * errors[1]
    assert errors[0] < below * target.square().mean()


@pytest.mark.parametrize("name", ["mini-v", "mini-rf"])
def test_only_the_unet_of_a_twin_is_its_own(name: str) -> None:
    folder = builtin_folder(name)
    shared = [path for path in folder.iterdir() if path.is_symlink()]
    assert {path.name for path in shared} == {"vae", "text_encoder", "tokenizer"}
    assert {path.resolve().parent for path in shared} == {builtin_folder("mini").resolve()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    copied = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert {path.relative_to(ROOT).as_posix() for path in shared} <= copied.keys()


def test_instance_encoder_knows_objects(tmp_path: Path) -> None:
    from training.quality import instance_quality

    found = instance_quality(60, tmp_path)
    assert found["auc"] >= 0.97


def test_text_image_encoder_retrieves() -> None:
    images, scenes = held_out(100)
    assert retrieval_quality(images, scenes, 20)["top-1 of 20"] > 0.5


def test_classifier_on_renders() -> None:
    images, scenes = held_out(200)
    found = accuracy(images, scenes)
    assert found["background"] > 0.95
    assert found["color"] > 0.75
    assert found["shape"] > 0.65


def test_encoders_load_by_name() -> None:
    features = load_encoder("mini-instance").features(held_out(2)[0])
    assert features.shape == (2, 128)


def test_the_pixel_model_sees_through_noise_of_a_poisons_size() -> None:
    pixel = load_pixel_model("mini-pixel")
    images, _ = held_out(4)
    clean = images.float() / 255
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    timesteps = torch.full((4,), 40)
    noisy = pixel.process.corrupt(2 * clean - 1, noise, timesteps)
    signal, sigma = (float(value[0]) for value in pixel.process.signal_noise(timesteps))
    with torch.no_grad():
        predicted = pixel.denoiser(clean, [])(noisy, timesteps)

    def quality(latents: torch.Tensor) -> float:
        return float(psnr((latents / signal / 2 + 0.5).clamp(0, 1), clean).mean())

    assert quality(noisy - sigma * predicted) > quality(noisy) + 5
