"""Every process inverts its own corruption and agrees with diffusers' schedulers."""

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from safezone.arrays import randn, stream
from safezone.models import Epsilon, Process, RectifiedFlow, Velocity

DDIM = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
PROCESSES: dict[str, Process] = {
    "epsilon": Epsilon(DDIM.alphas_cumprod),
    "velocity": Velocity(DDIM.alphas_cumprod),
    "flow": RectifiedFlow(1000),
    "flow-7": RectifiedFlow(7),
}
each_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


def clean_and_noise(batch: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (4, 3, 2)
    return (
        randn([stream(seed, "clean", i) for i in range(batch)], shape),
        randn([stream(seed, "noise", i) for i in range(batch)], shape),
    )


def corners(process: Process) -> torch.Tensor:
    last = process.steps - 1
    return torch.tensor([0, 1, last // 2, last - 1, last])


@each_process
def test_prediction_of_the_target_gives_back_clean_and_noise(process: Process) -> None:
    timesteps = corners(process)
    clean, noise = clean_and_noise(len(timesteps))
    noisy = process.corrupt(clean, noise, timesteps)
    target = process.target(clean, noise, timesteps)
    torch.testing.assert_close(
        process.to_clean(noisy, target, timesteps), clean, atol=2e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        process.to_noise(noisy, target, timesteps), noise, atol=2e-5, rtol=1e-4
    )


@each_process
@settings(max_examples=20, deadline=None)
@given(fraction=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 2**31))
def test_identity_holds_at_any_timestep(process: Process, fraction: float, seed: int) -> None:
    timesteps = torch.tensor([int(fraction * process.steps)])
    clean, noise = clean_and_noise(1, seed)
    noisy = process.corrupt(clean, noise, timesteps)
    target = process.target(clean, noise, timesteps)
    torch.testing.assert_close(
        process.to_clean(noisy, target, timesteps), clean, atol=5e-5, rtol=1e-4
    )


@each_process
def test_any_prediction_is_consistent_with_the_noisy_latents(process: Process) -> None:
    timesteps = corners(process)
    noisy, prediction = clean_and_noise(len(timesteps))
    clean = process.to_clean(noisy, prediction, timesteps)
    noise = process.to_noise(noisy, prediction, timesteps)
    torch.testing.assert_close(
        process.corrupt(clean, noise, timesteps), noisy, atol=2e-5, rtol=1e-4
    )


@each_process
def test_rows_do_not_see_each_other(process: Process) -> None:
    timesteps = corners(process)
    clean, noise = clean_and_noise(len(timesteps))
    together = process.corrupt(clean, noise, timesteps)
    alone = [
        process.corrupt(clean[i : i + 1], noise[i : i + 1], timesteps[i : i + 1])
        for i in range(len(timesteps))
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=0, rtol=0)


@each_process
def test_time_runs_from_nearly_clean_to_nearly_noise(process: Process) -> None:
    clean, noise = clean_and_noise(process.steps)
    timesteps = torch.arange(process.steps)
    noisy = process.corrupt(clean[:1].expand_as(clean), noise[:1].expand_as(noise), timesteps)
    distance = (noisy - clean[:1]).flatten(1).norm(dim=1)
    assert (distance.diff() > 0).all()
    assert (noisy[-1] - noise[0]).norm() < 0.1 * (noisy[0] - noise[0]).norm()


def test_variance_preserving_processes_agree_with_diffusers() -> None:
    timesteps = torch.tensor([0, 10, 500, 999])
    clean, noise = clean_and_noise(4)
    expected_noisy = DDIM.add_noise(clean, noise, timesteps)
    for name in ("epsilon", "velocity"):
        noisy = PROCESSES[name].corrupt(clean, noise, timesteps)
        torch.testing.assert_close(noisy, expected_noisy)
    velocity = PROCESSES["velocity"].target(clean, noise, timesteps)
    torch.testing.assert_close(velocity, DDIM.get_velocity(clean, noise, timesteps))


def test_flow_agrees_with_diffusers() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)
    timesteps = torch.tensor([0, 10, 500, 999])
    clean, noise = clean_and_noise(4)
    noisy = PROCESSES["flow"].corrupt(clean, noise, timesteps)
    expected = scheduler.scale_noise(clean, timesteps.float() + 1, noise)
    torch.testing.assert_close(noisy, expected)
