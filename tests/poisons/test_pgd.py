"""Budgets and the loop, on objectives whose optimum is known."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from safezone.arrays import rand, stream
from safezone.errors import UserError
from safezone.images import to_float, to_uint8
from safezone.poisons.pgd import Budget, projected_gradient

BUDGETS = [Budget(), Budget(8 / 255), Budget(16 / 256), Budget(3.0, "l2"), Budget(0.5, "l2")]
SHAPE = (3, 16, 16)


def streams(*names: str) -> list[torch.Generator]:
    return [stream("test", name) for name in names]


def length(delta: Tensor, budget: Budget) -> Tensor:
    """The budget's own norm of every image."""
    flat = delta.flatten(1).to(torch.float64)
    return flat.abs().amax(1) if budget.norm == "linf" else flat.norm(dim=1)


@pytest.mark.parametrize("budget", BUDGETS, ids=repr)
def test_projection_is_inside_idempotent_and_leaves_the_inside_alone(budget: Budget) -> None:
    delta = torch.stack([torch.randn(SHAPE, generator=g) for g in streams("a", "b")])
    projected = budget.project(delta)
    assert (length(projected, budget) <= budget.kappa * (1 + 1e-6)).all()
    torch.testing.assert_close(budget.project(projected), projected)
    torch.testing.assert_close(budget.project(projected * 0.5), projected * 0.5)


@pytest.mark.parametrize("budget", BUDGETS, ids=repr)
def test_a_start_is_inside_and_not_near_zero(budget: Budget) -> None:
    start = budget.start(streams("a", "b"), SHAPE)
    assert (length(start, budget) <= budget.kappa * (1 + 1e-6)).all()
    assert (length(start, budget) > 0.5 * budget.kappa).all()
    assert not torch.equal(start[0], start[1])


@pytest.mark.parametrize("budget", BUDGETS, ids=repr)
def test_the_steepest_direction_has_unit_length_and_no_other_gains_more(budget: Budget) -> None:
    gradient = torch.stack([torch.randn(SHAPE, generator=g) for g in streams("a", "b")])
    best = budget.steepest(gradient)
    torch.testing.assert_close(length(best, budget), torch.ones(2, dtype=torch.float64))
    other = torch.stack([torch.randn(SHAPE, generator=g) for g in streams("c", "d")])
    other = other / length(other, budget).view(-1, 1, 1, 1).to(other)
    assert ((best * gradient).flatten(1).sum(1) > (other * gradient).flatten(1).sum(1)).all()
    assert torch.equal(budget.steepest(torch.zeros_like(gradient)), torch.zeros_like(gradient))


@pytest.mark.parametrize(
    ("kappa", "levels", "inside"),
    [
        (16 / 255, 16, True),
        (16 / 255, 17, False),
        (16 / 256, 16, True),  # 15.94 levels: half a level of rounding is allowed
        (16 / 256, 17, False),
        (1 / 255, 1, True),
        (1 / 255, 2, False),
    ],
)
def test_contains_counts_in_8_bit_levels(kappa: float, levels: int, inside: bool) -> None:
    clean = torch.full((2, *SHAPE), 100, dtype=torch.uint8)
    for sign in (1, -1):
        poisoned = clean.clone()
        poisoned[1, 2, 3, 4] += sign * levels
        assert Budget(kappa).contains(clean, poisoned) is inside


def test_contains_adds_up_an_l2_change() -> None:
    clean = torch.full((1, *SHAPE), 100, dtype=torch.uint8)
    change = 10 * math.sqrt(clean.numel()) / 255  # the length of ten levels everywhere
    assert Budget(change, "l2").contains(clean, clean + 10)
    assert not Budget(change, "l2").contains(clean, clean + 11)


