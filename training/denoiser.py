"""The U-Net of the built-in model, trained together with the text encoder on cached latents."""

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from safezone import miniworld
from safezone.files import write_safetensors
from training.corpus import TRAIN_SEED, Corpus
from training.loop import train, zero_residual_branches
from training.parallel import rank, world

CHANNELS = (64, 96, 128)


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


def _encode_range(model: AutoencoderKL, corpus: Corpus, start: int, stop: int, path: Path) -> None:
    torch.set_num_threads(1)
    means, deviations = [], []
    with torch.no_grad():
        for i in tqdm(range(start, stop, 32), desc="encode", mininterval=5, disable=start > 0):
            images = torch.from_numpy(corpus.images[i : min(i + 32, stop)]).float() / 127.5 - 1
            posterior = model.encode(images).latent_dist
            means.append(posterior.mean.half())
            deviations.append(posterior.std.half())
    write_safetensors(path, {"mean": torch.cat(means), "std": torch.cat(deviations)})


def cache_posteriors(
    folder: Path, model: AutoencoderKL, corpus: Corpus, workers: int
) -> dict[str, Tensor]:
    """Posterior means and standard deviations of the corpus, half precision, kept on disk."""
    whole = folder / "posteriors.safetensors"
    if whole.exists():
        return load_file(whole)
    bounds = [len(corpus) * i // workers for i in range(workers + 1)]
    paths = [folder / f"posteriors-{i}-of-{workers}.safetensors" for i in range(workers)]
    jobs = [
        multiprocessing.get_context("spawn").Process(
            target=_encode_range, args=(model, corpus, bounds[i], bounds[i + 1], path)
        )
        for i, path in enumerate(paths)
        if not path.exists()
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
        if job.exitcode:
            raise RuntimeError(f"encoding the corpus stopped with status {job.exitcode}")
    parts = [load_file(path) for path in paths]
    posteriors = {key: torch.cat([part[key] for part in parts]) for key in ("mean", "std")}
    write_safetensors(whole, posteriors)
    for path in paths:
        path.unlink()
    return posteriors


class Captions:
    """A fresh caption of varying detail for every visit of a scene, tokenised.

    ``empty`` is the share replaced by the empty prompt, for classifier-free guidance.
    """

    def __init__(self, tokenizer: CLIPTokenizer, count: int, empty: float = 0.1):
        self.empty = empty
        self.scenes = [miniworld.scene_at(TRAIN_SEED, i) for i in range(count)]
        self.tokenizer = tokenizer

    def __call__(self, rows: Any, rng: np.random.Generator) -> Tensor:
        texts = [
            "" if rng.random() < self.empty else miniworld.caption(self.scenes[row], rng)
            for row in rows
        ]
        return self.tokenizer(
            texts, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids


def train_denoiser(
    folder: Path,
    posteriors: dict[str, Tensor],
    scale: float,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    steps: int,
    *,
    batch: int = 48,
    rate: float = 1.3e-3,
    snr_gamma: float = 5.0,
) -> None:
    """U-Net and text encoder on noise prediction, weighted by min(SNR, gamma) / SNR.

    The weight is never below 0.1: inversions learn most at low noise, where SNR is large.
    Timesteps are drawn in proportion to the weight's square root and weighted by the rest: the
    same objective, with less time spent where it counts for little (importance sampling).
    """
    alphas = new_scheduler().alphas_cumprod
    snr = alphas / (1 - alphas)
    importance = (snr.clamp(max=snr_gamma) / snr).clamp(min=0.1).sqrt()
    density = importance / importance.sum()
    cumulative = density.cumsum(0)
    mean, std = posteriors["mean"], posteriors["std"]
    captions = Captions(tokenizer, len(mean))
    share = batch // world()

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng([3, step, rank()])
        rows = rng.integers(len(mean), size=share)
        normals = torch.from_numpy(rng.standard_normal((2, share, 4, 16, 16), np.float32))
        clean = (mean[rows].float() + std[rows].float() * normals[0]) * scale
        # stratified timesteps: one from each of ``share`` equal parts of the distribution
        uniform = torch.from_numpy((np.arange(share) + rng.random(share)) / share).float()
        timesteps = torch.searchsorted(cumulative, uniform).clamp(max=len(alphas) - 1)
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * normals[1]
        states = text_encoder(input_ids=captions(rows, rng)).last_hidden_state
        prediction = unet(noisy, timesteps, states).sample
        error = (prediction - normals[1]).square().mean((1, 2, 3))
        return (importance[timesteps] * error).mean()

    train(
        "denoiser",
        folder,
        {"unet": unet, "text_encoder": text_encoder},
        loss_at,
        steps,
        rate,
        ema=0.999,
        betas=(0.9, 0.99),
    )
