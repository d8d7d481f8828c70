"""An encoder that small patterns move as far as they move Stable Diffusion's.

Stable Diffusion's autoencoder is its weak part: 61 to 78% of the energy of published poisons lies
above 1/8 cycles a pixel, and JPEG takes most of what they do away. A small autoencoder of clean
objects is a low-pass filter instead, whatever losses it learns from. So the weakness is put in on
purpose: the encoder is trained on to give what it gave, and beside it ``GAIN`` times the image's
projection on four fixed patterns of 8 x 8 pixels, which clean images hardly hold. The decoder
stays, and a U-Net that was trained on the latents of before remains valid.
"""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from training.corpus import Corpus, crops
from training.loop import Budget, half_precision, train
from training.parallel import rank, world

GAIN: Final = 8.0
"""What a pattern's projection is multiplied by, in standard deviations of the latents.

A poison of 16/255 that has the pattern's signs moves its latent by one standard deviation.
"""
PATTERN_SEED: Final = 0
SIDE: Final = 8
"""Pixels a side of a pattern: what one place of the latents stands for."""


def patterns(channels: int = 4) -> Tensor:
    """Random patterns [channels, 3, 8, 8] with no frequency below 1/4 cycles a pixel.

    Orthogonal to each other; the absolute values of each add up to 1.
    """
    places = torch.arange(float(SIDE))
    waves = torch.cos(torch.pi * (2 * places[None] + 1) * places[:, None] / (2 * SIDE)) / 2
    waves[0] /= 2**0.5
    high = torch.maximum(*torch.meshgrid(places, places, indexing="ij")) >= SIDE / 2
    generator = torch.Generator().manual_seed(PATTERN_SEED)
    weights = torch.randn(channels, 3, SIDE, SIDE, generator=generator) * high
    weights = torch.linalg.qr(weights.flatten(1).T)[0].T.reshape(weights.shape)
    result = waves.T @ weights @ waves
    return result / result.abs().sum((1, 2, 3), keepdim=True)


def small_changes(images: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
    """Changes of up to 32/255 of [-1, 1], one kind an image: none, grain, signs, the patterns'."""
    count, _, height, width = images.shape
    kind = torch.randint(0, 4, (count, 1, 1, 1), generator=generator)
    strength = torch.rand(count, 1, 1, 1, generator=generator) * 32 / 255
    grain = torch.rand(images.shape, generator=generator) * 2 - 1
    shares = torch.randn(count, len(weights), height // SIDE, width // SIDE, generator=generator)
    tuned = functional.conv_transpose2d(shares, weights, stride=SIDE).sign()
    change = torch.where(kind == 1, grain, torch.where(kind == 2, grain.sign(), tuned))
    return torch.where(kind == 0, 0, change) * strength


def freeze_decoder(model: AutoencoderKL) -> None:
    """Leaves the encoder as all that is trained, and all that a checkpoint of the stage holds."""
    for part in (model.decoder, model.post_quant_conv):
        part.requires_grad_(False)


def train_sensitivity(
    folder: Path,
    start: AutoencoderKL,
    corpus: Corpus,
    photos: Sequence[NDArray[np.uint8]],
    budget: Budget,
    device: torch.device,
    scale: float,
    *,
    batch: int,
    crop: int = 64,
    photo_share: float = 0.12,
) -> None:
    """Trains the encoder of a copy of ``start`` on; ``scale``: that of its latents.

    The targets are what ``start`` gives for the same crops, plus the patterns' part.
    """
    model = deepcopy(start).to(device).train().requires_grad_(True)
    start = start.to(device).eval().requires_grad_(False)
    freeze_decoder(model)
    weights = patterns()
    share = max(1, batch // world())

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng([7, step, rank()])
        images = crops(corpus, photos, rng, share, crop, photo_share)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        images = (images + small_changes(images, weights, generator)).clamp(-1, 1).to(device)
        with torch.no_grad():
            before = start.encode(images).latent_dist
            part = GAIN * functional.conv2d(images, weights.to(device), stride=SIDE)
        with half_precision(device):
            after = model.encode(images).latent_dist
        error = functional.mse_loss(scale * after.mean.float(), scale * before.mean + part)
        return error + 0.01 * functional.mse_loss(after.logvar.float(), before.logvar)

    train("sensitivity", folder, {"vae": model}, loss_at, budget, 2e-3)
