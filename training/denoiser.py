"""The U-Net of the built-in model, trained together with the text encoder on cached latents."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextModel

from safezone.files import write_safetensors
from training.corpus import CAPTIONS, Corpus
from training.loop import (
    Budget,
    checkpoint_metadata,
    half_precision,
    train,
    zero_residual_branches,
)
from training.parallel import rank, world

CHANNELS = (64, 112, 160)


def new_unet(text_width: int) -> UNet2DConditionModel:
    """Three levels (16, 8 and 4 cells a side), cross-attention on the lower two."""
    torch.manual_seed(2)
    model = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=4,  # the number of heads: diffusers swaps the two names
        norm_num_groups=16,
    )
    zero_residual_branches(model)
    nn.init.zeros_(model.conv_out.weight)
    return model


def new_scheduler() -> DDIMScheduler:
    """SD 1.5's noise schedule: 1000 steps, scaled-linear betas, epsilon prediction."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


@torch.no_grad()
def cache_posteriors(
    folder: Path, model: AutoencoderKL, corpus: Corpus, device: torch.device
) -> dict[str, Tensor]:
    """Posterior means and standard deviations of the corpus, half precision, kept on disk.

    They are made again when the autoencoder is another one.
    """
    path = folder / "posteriors.safetensors"
    weights = sha256()
    for tensor in model.state_dict().values():
        weights.update(tensor.numpy().tobytes())
    record = {"autoencoder": weights.hexdigest(), "pictures": str(len(corpus))}
    if not path.exists() or checkpoint_metadata(path) != record:
        model = model.to(device)
        means, deviations = [], []
        size = 32 if device.type == "cpu" else 256
        for i in tqdm(range(0, len(corpus), size), desc="encode", mininterval=5):
            batch = torch.from_numpy(np.array(corpus.images[i : i + size])).to(device)
            posterior = model.encode(batch.float() / 127.5 - 1).latent_dist
            means.append(posterior.mean.half().cpu())
            deviations.append(posterior.std.half().cpu())
        write_safetensors(path, {"mean": torch.cat(means), "std": torch.cat(deviations)}, record)
        model.cpu()
    return load_file(path)


class Batches:
    """Draws latents, captions and noise for a step; ``empty`` is the share of empty prompts.

    What is drawn depends on the step (and the process) only, so a resumed training sees what an
    undisturbed one sees.
    """

    def __init__(
        self,
        posteriors: dict[str, Tensor],
        scale: float,
        tokens: NDArray[np.int32],
        empty_prompt: Sequence[int],
        batch: int,
        device: torch.device,
        *,
        stream: tuple[int, ...],
        empty: float = 0.1,
    ):
        self.mean, self.std = (posteriors[key].to(device) for key in ("mean", "std"))
        self.tokens = torch.from_numpy(tokens).to(device)
        self.empty_prompt = torch.tensor(empty_prompt, dtype=torch.int32, device=device)
        self.scale, self.empty, self.stream, self.device = scale, empty, stream, device
        self.batch = max(1, batch // world())

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents, noise [batch, 4, 16, 16], ids [batch, length], uniform [batch] in [0, 1)."""
        rng = np.random.default_rng([*self.stream, step, rank()])
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        rows = torch.from_numpy(rng.integers(len(self.mean), size=self.batch)).to(self.device)
        which = torch.from_numpy(rng.integers(CAPTIONS, size=self.batch)).to(self.device)
        left = torch.from_numpy(rng.random((self.batch, 1)) < self.empty).to(self.device)
        ids = torch.where(left, self.empty_prompt, self.tokens[rows, which]).long()
        normals = torch.randn(
            (2, self.batch, *self.mean.shape[1:]), generator=generator, device=self.device
        )
        clean = (self.mean[rows].float() + self.std[rows].float() * normals[0]) * self.scale
        # stratified: one from each of ``batch`` equal parts of the distribution
        uniform = (np.arange(self.batch) + rng.random(self.batch)) / self.batch
        return clean, normals[1], ids, torch.from_numpy(uniform).float().to(self.device)


def train_denoiser(
    folder: Path,
    batches: Batches,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    budget: Budget,
    *,
    rate: float,
    ema: float,
    snr_gamma: float = 5.0,
) -> None:
    """U-Net and text encoder on noise prediction, weighted by min(SNR, gamma) / SNR.

    The weight is never below 0.1: inversions learn most at low noise, where SNR is large.
    Timesteps are drawn in proportion to the weight's square root and weighted by the rest: the
    same objective, with less time spent where it counts for little (importance sampling).
    """
    device = batches.device
    alphas = new_scheduler().alphas_cumprod.to(device)
    snr = alphas / (1 - alphas)
    importance = (snr.clamp(max=snr_gamma) / snr).clamp(min=0.1).sqrt()
    cumulative = (importance / importance.sum()).cumsum(0)
    unet.to(device).to(memory_format=torch.channels_last)
    nn.Module.to(text_encoder, device)  # in place; transformers' own hides its signature

    def loss_at(step: int) -> Tensor:
        clean, noise, ids, uniform = batches(step)
        timesteps = torch.searchsorted(cumulative, uniform).clamp(max=len(alphas) - 1)
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        with half_precision(device):
            states = text_encoder(input_ids=ids).last_hidden_state
            prediction = unet(noisy, timesteps, states).sample.float()
        error = (prediction - noise).square().mean((1, 2, 3))
        return (importance[timesteps] * error).mean()

    modules = {"unet": unet, "text_encoder": text_encoder}
    train("denoiser", folder, modules, loss_at, budget, rate, ema=ema, betas=(0.9, 0.99))
