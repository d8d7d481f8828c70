from collections.abc import Callable

import pytest
import torch

from safezone.personalize.draws import StepDraws, draw, pick

SHAPE = (4, 8, 8)
A, B, C = (0, "duck"), (1, "duck"), (0, "vase")


def same(first: StepDraws, i: int, second: StepDraws, j: int, batch: int) -> bool:
    """Whether run i of one call drew exactly what run j of the other did."""
    uniforms = all(
        torch.equal(getattr(first, name)[i], getattr(second, name)[j])
        for name in ("image", "flip", "timestep", "template")
    )
    rows = (slice(i * batch, (i + 1) * batch), slice(j * batch, (j + 1) * batch))
    return uniforms and all(
        torch.equal(getattr(first, name)[rows[0]], getattr(second, name)[rows[1]])
        for name in ("posterior_noise", "noise")
    )


@pytest.mark.parametrize("batch", [1, 3])
def test_a_run_draws_the_same_in_any_company(batch: int) -> None:
    company, alone = draw([C, A, B, A], 7, batch, SHAPE), draw([A], 7, batch, SHAPE)
    assert same(company, 1, alone, 0, batch)
    assert same(company, 3, alone, 0, batch)


@pytest.mark.parametrize(
    ("other", "step"), [(B, 7), (C, 7), (A, 8)], ids=["seed", "concept", "step"]
)
def test_streams_differ_by(other: tuple[int, str], step: int) -> None:
    assert not same(draw([A], 7, 1, SHAPE), 0, draw([other], step, 1, SHAPE), 0, 1)


def test_shapes_and_types() -> None:
    draws = draw([A, B], 0, 3, SHAPE)
    assert draws.image.shape == draws.template.shape == (2, 3)
    assert draws.image.dtype == torch.float64
    assert draws.noise.shape == draws.posterior_noise.shape == (6, *SHAPE)
    assert not torch.equal(draws.noise, draws.posterior_noise)


@pytest.mark.parametrize("name", ["image", "flip", "timestep", "template"])
def test_uniforms_are_uniform_over_the_steps(name: str) -> None:
    values = torch.cat([getattr(draw([A], step, 1, ()), name) for step in range(2000)]).flatten()
    assert abs(float(values.mean()) - 1 / 2) < 0.03
    assert abs(float(values.var()) - 1 / 12) < 0.01


@pytest.mark.parametrize("noise", [lambda d: d.noise, lambda d: d.posterior_noise])
def test_noise_is_standard_normal(noise: Callable[[StepDraws], torch.Tensor]) -> None:
    values = noise(draw([A], 0, 64, SHAPE))
    assert abs(float(values.mean())) < 0.03
    assert abs(float(values.std()) - 1) < 0.03


@pytest.mark.parametrize("count", [1, 3, 5, 7, 27])
def test_pick_reaches_every_index_and_no_other(count: int) -> None:
    uniforms = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1]
    edges = torch.tensor([1 - 2.0**-53], dtype=torch.float64)
    picked = pick(torch.cat([uniforms, edges])[None], torch.tensor([[count]]))
    assert set(picked.flatten().tolist()) == set(range(count))
