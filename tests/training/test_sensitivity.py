"""The encoder that small patterns move."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from safezone.models.known import WEIGHTS
from training.corpus import render_corpus
from training.loop import Budget
from training.sensitivity import GAIN, patterns, small_changes, train_sensitivity


def test_patterns_are_orthogonal_and_have_no_low_frequency() -> None:
    weights = patterns()
    flat = weights.flatten(1)
    product = flat @ flat.T
    assert torch.allclose(product, product.diag().diag(), atol=1e-8)
    assert torch.allclose(flat.abs().sum(1), torch.ones(4))
    smooth = functional.avg_pool2d(weights, 8)
    slope = (weights * torch.arange(8.0)).sum((1, 2, 3))
    assert float(smooth.abs().max()) < 1e-7
    assert float(slope.abs().max()) < 0.25 * 3.5


def test_small_changes_stay_small_and_move_the_projection() -> None:
    weights, generator = patterns(), torch.Generator().manual_seed(1)
    images = torch.zeros(64, 3, 32, 32)
    changes = small_changes(images, weights, generator)
    largest = changes.abs().amax((1, 2, 3))
    assert float(largest.max()) <= 32 / 255
    assert 4 < int((largest == 0).sum()) < 32
    tuned = functional.conv_transpose2d(torch.ones(1, 4, 4, 4), weights, stride=8).sign() * 32 / 255
    moved = GAIN * functional.conv2d(tuned, weights, stride=8)
    assert float(moved.min()) > 0.2 and float(moved.max()) < 1.01


@pytest.mark.slow
def test_the_encoder_alone_is_trained(tmp_path: Path) -> None:
    corpus = render_corpus(tmp_path / "first", seed=3, count=8, workers=1)
    start = AutoencoderKL.from_pretrained(WEIGHTS / "mini/vae", torch_dtype=torch.float32)
    train_sensitivity(tmp_path, start, corpus, [], Budget(30), torch.device("cpu"), 0.38, batch=2)
    trained = {
        name.removeprefix("now/vae.")
        for name in _names(tmp_path / "sensitivity.safetensors")
        if name.startswith("now/")
    }
    assert any(name.startswith("encoder.") for name in trained)
    assert not any(name.startswith(("decoder.", "post_quant_conv.")) for name in trained)


def _names(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return list(file.keys())


def test_the_shipped_encoder_answers_to_the_patterns() -> None:
    model = AutoencoderKL.from_pretrained(WEIGHTS / "mini/vae", torch_dtype=torch.float32)
    scale, weights = model.config.scaling_factor, patterns()
    generator = torch.Generator().manual_seed(0)
    image = torch.full((2, 3, 128, 128), 0.1)
    shares = torch.randn(2, 4, 16, 16, generator=generator)
    change = functional.conv_transpose2d(shares, weights, stride=8).sign() * 32 / 255
    with torch.no_grad():
        before, after = (
            scale * model.encode(each).latent_dist.mean for each in (image, image + change)
        )
    expected = GAIN * functional.conv2d(change, weights, stride=8)
    moved = np.corrcoef((after - before).flatten().numpy(), expected.flatten().numpy())
    assert moved[0, 1] > 0.8
