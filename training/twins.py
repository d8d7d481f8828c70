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

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from safezone.models.process import Process
from safezone.models.schedulers import process_of
from training.corpus import Corpus
from training.denoiser import Captions, cache_posteriors, new_scheduler
from training.export import averaged, replace_folder
from training.loop import train
from training.parallel import rank, world

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


def open_vae(base: Path) -> AutoencoderKL:
    """The first model's autoencoder, frozen, in single precision."""
    vae = AutoencoderKL.from_pretrained(base / "vae", torch_dtype=torch.float32)
    return vae.eval().requires_grad_(False)


def train_twin(stage: str, work: Path, base: Path, steps: int, workers: int) -> None:
    """Trains the U-Net of ``base`` on the twin's own target; checkpoints go to ``work``.

    Uniform stratified timesteps, plain mean squared error: of velocity that is the weight
    SNR + 1 on the clean latents' error, of rectified flow what its authors train with. The text
    encoder stays as it is, as it is shared.
    """
    process = _process(TWINS[stage])
    corpus = Corpus(work / "train")
    vae = open_vae(base)
    posteriors = cache_posteriors(work, vae, corpus, workers)
    scale = float(vae.config.scaling_factor)
    unet = UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=torch.float32).train()
    text_encoder = CLIPTextModel.from_pretrained(base / "text_encoder", dtype=torch.float32)
    text_encoder = text_encoder.eval().requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    mean, std = posteriors["mean"], posteriors["std"]
    captions, share = Captions(tokenizer, len(mean)), max(1, 48 // world())

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng([5, list(TWINS).index(stage), step, rank()])
        rows = rng.integers(len(mean), size=share)
        shape = (2, share, *mean.shape[1:])
        normals = torch.from_numpy(rng.standard_normal(shape, np.float32))
        clean = (mean[rows].float() + std[rows].float() * normals[0]) * scale
        uniform = (np.arange(share) + rng.random(share)) / share
        timesteps = torch.from_numpy((uniform * process.steps).astype(np.int64))
        with torch.no_grad():
            states = text_encoder(input_ids=captions(rows, rng)).last_hidden_state
        noisy, told = process.corrupt(clean, normals[1], timesteps), process.network_time(timesteps)
        prediction = unet(noisy, told, states).sample
        return (prediction - process.target(clean, normals[1], timesteps)).square().mean()

    unet.to(memory_format=torch.channels_last)
    train(stage, work, {"unet": unet}, loss_at, steps, 1e-3, ema=0.999, betas=(0.9, 0.99))


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
