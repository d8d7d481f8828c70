"""The closed form against a model whose best denoiser is known, and which data sets it is for."""

from typing import Any, cast

import pytest
import torch

from safezone.analysis.closed_form import (
    GaussianLatents,
    closed_forms,
    measured,
    of_one_image,
)
from safezone.analysis.timesteps import ImageDraws, noise_statistics, posterior_of, timestep_grid
from safezone.arrays import Latents
from safezone.errors import UserError
from safezone.models.base import Conditioning, Model, Posterior
from safezone.models.process import Epsilon, Process, RectifiedFlow, Velocity

SHAPE = (4, 4, 4)
SIZE = 64
ALPHAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
PROCESSES: dict[str, Process] = {
    "epsilon": Epsilon((1 - ALPHAS).cumprod(0).float()),
    "velocity": Velocity((1 - ALPHAS).cumprod(0).float()),
    "flow": RectifiedFlow(1000),
}
PROCESS = PROCESSES["epsilon"]
VARIANCES = torch.logspace(-4, 0.3, SIZE, dtype=torch.float64)
TIMES = torch.tensor([50, 300, 600])


def of_covariance(mean: torch.Tensor, covariance: torch.Tensor) -> GaussianLatents:
    """The Gaussian of a known covariance, symmetric and non-negative."""
    variances, vectors = torch.linalg.eigh(covariance.double())
    return GaussianLatents(mean.double(), vectors.T.contiguous(), variances.clamp(min=0), 0.0)


def optimal_noise(
    latents: GaussianLatents, noisy: Latents, signal: torch.Tensor, sigma: torch.Tensor
) -> Latents:
    """E[noise | z_t] of [batch] noisy latents (Eq. 10); ``signal`` and ``sigma``: [batch]."""
    signal, sigma = (value.double()[:, None] for value in (signal, sigma))
    centred = noisy.flatten(1).double() - signal * latents.mean.flatten()
    gain = sigma / (signal**2 * latents.variances + sigma**2)  # [batch, r]
    rest = sigma / (signal**2 * latents.rest + sigma**2)  # [batch, 1]
    along = centred @ latents.directions.T
    estimate = rest * centred + ((gain - rest) * along) @ latents.directions
    return estimate.view_as(noisy).to(noisy.dtype)


