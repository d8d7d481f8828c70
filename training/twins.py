"""The built-in model's twins: its U-Net trained on to predict velocity, or rectified flow.

Only the U-Net differs. The other parts are links to the first model's, so that three models take
little more than one on the disk and still are three folders that stock diffusers opens.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextModel

from safezone.models.process import Process
from safezone.models.schedulers import process_of
from training.denoiser import Batches, new_scheduler
from training.export import averaged, replace_folder
from training.loop import Budget, half_precision, train

SHARED: Final = ("vae", "text_encoder", "tokenizer")


@dataclass(frozen=True)
class Twin:
    """``folder``: its name among the weights. ``scheduler``: says what the U-Net predicts."""

    folder: str
    scheduler: Any


def _velocity_scheduler() -> DDIMScheduler:
    config = {**new_scheduler().config, "prediction_type": "v_prediction"}
    return DDIMScheduler.from_config(config)


TWINS: Final[Mapping[str, Twin]] = MappingProxyType(
    {
        "v": Twin("mini-v", _velocity_scheduler()),
        "rf": Twin("mini-rf", FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)),
    }
)
"""By the name of the stage that trains it."""


def _process(twin: Twin) -> Process:
    return process_of({**twin.scheduler.config, "_class_name": type(twin.scheduler).__name__})


def train_twin(
    stage: str, work: Path, base: Path, batches: Batches, budget: Budget, *, rate: float, ema: float
) -> None:
    """Trains the U-Net of ``base`` on the twin's own target; checkpoints go to ``work``.

    Uniform stratified timesteps, plain mean squared error: of velocity that is the weight
    SNR + 1 on the clean latents' error, of rectified flow what its authors train with. The text
    encoder stays as it is, as it is shared.
    """
    process, device = _process(TWINS[stage]), batches.device
    unet = UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=torch.float32).train()
    unet = unet.to(device).to(memory_format=torch.channels_last)
    text_encoder = CLIPTextModel.from_pretrained(base / "text_encoder", dtype=torch.float32)
    nn.Module.to(text_encoder, device)  # in place; transformers' own hides its signature
    text_encoder = text_encoder.eval().requires_grad_(False)

    def loss_at(step: int) -> Tensor:
        clean, noise, ids, uniform = batches(step)
        timesteps = (uniform * process.steps).long().clamp(max=process.steps - 1)
        noisy = process.corrupt(clean, noise, timesteps)
        with half_precision(device):
            with torch.no_grad():
                states = text_encoder(input_ids=ids).last_hidden_state
            prediction = unet(noisy, process.network_time(timesteps), states).sample.float()
        return (prediction - process.target(clean, noise, timesteps)).square().mean()

    train(stage, work, {"unet": unet}, loss_at, budget, rate, ema=ema, betas=(0.9, 0.99))


def export_twin(stage: str, work: Path, base: Path, out: Path) -> Path:
    """Writes the twin's folder beside ``base``'s copy in ``out``; returns it.

    ``base`` must be ``out``/mini, to which the shared parts are linked.
    """
    twin = TWINS[stage]
    unet = UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=torch.float32)
    averaged(unet, "unet", work / f"{stage}.safetensors")
    index = json.loads((base / "model_index.json").read_text(encoding="utf-8"))
    index["scheduler"] = ["diffusers", type(twin.scheduler).__name__]
    folder = out / twin.folder

    def write(target: Path) -> None:
        unet.half().save_pretrained(target / "unet", safe_serialization=True)
        twin.scheduler.save_pretrained(target / "scheduler")
        text = json.dumps(index, indent=2) + "\n"
        (target / "model_index.json").write_text(text, encoding="utf-8")
        for part in SHARED:
            os.symlink(Path("..") / base.name / part, target / part, target_is_directory=True)

    replace_folder(folder, write)
    return folder
