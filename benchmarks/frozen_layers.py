"""A pass of a frozen U-Net with our kernels beside torch's own, in one process and in turns.

    OMP_NUM_THREADS=2 python -m benchmarks.frozen_layers --model mini --rows 16

Forward and backward to the conditioning, as textual inversion needs them; random latents.
"""

import argparse
import json
import statistics
import time

import torch

from safezone.models import Model, load_model
from safezone.models.base import Conditioning
from safezone.models.frozen import stock_kernels


def pass_seconds(model: Model, rows: int) -> float:
    """One forward and backward pass of ``rows`` samples."""
    size = model.image_size // model.factor
    noisy = torch.randn(rows, model.latent_channels, size, size)
    words = model.embed_text(model.tokenize(["a photo"] * rows)).encoder_hidden_states
    words = words.detach().requires_grad_(True)
    steps = torch.randint(0, model.process.steps, (rows,))
    started = time.perf_counter()
    model.predict(noisy, steps, Conditioning(words)).square().mean().backward()
    return time.perf_counter() - started


def main() -> None:
    """Prints medians over the rounds in milliseconds a sample."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    model = load_model(options.model)
    ours, stock = [], []
    for turn in range(options.rounds + 3):
        mine = pass_seconds(model, options.rows)
        with stock_kernels():
            theirs = pass_seconds(model, options.rows)
        if turn >= 3:  # the first ones warm up
            ours.append(mine)
            stock.append(theirs)
    result = {
        "rows": options.rows,
        "threads": torch.get_num_threads(),
        "ours_ms": 1e3 * statistics.median(ours) / options.rows,
        "torch_ms": 1e3 * statistics.median(stock) / options.rows,
        "ratio": statistics.median(b / a for a, b in zip(ours, stock, strict=True)),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