def gaussian() -> tuple[GaussianLatents, torch.Tensor]:
    """A Gaussian with correlated elements of very different variances, and a root of it."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(*SHAPE, generator=generator).double()
    root = torch.randn(SIZE, SIZE, generator=generator).double() / SIZE**0.5
    root = root @ torch.diag(torch.logspace(-1.5, 0.5, SIZE, dtype=torch.float64))
    return of_covariance(mean, root @ root.T), root


def sample(count: int) -> torch.Tensor:
    latents, root = gaussian()
    white = torch.randn(count, SIZE, generator=torch.Generator().manual_seed(1)).double()
    return (latents.mean.flatten() + white @ root.T).view(-1, *SHAPE).float()


class BestDenoiser:
    """A model that knows the Gaussian and answers in its own kind of prediction."""

    def __init__(self, process: Process) -> None:
        self.process, self.device, self.latents = process, torch.device("cpu"), gaussian()[0]

    def predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, _: Any) -> torch.Tensor:
        signal, sigma = self.process.signal_noise(timesteps)
        noise = optimal_noise(self.latents, noisy, signal, sigma)
        over = signal.view(-1, 1, 1, 1).float().clamp(min=1e-6)
        clean = (noisy - sigma.view(-1, 1, 1, 1).float() * noise) / over
        return self.process.target(clean, noise, timesteps)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_measured_loss_of_the_best_denoiser_is_the_closed_form(name: str) -> None:
    process = PROCESSES[name]
    model = cast(Model, BestDenoiser(process))
    count, timesteps = 60_000, torch.tensor([20, 200, 500, 900])
    latents = sample(count)
    names = [str(i) for i in range(count)]
    loss, norm = [], []
    for t in timesteps:  # one noise each: drawing 60,000 named streams would take a minute
        noise = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(int(t)))
        times = t.expand(count)
        noisy = process.corrupt(latents, noise, times)
        found = process.to_noise(noisy, model.predict(noisy, times, cast(Any, None)), times)
        loss.append(float((found - noise).square().mean()))
        norm.append(float(found.flatten(1).square().sum(dim=1).mean().sqrt()))
    closed = gaussian()[0]
    signal, sigma = process.signal_noise(timesteps)
    assert torch.tensor(loss).double() == pytest.approx(
        closed.expected_loss(signal, sigma), abs=1e-3
    )
    assert torch.tensor(norm).double() == pytest.approx(
        closed.expected_norm(signal, sigma), rel=1e-3
    )
    # The measuring function agrees with that within its own sample.
    few = 400
    posterior = Posterior(latents[:few], torch.zeros(few, *SHAPE))
    conditioning = Conditioning(torch.zeros(few, 1, 1))
    draws = ImageDraws(model, posterior, timesteps, names[:few])
    measured_loss = noise_statistics(draws, conditioning)["loss"]
    error = measured_loss.std(dim=0) / few**0.5
    expected = closed.expected_loss(signal, sigma)
    assert bool(((measured_loss.mean(dim=0) - expected).abs() < 4 * error).all())


def test_no_linear_prediction_is_better() -> None:
    """The error of any gain is sigma-quadratic around the closed form's."""
    closed, root = gaussian()
    covariance = root @ root.T
    for t in timestep_grid(1000, 5):
        signal, sigma = PROCESSES["epsilon"].signal_noise(t[None])
        best = sigma * torch.linalg.inv(signal**2 * covariance + sigma**2 * torch.eye(SIZE))

        def loss(gain: torch.Tensor, signal: Any = signal, sigma: Any = sigma) -> float:
            residual = gain * sigma - torch.eye(SIZE)
            total = residual @ residual.T + signal**2 * gain @ covariance @ gain.T
            return float(total.trace() / SIZE)

        assert loss(best) == pytest.approx(float(closed.expected_loss(signal, sigma)), abs=1e-6)
        assert loss(1.02 * best) >= loss(best)
        assert loss(0.98 * best) >= loss(best)


def test_the_loss_falls_from_one_to_nothing_and_the_norm_rises_to_that_of_noise() -> None:
    closed = gaussian()[0]
    signal, sigma = torch.tensor([1.0, 0.7, 0.0]), torch.tensor([0.0, 0.7, 1.0])
    loss, norm = closed.expected_loss(signal, sigma + 1e-9), closed.expected_norm(signal, sigma)
    assert loss[0] == pytest.approx(1, abs=1e-3)
    assert loss[0] > loss[1] > loss[2] == 0
    assert norm[2] == SIZE**0.5


def test_the_measured_gaussian_has_the_samples_mean_and_total_variance() -> None:
    latents = sample(50)  # fewer than elements
    std = torch.full_like(latents, 0.1)
    found = measured(Posterior(latents, std))
    assert torch.allclose(found.mean, latents.double().mean(dim=0))
    total = found.variances.sum() + (SIZE - len(found.variances)) * found.rest
    expected = latents.flatten(1).double().var(dim=0, correction=0).sum() + SIZE * 0.01
    assert float(total) == pytest.approx(float(expected), rel=1e-6)
    identity = found.directions[:49] @ found.directions[:49].T
    assert torch.allclose(identity, torch.eye(49).double(), atol=1e-8)


@pytest.mark.parametrize(("count", "error"), [(40, 0.7), (100, 0.1), (2000, 0.01)])
def test_the_closed_form_from_images_comes_near_the_true_one(count: int, error: float) -> None:
    signal, sigma = PROCESSES["epsilon"].signal_noise(torch.tensor([50, 300, 600]))
    expected = gaussian()[0].expected_loss(signal, sigma)
    latents = sample(count)
    found = measured(Posterior(latents, torch.full_like(latents, 1e-3)))
    assert float((found.expected_loss(signal, sigma) / expected - 1).abs().max()) < error


