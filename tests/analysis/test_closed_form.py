"""Which data sets have images enough for the closed form, on constructed Gaussian latents."""

import pytest
import torch

from safezone.analysis.closed_form import closed_forms
from safezone.analysis.gaussian import measured, of_covariance
from safezone.analysis.timesteps import timestep_grid
from safezone.errors import UserError
from safezone.models.base import Posterior
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


@pytest.mark.parametrize("count", [1, 1001, 5000])
def test_a_grid_with_more_timesteps_than_the_model_is_refused(count: int) -> None:
    with pytest.raises(UserError, match="2 to 1000"):
        timestep_grid(1000, count)
    assert len(timestep_grid(1000, 1000).unique()) == 1000