@pytest.mark.parametrize(
    ("kappa", "norm", "mend"),
    [
        (0.0, "linf", r"kappa is .*; give a"),
        (-0.1, "linf", r"kappa is .*; give a"),
        (math.nan, "linf", r"kappa is .*; give a"),
        (math.inf, "l2", r"kappa is .*; give a"),
        (16.0, "linf", "divide by 255"),
        (0.1 / 255, "linf", "at least 1/255"),
        (0.4 / 255, "l2", "at least 1/255"),
        (0.1, "l1", "give 'linf' or 'l2'"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(kappa: float, norm: str, mend: str) -> None:
    with pytest.raises(UserError, match=mend):
        Budget(kappa, norm)  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@given(seed=st.integers(0, 10**6), levels=st.integers(1, 64))
@settings(max_examples=15, deadline=None)
def test_rounding_to_8_bits_stays_inside(norm: str, seed: int, levels: int) -> None:
    kappa = levels / 255 * (1 if norm == "linf" else 10)
    budget = Budget(kappa, norm)  # type: ignore[arg-type]
    generators = [stream(seed, "rounding")]
    clean = to_uint8(rand(generators, SHAPE) * 1.5 - 0.25)  # with saturated pixels
    delta = budget.project((rand(generators, SHAPE) - 0.5) * 4 * kappa)
    assert budget.contains(clean, to_uint8((to_float(clean) + delta).clamp(0, 1)))


@pytest.mark.parametrize("budget", BUDGETS, ids=repr)
def test_the_loop_finds_the_optimum_of_a_linear_objective(budget: Budget) -> None:
    """For <w, x> it is clean + kappa * steepest(w), where no pixel saturates."""
    weights = torch.stack([torch.randn(SHAPE, generator=g) for g in streams("a", "b")])
    clean = torch.full((2, *SHAPE), 0.5)
    seen: list[int] = []

    def step(gradient: Tensor, index: int) -> Tensor:
        seen.append(index)
        return budget.kappa / 4 * budget.steepest(gradient)

    found = projected_gradient(
        clean, clean, lambda x, _: (weights * x).flatten(1).sum(1), step, budget, [], 6
    )
    torch.testing.assert_close(found, clean + budget.kappa * budget.steepest(weights))
    assert seen == list(range(6))
    assert not found.requires_grad


def test_the_loop_keeps_images_in_range_and_works_where_gradients_are_off() -> None:
    clean = torch.cat([torch.zeros(1, *SHAPE), torch.ones(1, *SHAPE)])
    with torch.no_grad():
        found = projected_gradient(
            clean, clean, lambda x, _: x.flatten(1).sum(1), lambda g, _: 0.1 * g.sign(),
            Budget(), [], 3,
        )  # fmt: skip
    torch.testing.assert_close(found[0], torch.full(SHAPE, 16 / 255))
    torch.testing.assert_close(found[1], torch.ones(SHAPE))


def _nan(images: Tensor, _: Sequence[torch.Generator]) -> Tensor:
    return (images * torch.tensor([1.0, math.nan]).view(2, 1, 1, 1)).flatten(1).sum(1)


def _zero_for_one(images: Tensor, _: Sequence[torch.Generator]) -> Tensor:
    return (images * torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)).flatten(1).sum(1)


@pytest.mark.parametrize(
    ("objective", "why"),
    [(_nan, "not finite at step 0"), (_zero_for_one, "is zero at steps 0 to 2")],
)
def test_a_broken_gradient_names_poison_and_step(objective, why: str) -> None:  # type: ignore[no-untyped-def]
    clean = torch.full((2, *SHAPE), 0.5)
    with pytest.raises(FloatingPointError, match=f"'adm.'.*{why}"):
        projected_gradient(clean, clean, objective, lambda g, _: g, Budget(), [], 3, name="adm+")


@pytest.mark.parametrize(("first", "steps", "silent"), [(0, 3, 0), (0, 3, 2), (10, 1, 0)])
def test_a_draw_that_tells_nothing_leaves_the_image_where_it_is(
    first: int, steps: int, silent: int
) -> None:
    """As at the last timestep of a flow, where nothing of the image is left."""
    clean, values = torch.full((1, *SHAPE), 0.5), iter(range(steps))

    def objective(images: Tensor, _: Sequence[torch.Generator]) -> Tensor:
        return images.flatten(1).sum(1) * (0.0 if next(values) == silent else 1.0)

    found = projected_gradient(
        clean, clean, objective, lambda g, _: 0.01 * g.sign(), Budget(), [], steps, first=first
    )
    torch.testing.assert_close(found, clean + 0.01 * (steps - 1))
