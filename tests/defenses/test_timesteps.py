"""Every distribution: probabilities, their support, and samples that follow them."""

import pytest
import torch
from scipy.stats import chisquare

from safezone.arrays import stream
from safezone.defenses.timesteps import AtLeast, Below, TimestepDistribution, Uniform
from safezone.errors import UserError

# Each with its first and last timestep for 1000 and for 25 steps.
DISTRIBUTIONS = [
    (Uniform(), (0, 999), (0, 24)),
    (AtLeast(0.5), (500, 999), (13, 24)),
    (AtLeast(0.6), (600, 999), (15, 24)),
    (AtLeast(0.55), (550, 999), (14, 24)),
    (AtLeast(0.0), (0, 999), (0, 24)),
    (AtLeast(0.999), (999, 999), None),
    (Below(0.5), (0, 499), (0, 12)),
    (Below(0.3), (0, 299), (0, 7)),
    (Below(1.0), (0, 999), (0, 24)),
]
CASES = [
    pytest.param(distribution, steps, support, id=f"{distribution}-{steps}")
    for distribution, *supports in DISTRIBUTIONS
    for steps, support in zip((1000, 25), supports, strict=True)
    if support is not None
]


@pytest.mark.parametrize(("distribution", "steps", "support"), CASES)
def test_probabilities_sum_to_one_over_the_stated_support(
    distribution: TimestepDistribution, steps: int, support: tuple[int, int]
) -> None:
    probabilities = distribution.probabilities(steps)
    assert probabilities.dtype == torch.float64
    assert probabilities.shape == (steps,)
    assert abs(float(probabilities.sum()) - 1) < 1e-12
    positive = probabilities.nonzero().flatten().tolist()
    assert positive == list(range(support[0], support[1] + 1))


@pytest.mark.parametrize(("distribution", "steps", "support"), CASES)
def test_samples_follow_the_probabilities(
    distribution: TimestepDistribution, steps: int, support: tuple[int, int]
) -> None:
    draws = 20_000
    uniforms = torch.rand(draws, generator=stream("timesteps"), dtype=torch.float64)
    samples = distribution.sample(uniforms, steps)
    assert samples.dtype == torch.int64
    counts = samples.bincount(minlength=steps)
    expected = distribution.probabilities(steps) * draws
    inside = expected > 0
    assert counts[~inside].sum() == 0
    if int(inside.sum()) > 1:
        assert chisquare(counts[inside].numpy(), expected[inside].numpy()).pvalue > 1e-3


@pytest.mark.parametrize(("distribution", "steps", "support"), CASES)
def test_the_ends_of_the_unit_interval_are_the_ends_of_the_support(
    distribution: TimestepDistribution, steps: int, support: tuple[int, int]
) -> None:
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert tuple(distribution.sample(ends, steps).tolist()) == support


def test_every_float32_uniform_is_valid() -> None:
    top = torch.tensor([1 - 2**-24], dtype=torch.float32)
    assert AtLeast(0.5).sample(top, 1000).tolist() == [999]


def test_a_threshold_and_its_complement_share_the_steps() -> None:
    for fraction in (0.1, 0.37, 0.5, 0.999):
        for steps in (7, 50, 1000):
            if Below(fraction).probabilities(steps)[-1] > 0:
                continue  # nothing is left above
            above = AtLeast(fraction).probabilities(steps) > 0
            below = Below(fraction).probabilities(steps) > 0
            assert bool((above ^ below).all())


@pytest.mark.parametrize("make", [AtLeast, Below])
@pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan"), 500.0])
def test_fractions_out_of_range_are_refused(make: type[AtLeast], fraction: float) -> None:
    with pytest.raises(UserError, match="threshold"):
        make(fraction)


def test_a_threshold_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="none of the model's 25"):
        AtLeast(0.999).probabilities(25)
