"""Every distribution: probabilities, their support, and samples that follow them."""

import math

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from safezone.arrays import stream
from safezone.defenses.timesteps import AtLeast, Below, Power, Tanh, TimestepDistribution, Uniform
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
    *((Power(rho), (0, 999), (0, 24)) for rho in (0.25, 0.5, 1, 2, 4)),
    *((Tanh(rho), (0, 999), (0, 24)) for rho in (1, 3, 5, 10)),
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
    with pytest.raises(UserError, match=r"fraction is .*; give"):
        make(fraction)


def test_a_threshold_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="none of the model's 25"):
        AtLeast(0.999).probabilities(25)


@pytest.mark.parametrize("rho", [0.25, 0.5, 1, 2, 4])
def test_power_curves_follow_appendix_h(rho: float) -> None:
    """P(t < x) is x^(rho + 1) on [0, 1]."""
    cumulative = Power(rho).probabilities(1000).cumsum(0)
    for x in (0.1, 0.5, 0.9):
        assert float(cumulative[round(1000 * x) - 1]) == pytest.approx(x ** (rho + 1), abs=1e-4)


@pytest.mark.parametrize("rho", [1, 3, 5, 10])
def test_tanh_curves_follow_appendix_h(rho: float) -> None:
    """p(t) + p(1 - t) is the same everywhere, and p(t) / p(1 - t) is exp(2 rho (t - 1/2))."""
    p = Tanh(rho).probabilities(1000)
    torch.testing.assert_close(p + p.flip(0), torch.full_like(p, 2 / 1000))
    for t in (600, 750, 999):
        ratio = float(p[t] / p[999 - t])
        assert ratio == pytest.approx(math.exp(2 * rho * ((t + 0.5) / 1000 - 0.5)), rel=1e-9)


def test_a_larger_rho_favours_higher_timesteps() -> None:
    times = torch.arange(1000, dtype=torch.float64)
    for kind, values in ((Power, (0, 0.25, 0.5, 1, 2, 4)), (Tanh, (0, 1, 3, 5, 10))):
        means = [float((kind(rho).probabilities(1000) * times).sum()) for rho in values]
        assert means == sorted(means)
        assert means[0] == pytest.approx(499.5)


@pytest.mark.parametrize("make", [Power, Tanh])
@pytest.mark.parametrize("rho", [-1.0, float("nan"), 1e9])
def test_curves_out_of_range_are_refused(make: type[Power] | type[Tanh], rho: float) -> None:
    with pytest.raises(UserError, match="rho"):
        make(rho)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (torch.zeros(25), "negative, not finite or all zero"),
        (torch.tensor([-1.0, *[1.0] * 24]), "negative, not finite or all zero"),
        (torch.full((25,), math.nan), "negative, not finite or all zero"),
        (torch.ones(50), r"Own gives \(50,\) probabilities for 25 timesteps"),
    ],
)
def test_a_distribution_of_one_s_own_that_is_none_is_told(values: Tensor, sentence: str) -> None:
    class Own(TimestepDistribution):
        def probabilities(self, steps: int) -> Tensor:
            return values

    with pytest.raises(UserError, match=sentence):
        Own().sample(torch.zeros(2), 25)
