"""Histograms, Sarle's coefficient and radial spectra on signals whose answers are known."""

import math

import pytest
import torch

from safezone.analysis.spectra import (
    bimodality,
    levels,
    modes,
    perturbation_counts,
    rapsd,
    resample_spectrum,
    share_at_limit,
    spectrum_distance,
)
from safezone.images import jpeg


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (noise(200_000), 1 / 3),
        (torch.rand(200_000, generator=torch.Generator().manual_seed(1)).double(), 5 / 9),
        (noise(200_000).sign(), 1.0),
        (noise(200_000).sign() * 16 + noise(200_000, seed=1), 0.99),
    ],
    ids=["gaussian", "uniform", "two points", "two modes"],
)
def test_bimodality_of_constructed_noise(values: torch.Tensor, expected: float) -> None:
    assert bimodality(values) == pytest.approx(expected, abs=0.01)


def test_bimodality_does_not_depend_on_place_scale_or_how_values_are_counted() -> None:
    values = noise(999).round()
    distinct, counts = values.unique(return_counts=True)
    expected = bimodality(values)
    assert bimodality(7 - 3 * values) == pytest.approx(expected)
    assert bimodality(distinct, counts) == pytest.approx(expected)


@pytest.mark.parametrize("values", [torch.ones(10), torch.tensor([0.0, 1.0, 2.0])])
def test_bimodality_of_too_little_is_undefined(values: torch.Tensor) -> None:
    assert math.isnan(bimodality(values))


def test_counts_are_the_differences() -> None:
    clean = torch.randint(0, 256, (2, 3, 40, 30), dtype=torch.uint8)
    changed = torch.randint(0, 256, (2, 3, 40, 30), dtype=torch.uint8)
    counts = perturbation_counts(clean, changed)
    assert counts.sum() == clean.numel()
    difference = changed.double() - clean.double()
    assert float((counts * levels()).sum() / counts.sum()) == pytest.approx(
        float(difference.mean())
    )
    assert share_at_limit(counts, 16) == pytest.approx(
        float((difference.abs() >= 16).mean(dtype=torch.float64))
    )


@pytest.mark.usefixtures("unchecked_shapes")
def test_only_levels_are_counted() -> None:
    levels = torch.zeros(2, 3, 4, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="float32"):
        perturbation_counts(levels, levels.float())
    with pytest.raises(ValueError, match="uint8"):
        perturbation_counts(levels, levels[:1])


def histogram(values: torch.Tensor) -> torch.Tensor:
    """Counts of the differences -255 .. 255."""
    return torch.bincount(values.round().long().clamp(-255, 255) + 255, minlength=511)


def test_modes_of_constructed_noise() -> None:
    bell = noise(40_000)
    signs = torch.where(noise(40_000, seed=1) > 0, 1.0, -1.0)
    tails = torch.where(torch.arange(40_000) % 50 == 0, 12 * bell, bell)
    one = modes(histogram(8 * bell))
    assert one.valley == 1
    assert len(one.places) == 1
    assert abs(one.places[0]) <= 2
    two = modes(histogram(14 * signs + 4 * bell))
    assert two.valley < 0.2
    assert two.places == pytest.approx((-14, 14), abs=1.5)
    heavy = histogram(6 * tails)
    assert modes(heavy).valley == 1
    hidden = histogram(12 * signs + 5 * tails)  # Sarle's coefficient sees the tails only
    assert bimodality(levels(), hidden) < 5 / 9
    assert modes(hidden).valley < 0.6
    assert modes(hidden).places == pytest.approx((-12, 12), abs=2)
    with pytest.raises(ValueError, match="empty"):
        modes(torch.zeros(511, dtype=torch.int64))


def test_jpeg_makes_a_bimodal_perturbation_unimodal() -> None:
    smooth = torch.linspace(60, 190, 128)[None, None, None].expand(1, 3, 128, 128)
    signs = noise(1, 3, 128, 128).sign()
    clean, poisoned = smooth.round().to(torch.uint8), (smooth + 16 * signs).round().to(torch.uint8)
    before = bimodality(levels(), perturbation_counts(clean, poisoned))
    after = bimodality(levels(), perturbation_counts(clean, jpeg(poisoned, 25)))
    assert before > 0.95 > 5 / 9 > after


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80), (33, 31)])
def test_white_noise_has_a_flat_spectrum(height: int, width: int) -> None:
    power = rapsd(2 * noise(200, 3, height, width)).mean(dim=0)
    assert power.shape == (min(height, width) // 2 + 1,)
    assert torch.allclose(power[1:], torch.full_like(power[1:], 4.0), rtol=0.1)
    assert float(power[3:].mean()) == pytest.approx(4.0, rel=0.01)


def test_a_wave_stands_at_its_own_frequency() -> None:
    wave = (2 * math.pi * 5 * torch.arange(32) / 32).cos().expand(1, 1, 32, 32)
    power = rapsd(wave)[0]
    assert power.argmax() == 5
    assert float(power.sum() - power[5]) < 1e-9
    assert spectrum_distance(rapsd(noise(1, 1, 16, 16))[0], rapsd(noise(1, 1, 16, 16))[0]) == 0


def test_ten_times_the_power_is_ten_decibels_away() -> None:
    power = rapsd(noise(3, 2, 16, 16)).mean(dim=0)
    assert spectrum_distance(10 * power, power) == pytest.approx(10)


def test_spectra_of_two_sizes_are_compared_at_equal_frequencies() -> None:
    line = torch.arange(33, dtype=torch.float64)  # proportional to the frequency, side 64
    assert torch.allclose(resample_spectrum(line, 64, 17, 32), 2 * torch.arange(17).double())
