"""A step of textual inversion on Stable Diffusion 1.5 at its true size, ours and diffusers'.

    python -m benchmarks.sd15_step --script SCRIPT --folder FOLDER

Neither time nor memory depends on what the weights are, so FOLDER is made with random ones when it
is not there (4.3 GB), with the built-in model's tokenizer. ``--script`` is diffusers'
examples/textual_inversion/textual_inversion.py, unchanged and not part of this project. Each side
runs in a process of its own, at batch size 1 and 512 pixels, in float32; memory is the process's
peak resident size, loading included.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.textual_inversion import ours, theirs, training_runs
from safezone.concepts import load_concept
from safezone.models import builtin_folder, load_model

SIZE, WORD = 512, "mug"


def write_random(folder: Path) -> None:
    """Stable Diffusion 1.5's configurations with random weights, a diffusers folder."""
    torch.manual_seed(0)
    shutil.copytree(builtin_folder("mini") / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", model_max_length=77)
    channels = (128, 256, 512, 512)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=channels,
            layers_per_block=2,
            latent_channels=4,
            sample_size=SIZE,
            scaling_factor=0.18215,
        ),
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                projection_dim=768,
                eos_token_id=tokenizer.eos_token_id,
                bos_token_id=tokenizer.bos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        ),
        tokenizer=tokenizer,
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)


def write_images(folder: Path) -> None:
    """Five pictures of noise: nothing that is measured depends on what they show."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(5):
        pixels = rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def measure(side: str, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of each step and the peak memory in GB of one side."""
    images = options.folder.with_name(f"{options.folder.name}-images")
    if side == "theirs":
        steps = theirs(options.script, options.folder, images, SIZE, WORD, options.steps)
        who = resource.RUSAGE_CHILDREN
    else:
        model = load_model(options.folder)
        concept = load_concept(images, SIZE, class_word=WORD)
        steps = ours(model, training_runs(concept, 1), options.steps)
        who = resource.RUSAGE_SELF
    return {"ms": steps, "peak_gb": resource.getrusage(who).ru_maxrss / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--script", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=14, help="of each side; the first 4 not timed")
    parser.add_argument("--side", choices=("ours", "theirs"), help="measure one side in here")
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options)))
        return
    if not (options.folder / "model_index.json").exists():
        write_random(options.folder)
    images = options.folder.with_name(f"{options.folder.name}-images")
    if not images.exists():  # benchmarks.gpu makes the folder alone
        write_images(images)
    print("| | seconds a step, median | peak memory, GB |\n|---|---:|---:|")
    for side in ("theirs", "ours"):
        command = [sys.executable, "-m", "benchmarks.sd15_step", "--side", side, *sys.argv[1:]]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found = json.loads(answer.splitlines()[-1])
        name = "diffusers' script" if side == "theirs" else "ours"
        seconds = statistics.median(found["ms"]) / 1000
        print(f"| {name} | {seconds:.1f} | {found['peak_gb']:.1f} |", flush=True)
    print(f"\ntorch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
