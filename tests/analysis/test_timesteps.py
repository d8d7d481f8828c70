"""Loss, norm and gradient by timestep."""

import pytest
import torch

from safezone.analysis.timesteps import (
    ImageDraws,
    apart,
    disjoint,
    embedding_gradients,
    noise_statistics,
    peak_interval,
    quantile_bands,
    region_losses,
    timestep_grid,
)
from safezone.models import Model, Posterior

NAMES = ("a", "b", "c")
TIMES = torch.tensor([10, 500, 990])


@pytest.fixture
def posterior() -> Posterior:
    mean = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return Posterior(mean, torch.full_like(mean, 0.05))


def test_the_grid_has_both_ends() -> None:
    grid = timestep_grid(1000)
    assert (len(grid), int(grid[0]), int(grid[-1])) == (21, 0, 999)
    assert len(set(grid.diff().tolist())) <= 2


def test_an_image_is_measured_alone_and_in_any_batch(
    tiny_model: Model, posterior: Posterior
) -> None:
    conditioning = tiny_model.embed_text(tiny_model.tokenize(["a cat", "a dog", "a toy"]))
    draws = ImageDraws(tiny_model, posterior, TIMES, NAMES)
    found = noise_statistics(draws, conditioning, batch_size=4)
    one = Posterior(posterior.mean[1:2], posterior.std[1:2])
    alone = noise_statistics(
        ImageDraws(tiny_model, one, TIMES, NAMES[1:2]),
        tiny_model.embed_text(tiny_model.tokenize(["a dog"])),
    )
    for name, values in found.items():
        assert values.shape == (3, 3)
        assert torch.allclose(values[1], alone[name][0], rtol=1e-4)
    assert bool((found["prediction_norm"] > 0).all())


def test_the_gradient_is_that_of_the_loss(tiny_model: Model, posterior: Posterior) -> None:
    tokens = tiny_model.tokenize(["a photo of a <x>"] * 3, "<x>", 2)
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(1)) * 0.1
    draws = ImageDraws(tiny_model, posterior, TIMES, NAMES)
    found = embedding_gradients(draws, tokens, vectors, batch_size=2)
    assert found.shape == (3, 3)
    # A small step along nothing but a scaled direction changes the loss by no more than the norm.
    step = 1e-3 * torch.randn(2, 32, generator=torch.Generator().manual_seed(2))
    losses = [
        noise_statistics(
            draws, tiny_model.embed_text(tokens, (vectors + sign * step).expand(3, -1, -1))
        )["loss"]
        for sign in (-1, 1)
    ]
    slope = (losses[1] - losses[0]).abs() / 2
    assert bool((slope <= found * step.norm() * 1.05 + 1e-6).all())
    assert bool((found > 0).all())


def test_bands_hold_their_shares_and_tell_where_two_sets_part() -> None:
    values = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0))
    clean = quantile_bands(values)
    inside = ((values >= clean["low95"]) & (values <= clean["high95"])).double().mean()
    assert float(inside) == pytest.approx(0.95, abs=0.002)
    shift = torch.tensor([0.0, 2.0, 0.0, 2.0, 0.0])
    times = torch.tensor([0, 250, 500, 750, 999])
    assert apart(clean, quantile_bands(values + shift), times) == {"part": 250, "meet": 999}
    assert apart(clean, clean, times) == {"part": None, "meet": None}
    assert apart(clean, quantile_bands(values - 2), times) == {"part": 0, "meet": None}


def test_the_regions_losses_average_to_the_whole(tiny_model: Model, posterior: Posterior) -> None:
    tokens = tiny_model.tokenize(["a <x>"] * 3, "<x>", 1)
    vectors = torch.zeros(1, 32)
    masks = torch.zeros(3, 8, 8)
    masks[:, 2:6, 2:6] = 1
    draws = ImageDraws(tiny_model, posterior, TIMES, NAMES)
    found = region_losses(draws, masks, tokens, vectors)
    conditioning = tiny_model.embed_text(tokens, vectors.expand(3, -1, -1))
    whole = noise_statistics(draws, conditioning)["loss"].mean(dim=1)
    assert torch.allclose(0.25 * found["inside"] + 0.75 * found["outside"], whole, rtol=1e-4)


def test_bands_that_have_nothing_in_common() -> None:
    times = torch.tensor([0, 500, 999])
    values = torch.randn(400, 3, generator=torch.Generator().manual_seed(1))
    clean = quantile_bands(values)
    far = quantile_bands(values + torch.tensor([9.0, 2.0, 0.0]))
    assert disjoint(clean, far, times, 95) == [0]
    assert disjoint(clean, far, times, 50) == [0, 500]
    assert disjoint(far, clean, times, 50) == [0, 500]


def test_the_interval_of_a_peak_is_narrow_where_it_is_sure() -> None:
    times = torch.tensor([0, 250, 500, 750])
    noise = torch.randn(60, 4, generator=torch.Generator().manual_seed(2))
    sharp = noise + torch.tensor([0.0, 6.0, 0.0, 0.0])
    assert peak_interval([sharp, sharp], times) == (250, 250)
    low, high = peak_interval([noise], times)
    assert low < high
