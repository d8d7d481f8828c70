"""Which data sets have images enough for the closed form, on constructed Gaussian latents."""

import pytest
import torch

from safezone.analysis.closed_form import closed_forms, of_one_image
from safezone.analysis.gaussian import measured, of_covariance
from safezone.analysis.latents import posterior_of
from safezone.analysis.timesteps import timestep_grid
from safezone.errors import UserError
from safezone.models.base import Model, Posterior
from safezone.models.process import Epsilon

SIZE = 64
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
PROCESS = Epsilon((1 - BETAS).cumprod(0).float())
VARIANCES = torch.logspace(-4, 0.3, SIZE, dtype=torch.float64)
TIMES = torch.tensor([50, 300, 600])


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
    gaussian = of_covariance(one.mean[0], one.std.double().flatten().square().diag())
    signal, sigma = PROCESS.signal_noise(TIMES)
    torch.testing.assert_close(exact.loss, gaussian.expected_loss(signal, sigma))
    torch.testing.assert_close(exact.prediction_norm, gaussian.expected_norm(signal, sigma))
    for place, t in enumerate(TIMES):
        clean = one.mean + one.std * torch.randn(4000, 4, 4, 4, generator=generator)
        noise = torch.randn(4000, 4, 4, 4, generator=generator)
        times = t.expand(4000)
        noisy = PROCESS.corrupt(clean, noise, times)
        s, n = (value.expand(4000) for value in PROCESS.signal_noise(t[None]))
        guess = gaussian.optimal_noise(noisy, s, n)
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
