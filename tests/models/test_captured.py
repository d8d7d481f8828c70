"""A captured function is the function: called on the CPU, recorded and replayed on a GPU."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from safezone.arrays import DrawnAhead, rand, randn, stream
from safezone.errors import UserError
from safezone.generate import generate
from safezone.models import Model, load_model
from safezone.models.captured import Captured, Recorded
from safezone.poisons import POISONS, Unpoisoned, poison_many
from safezone.poisons.objectives import SampledDistance

NAMES = ("a", "b")
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    ),
]


@pytest.fixture(params=DEVICES)
def model(request: pytest.FixtureRequest, tiny_model: Model, tiny_model_folder: Any) -> Model:
    return tiny_model if request.param == "cpu" else load_model(tiny_model_folder, "cuda")


def test_a_captured_function_reads_what_it_is_given_each_time(model: Model) -> None:
    calls: list[Tensor] = []

    def double(value: Tensor) -> Tensor:
        calls.append(value)
        return 2 * value

    captured = Captured(double, model.device)
    inputs = [torch.full((3,), float(i), device=model.device) for i in range(4)]
    results = [captured(each) for each in inputs]
    assert torch.equal(torch.stack(results), 2 * torch.stack(inputs))  # none was overwritten
    assert len({value.data_ptr() for value in calls}) == 1


def test_calls_that_warm_up_change_nothing(model: Model) -> None:
    count = torch.zeros((), device=model.device)
    recorded = Recorded(lambda: count.add_(1), model.device, [count])
    for done in (1, 2, 3):
        recorded()
        assert int(count) == done


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_a_graph_cannot_hold_is_told() -> None:
    value = torch.ones(2, device="cuda")
    with pytest.raises(UserError, match="leave --captured out"):
        Recorded(lambda: value * float(value.sum()), value.device)()


def test_numbers_drawn_ahead_are_those_that_would_be_drawn() -> None:
    def numbers(generators: list[torch.Generator]) -> Tensor:
        return torch.cat([rand(generators, (2,)), randn(generators, (3,))], dim=1)

    ours, theirs = ([stream("ahead", i) for i in range(2)] for _ in range(2))
    ahead = DrawnAhead(torch.device("cpu"))
    for step in range(3):
        ahead.again()
        with ahead.reading():
            found = numbers(ours)
        assert torch.equal(found, numbers(theirs)), step
    assert torch.equal(rand(ours), rand(theirs))  # the streams have come equally far


@pytest.mark.parametrize("name", ["adm+", "adm+@lm", "adm+@szt", "sds-", "ea", "da"])
def test_a_captured_poison_equals_the_eager_one(name: str, model: Model) -> None:
    images = (rand([stream("captured", i) for i in range(2)], (3, 64, 64)) * 255).to(torch.uint8)
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[:, 16:48, 16:48] = True
    row = replace(POISONS[name], steps=12)  # two rounds
    if name == "da":
        short = SampledDistance(inference_steps=2)
        row = replace(row, steps=3, repetitions=2, objective=short)
    sets = [Unpoisoned(images, NAMES, masks)]
    (eager,), (captured,) = (
        poison_many([model], sets, row, 0, captured=each, progress=False) for each in (False, True)
    )
    if model.device.type == "cpu":
        assert torch.equal(captured, eager)
    else:
        assert (captured != eager).double().mean() < 0.01
    assert (captured != images).any()


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++", "euler", "pndm"])
def test_captured_sampling_equals_the_eager_one(scheduler: str, model: Model) -> None:
    eager, captured = (
        generate(
            model, [None], ["a cat", "a dog"], 2,
            seed=0, steps=5, scheduler=scheduler, batch_size=3, captured=each, progress=False,
        )[0]
        for each in (False, True)
    )  # fmt: skip
    most = 0 if model.device.type == "cpu" else 2
    assert (captured.int() - eager.int()).abs().max() <= most
