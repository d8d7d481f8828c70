"""The denoising run of the diffusion attack, and the choice of timesteps."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from safezone.arrays import rand, stream
from safezone.errors import UserError
from safezone.models import Epsilon, RectifiedFlow, Velocity
from safezone.models.base import Conditioning, Posterior
from safezone.models.process import Process
from safezone.poisons import POISONS, Guide, fixed_guide, objectives
from safezone.poisons.objectives import SampledDistance
from safezone.poisons.rounds import GreedyTimesteps

ALPHAS = torch.linspace(0.9999, 0.005, 1000, dtype=torch.float64)
PROCESSES: list[Process] = [Epsilon(ALPHAS), Velocity(ALPHAS), RectifiedFlow(1000)]


class Oracle(SimpleNamespace):
    """Images are latents, and the prediction is the true one for the clean images it was given."""

    def encode(self, images: Tensor) -> Posterior:
        return Posterior(images, torch.zeros_like(images))

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def tokenize(self, prompts: Any) -> Any:
        return prompts

    def embed_text(self, tokens: Any) -> Conditioning:
        return Conditioning(torch.zeros(len(tokens), 1, 1))

    def predict(self, noisy: Tensor, timesteps: Tensor, _: Conditioning) -> Tensor:
        zero, one = torch.zeros_like(noisy), torch.ones_like(noisy)
        signal = self.process.corrupt(one, zero, timesteps)
        noise = (noisy - signal * self.truth) / self.process.corrupt(zero, one, timesteps)
        target: Tensor = self.process.target(self.truth, noise, timesteps)
        return target


def oracle(process: Process) -> tuple[Any, Tensor, Guide]:
    truth = rand([stream("truth", i) for i in range(2)], (3, 8, 8)).double()
    model = Oracle(process=process, truth=truth, factor=1, device=torch.device("cpu"))
    return model, truth, fixed_guide(model, POISONS["da"], truth)  # type: ignore[arg-type]


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_a_perfect_network_samples_the_truth_whatever_the_parameterisation(
    process: Process, eta: float
) -> None:
    model, truth, guide = oracle(process)
    found = SampledDistance(eta=eta).sample(
        model, torch.rand_like(truth), [stream("s", i) for i in range(2)], guide
    )
    torch.testing.assert_close(found, truth, atol=1e-3, rtol=0)


def test_its_new_noise_is_that_of_ddim() -> None:
    """sigma^2 = (1 - a') / (1 - a) (1 - a / a') at eta 1 (Song et al. 2021, Eq. 16)."""
    now, after = torch.tensor([499]), torch.tensor([374])
    a, b = ALPHAS[now], ALPHAS[after]
    sigma = ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
    nothing, fresh = torch.zeros(1, 3, 8, 8).double(), torch.ones(1, 3, 8, 8).double()
    stepped = PROCESSES[0].step(nothing, nothing, now, after, fresh=fresh, eta=1.0)
    torch.testing.assert_close(stepped, fresh * sigma)


@pytest.mark.parametrize(
    ("steps", "inference", "strength", "expected"),
    [
        (1000, 4, 0.5, [499, 374, 249, 124]),
        (1000, 2, 1.0, [999, 499]),
        (1000, 1, 0.3, [299]),
        (3, 4, 1.0, [2, 1, 0]),
    ],
)
def test_timesteps_of_the_run(
    steps: int, inference: int, strength: float, expected: list[int]
) -> None:
    run = SampledDistance(inference_steps=inference, strength=strength)
    assert run.timesteps(steps) == expected


def test_checkpointing_changes_no_gradient_and_masks_and_norms_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(objectives, "_SMALL_IMAGE", 0)
    model, truth, guide = oracle(PROCESSES[0])
    masks = torch.zeros(2, 1, 8, 8)
    masks[:, :, 2:5, 2:5] = 1
    values, gradients = [], []
    for settings in ({}, {"checkpointing": False}, {"norm": "l1"}, {"reference": "target"}):
        objective = SampledDistance(**settings)
        images = (truth * 0.5).requires_grad_(True)
        model.truth = images + 0.1 * images.square()
        streams = [stream("s", i) for i in range(2)]
        value = objective(model, images, streams, dataclasses.replace(guide, masks=masks))
        values.append(value.detach())
        gradients.append(torch.autograd.grad(value.sum(), images)[0])
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert (values[2] > values[0]).all()
    assert not torch.equal(values[3], values[0])
    assert gradients[0][..., 2:5, 2:5].abs().min() > 0
    assert not (gradients[0] * (1 - masks)).any()


@pytest.mark.parametrize(
    "wrong",
    [{"norm": "l3"}, {"reference": "x"}, {"inference_steps": 0}, {"strength": 0.0}, {"eta": 2.0}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"give|takes"):
        SampledDistance(**wrong)


def test_the_search_keeps_the_timesteps_with_the_largest_gradients() -> None:
    model, truth, guide = oracle(PROCESSES[0])

    def steep(_: Any, images: Tensor, streams: Any, given: Guide) -> Tensor:
        """A gradient that grows with t for the first image and falls for the second."""
        t = given.timesteps.argmax(dim=1) / 1000
        return (images.flatten(1).sum(1) * torch.stack([t[0], 1 - t[1]])).float()

    found = GreedyTimesteps().search(model, steep, truth, [stream("a"), stream("b")], guide)
    numbers = torch.arange(1000, dtype=torch.float64)
    assert (found > 0).sum(dim=1).max() <= 100
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2, dtype=torch.float64))
    assert (found @ numbers)[0] > 700
    assert (found @ numbers)[1] < 300


def test_a_search_that_can_take_no_more_away_depends_on_no_neighbour() -> None:
    model, _, guide = oracle(Epsilon(ALPHAS[::100]))

    def bumpy(_: Any, images: Tensor, streams: Any, given: Guide) -> Tensor:
        t = given.timesteps.argmax(dim=1)
        return images.flatten(1).sum(1) * (1 + 7 * t % 40)

    names, search = "abcdefgh", GreedyTimesteps(candidates=2, window=0.3, keep=0.1)
    images = torch.zeros(len(names), 3, 8, 8)
    together = search.search(model, bumpy, images, [stream(name) for name in names], guide)
    alone = [search.search(model, bumpy, images[:1], [stream(name)], guide) for name in names]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("wrong", [{"candidates": 1}, {"window": 0.5}, {"keep": 0.0}])
def test_a_search_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"(candidates|window|keep) is .*; give"):
        GreedyTimesteps(**wrong)