def test_images_that_are_all_alike_have_only_the_posteriors_variance() -> None:
    latents = torch.ones(3, *SHAPE)
    found = measured(Posterior(latents, torch.full_like(latents, 0.5)))
    assert torch.allclose(found.variances, torch.full((3,), 0.25).double())
    assert found.rest == pytest.approx(0.25)


def posterior(count: int) -> Posterior:
    white = torch.randn(count, SIZE, generator=torch.Generator().manual_seed(0)).double()
    latents = (white * VARIANCES.sqrt()).view(count, 4, 4, 4).float()
    return Posterior(latents, torch.full_like(latents, 1e-3))


def test_the_curve_is_drawn_from_two_images_an_element_on_and_else_said_to_be_left_out() -> None:
    found = closed_forms({"many": posterior(128), "few": posterior(127)}, PROCESS, TIMES)
    assert set(found.curves) == {"many"} and found.curves["many"].images == 128
    assert set(found.left_out) == {"few"}
    assert "127 images for 64" in found.left_out["few"] and "128" in found.left_out["few"]


def test_few_images_give_too_much_at_low_timesteps_and_enough_come_near() -> None:
    signal, sigma = PROCESS.signal_noise(TIMES)
    truth = of_covariance(torch.zeros(4, 4, 4), VARIANCES.diag()).expected_loss(signal, sigma)
    few = measured(posterior(16)).expected_loss(signal, sigma) / truth
    assert float(few[0]) > 1.5
    many = closed_forms({"clean": posterior(2000)}, PROCESS, TIMES).curves["clean"].loss / truth
    assert torch.allclose(many, torch.ones(3).double(), atol=0.05)


def test_one_image_is_the_gaussian_of_its_posterior() -> None:
    """Beside the form of a given covariance, and beside what the best prediction measures."""
    generator = torch.Generator().manual_seed(1)
    one = Posterior(
        torch.randn(1, 4, 4, 4, generator=generator),
        torch.rand(1, 4, 4, 4, generator=generator) + 0.05,
    )
    exact = of_one_image(one, PROCESS, TIMES)
    known = of_covariance(one.mean[0], one.std.double().flatten().square().diag())
    signal, sigma = PROCESS.signal_noise(TIMES)
    torch.testing.assert_close(exact.loss, known.expected_loss(signal, sigma))
    torch.testing.assert_close(exact.prediction_norm, known.expected_norm(signal, sigma))
    for place, t in enumerate(TIMES):
        clean = one.mean + one.std * torch.randn(4000, 4, 4, 4, generator=generator)
        noise = torch.randn(4000, 4, 4, 4, generator=generator)
        times = t.expand(4000)
        noisy = PROCESS.corrupt(clean, noise, times)
        s, n = (value.expand(4000) for value in PROCESS.signal_noise(t[None]))
        guess = optimal_noise(known, noisy, s, n)
        loss = float((guess - noise).square().mean())
        assert loss == pytest.approx(float(exact.loss[place]), rel=0.02)


def test_one_image_works_on_the_posteriors_of_any_model(tiny_model: Model) -> None:
    """Where the form of many images never can: two images for thousands of elements."""
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    whole = posterior_of(tiny_model, images.byte())
    times = timestep_grid(tiny_model.process.steps, 21)
    theory = closed_forms({"two": whole}, tiny_model.process, times)
    assert set(theory.left_out) == {"two"}
    loss = theory.one_image["two"].loss
    assert bool((loss[1:] < loss[:-1]).all())  # the more noise, the better it is told
    assert 0 <= float(loss[-1]) < float(loss[0]) <= 1
    halves = [
        closed_forms({"one": Posterior(m[None], s[None])}, tiny_model.process, times)
        for m, s in zip(whole.mean, whole.std, strict=True)
    ]
    torch.testing.assert_close(loss, sum(each.one_image["one"].loss for each in halves) / 2)


@pytest.mark.parametrize("count", [1, 1001, 5000])
def test_a_grid_with_more_timesteps_than_the_model_is_refused(count: int) -> None:
    with pytest.raises(UserError, match="2 to 1000"):
        timestep_grid(1000, count)
    assert len(timestep_grid(1000, 1000).unique()) == 1000
