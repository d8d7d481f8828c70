"""The rectified flows of Liu et al., whose scheduler's file says something else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from safezone.arrays import randn, stream
from safezone.generate import generate
from safezone.images import to_uint8
from safezone.lab.presets import kind_of
from safezone.models import RectifiedFlow, load_model
from safezone.models.denoise import predict
from tiny import write_tiny_folder, write_tiny_rectified_folder

PROMPT = "a photo of a cat"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_rectified_folder(tmp_path_factory.mktemp("rectified"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load_model(folder)


def test_the_scheduler_says_pndm_and_epsilon_and_the_index_decides(
    folder: Path, model: Any, tmp_path: Path
) -> None:
    config = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    assert (config["_class_name"], config["prediction_type"]) == ("PNDMScheduler", "epsilon")
    assert model.process == RectifiedFlow(1000, "data")
    assert kind_of(str(folder)) == kind_of("XCLiu/2_rectified_flow_from_sd_1_5") == "sd15-rf"
    plain = load_model(write_tiny_folder(tmp_path / "plain"))
    assert not isinstance(plain.process, RectifiedFlow)
    assert model.fingerprint() != plain.fingerprint(), "the same weights, another model"


@pytest.mark.parametrize("guidance", [1.0, 1.5])
@torch.no_grad()
def test_images_are_those_of_its_own_pipeline(model: Any, guidance: float) -> None:
    """Euler's steps as in InstaFlow's RectifiedFlowPipeline: told 1000 (1 - i / n), added to."""
    steps = 5
    conditioning = model.embed_text(model.tokenize(["", PROMPT])).encoder_hidden_states
    latents = randn([stream(7, "generate", "", 0, 0)], (4, 8, 8))
    for i in range(steps):
        told = torch.ones(2) * (1.0 - i / steps) * 1000.0
        velocity = model.unet(
            torch.cat([latents] * 2), told, encoder_hidden_states=conditioning
        ).sample
        empty, prompted = velocity.chunk(2)
        latents = latents + (1 / steps) * (empty + guidance * (prompted - empty))
    decoded = model.vae.decode(latents / model.vae.config.scaling_factor).sample
    (found,) = generate(
        model, [None], [PROMPT], seed=7, steps=steps, guidance=guidance, progress=False
    )
    difference = (found.int() - to_uint8(decoded / 2 + 0.5).int()).abs()
    assert int(difference.max()) <= 1


@torch.no_grad()
def test_its_loss_is_the_distance_to_clean_minus_noise(model: Any) -> None:
    clean, noise = (randn([stream(name)], (4, 8, 8)) for name in ("clean", "noise"))
    conditioning = model.embed_text(model.tokenize([PROMPT]))
    made = predict(model, clean, noise, torch.tensor([249]), conditioning)
    noisy = 0.75 * clean + 0.25 * noise
    told = torch.tensor([250.0])
    raw = model.unet(noisy, told, encoder_hidden_states=conditioning.encoder_hidden_states).sample
    torch.testing.assert_close(made.error, raw - (clean - noise))
    torch.testing.assert_close(made.predicted_noise, noisy - 0.75 * raw)


def test_flow_samplers_only(model: Any) -> None:
    assert isinstance(model.scheduler("euler"), FlowMatchEulerDiscreteScheduler)
    with pytest.raises(Exception, match="choose one of: ddim, euler"):
        model.scheduler("pndm")
