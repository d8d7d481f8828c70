"""The built-in diffusion model of pixels, for purifiers: mini world and photographs in crops."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DModel
from numpy.typing import NDArray
from torch import Tensor, nn

from training.corpus import Corpus, crops
from training.export import averaged, replace_folder
from training.loop import Budget, half_precision, train, zero_residual_branches
from training.parallel import rank, world

CROP = 64
"""Side of the training crops; the network is convolutional throughout and runs on 128 pixels."""

LOW = 200
"""Half of all draws are below this timestep, where purifiers work."""


def new_pixel_unet() -> UNet2DModel:
    """Four levels (128 to 16 pixels a side), convolutions only, 3.4 M parameters."""
    torch.manual_seed(5)
    model = UNet2DModel(
        sample_size=128,
        block_out_channels=(32, 64, 96, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 4,
        up_block_types=("UpBlock2D",) * 4,
        norm_num_groups=16,
        add_attention=False,
    )
    zero_residual_branches(model)
    nn.init.zeros_(model.conv_out.weight)
    return model


def new_pixel_scheduler() -> DDIMScheduler:
    """DDPM's schedule: 1000 steps, linear betas from 1e-4 to 0.02, noise prediction."""
    return DDIMScheduler(num_train_timesteps=1000, clip_sample=True)


def train_pixels(
    folder: Path,
    corpus: Corpus,
    photos: Sequence[NDArray[np.uint8]],
    budget: Budget,
    device: torch.device,
    *,
    batch: int,
    rate: float,
    photo_share: float = 0.5,
) -> None:
    """Noise prediction on random crops; resumes from ``folder/pixel.safetensors``."""
    alphas = new_pixel_scheduler().alphas_cumprod
    model = new_pixel_unet().to(device).to(memory_format=torch.channels_last)
    share = max(1, batch // world())

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng([11, step, rank()])
        clean = crops(corpus, photos, rng, share, CROP, photo_share)
        noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32))
        most = np.where(rng.random(share) < 0.5, LOW, len(alphas))
        timesteps = torch.from_numpy((rng.random(share) * most).astype(np.int64))
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = (alpha.sqrt() * clean + (1 - alpha).sqrt() * noise).to(device)
        with half_precision(device):
            predicted = model(noisy, timesteps.to(device)).sample.float()
        return (predicted - noise.to(device)).square().mean()

    train("pixel", folder, {"unet": model}, loss_at, budget, rate)


def export_pixels(folder: Path, checkpoint: Path) -> None:
    """The averaged weights as a diffusers folder in half precision: ``unet``, ``scheduler``."""
    model = new_pixel_unet()
    averaged(model, "unet", checkpoint)

    def write(target: Path) -> None:
        model.half().save_pretrained(target / "unet", safe_serialization=True)
        new_pixel_scheduler().save_pretrained(target / "scheduler")

    replace_folder(folder, write)
