"""The autoencoder of the built-in models: a stock AutoencoderKL, f = 8, four latent channels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor, nn

from training.corpus import Corpus, crops
from training.loop import Budget, half_precision, train, zero_residual_branches
from training.parallel import rank, world

CHANNELS = (24, 48, 96, 128)


def new_autoencoder() -> AutoencoderKL:
    """Untrained, but a linear multi-resolution transform from the first step on.

    Residual branches start at zero, the encoder's strided convolutions as a Haar transform (so
    that nothing of the 2 x 2 blocks is lost where channels allow), the decoder's upsampling
    convolutions as a smoothing of the identity. With the stock initialisation the four-level
    chain stays on a plateau for minutes.
    """
    torch.manual_seed(0)
    model = AutoencoderKL(
        block_out_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=128,
        mid_block_add_attention=True,
    )
    zero_residual_branches(model)
    with torch.no_grad():
        _pass_through(model.encoder.conv_in, 3)
        signal = 3
        for block in model.encoder.down_blocks:
            _identity_shortcut(block.resnets[0].conv_shortcut, signal)
            if block.downsamplers:
                signal = _haar(block.downsamplers[0].conv, signal)
        for block in model.decoder.up_blocks:
            for upsampler in block.upsamplers or []:
                _smooth(upsampler.conv)
    return model


def _pass_through(conv: nn.Conv2d, signal: int) -> None:
    """The first ``signal`` channels come out unchanged in front of the random ones."""
    conv.weight[:signal] = 0
    for channel in range(signal):
        conv.weight[channel, channel, 1, 1] = 1


def _identity_shortcut(conv: nn.Conv2d | None, signal: int) -> None:
    if conv is not None:
        conv.weight[:signal] = 0
        for channel in range(signal):
            conv.weight[channel, channel] = 1


def _haar(conv: nn.Conv2d, signal: int) -> int:
    """A stride-2 convolution as averages and differences of 2 x 2 blocks; how many it made.

    diffusers pads on the right and bottom, so a block is at the kernel's first two places.
    """
    patterns = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    made = 0
    for pattern in patterns:
        for channel in range(min(signal, conv.out_channels - made)):
            conv.weight[made] = 0
            conv.weight[made, channel, :2, :2] = pattern.view(2, 2)
            made += 1
    return made


def _smooth(conv: nn.Conv2d) -> None:
    """Linear interpolation behind nearest-neighbour doubling, beside a little noise."""
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    conv.weight *= 0.3
    for channel in range(conv.out_channels):
        conv.weight[channel, channel] += torch.outer(kernel, kernel)


def _gradient_l1(error: Tensor) -> Tensor:
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def reconstruction_loss(output: Tensor, images: Tensor) -> Tensor:
    """L1, twice the squared error and 0.3 of the L1 of the horizontal and vertical differences."""
    error = output - images
    return error.abs().mean() + 2 * error.square().mean() + 0.3 * _gradient_l1(error)


def train_autoencoder(
    folder: Path,
    corpus: Corpus,
    photos: Sequence[NDArray[np.uint8]],
    budget: Budget,
    device: torch.device,
    *,
    batch: int,
    crop: int = 64,
    photo_share: float = 0.12,
    kl_weight: float = 1e-4,
) -> AutoencoderKL:
    """Encoder and decoder together on random crops of ``crop`` pixels a side."""
    model = new_autoencoder().to(device).to(memory_format=torch.channels_last)
    share = max(1, batch // world())

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng([1, step, rank()])
        images = crops(corpus, photos, rng, share, crop, photo_share).to(device)
        generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
        with half_precision(device):
            posterior = model.encode(images).latent_dist
            mean, deviation = posterior.mean.float(), posterior.std.float()
            noise = torch.randn(mean.shape, generator=generator, device=device)
            output = model.decode(mean + deviation * noise).sample.float()
        kl = 0.5 * (mean**2 + deviation**2 - 1 - 2 * deviation.log()).mean()
        return reconstruction_loss(output, images) + kl_weight * kl

    train("autoencoder", folder, {"vae": model}, loss_at, budget, 2e-3, clip=2.0)
    return model.cpu().eval().requires_grad_(False)


@torch.no_grad()
def measure_scale(model: AutoencoderKL, corpus: Corpus, count: int = 512) -> float:
    """One over the standard deviation of the posterior means over ``count`` scenes."""
    batches = [np.array(corpus.images[i : i + 32]) for i in range(0, min(count, len(corpus)), 32)]
    means = [
        model.encode(torch.from_numpy(images).float() / 127.5 - 1).latent_dist.mean.flatten()
        for images in batches
    ]
    return float(1 / torch.cat(means).std())
