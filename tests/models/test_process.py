"""Every process inverts its own corruption and agrees with diffusers' schedulers."""

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from safezone.arrays import randn, stream
from safezone.models import Epsilon, Process, RectifiedFlow, Velocity
from safezone.models.denoise import denoise

DDIM = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
PROCESSES: dict[str, Process] = {
    "epsilon": Epsilon(DDIM.alphas_cumprod),
    "velocity": Velocity(DDIM.alphas_cumprod),
    "flow": RectifiedFlow(1000),
    "flow-7": RectifiedFlow(7),
    "flow to data": RectifiedFlow(1000, "data"),
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
    flow = PROCESSES["flow"]
    noisy = flow.corrupt(clean, noise, timesteps)
    expected = scheduler.scale_noise(clean, flow.network_time(timesteps).float(), noise)
    torch.testing.assert_close(noisy, expected)


def test_a_network_of_flow_is_told_at_training_what_stock_samplers_tell_it() -> None:
    """Every time of the stock schedule is told at the noise level at which it is trained."""
    flow, scheduler = RectifiedFlow(1000), FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(7)
    times = flow.timestep_of(scheduler.timesteps)
    torch.testing.assert_close(flow.network_time(times), scheduler.timesteps.double())
    torch.testing.assert_close(flow.signal_noise(times)[1], scheduler.sigmas[:-1].double())
    trained = flow.network_time(torch.arange(1000)).double()
    torch.testing.assert_close(trained, 1000 * flow.signal_noise(torch.arange(1000))[1])
    stock = FlowMatchEulerDiscreteScheduler()  # unset, it has the times of training
    torch.testing.assert_close(trained, stock.timesteps.flip(0).double())


@pytest.mark.parametrize("stride", [1, 100, 250])
@pytest.mark.parametrize("kind", ["epsilon", "velocity"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_step_is_that_of_the_stock_ddim(kind: str, eta: float, stride: int) -> None:
    stock = DDIMScheduler.from_config(
        DDIM.config,
        prediction_type={"epsilon": "epsilon", "velocity": "v_prediction"}[kind],
        clip_sample=False,
        set_alpha_to_one=False,
    )
    noisy, prediction = clean_and_noise(3)
    fresh = clean_and_noise(3, seed=1)[0]
    stock.set_timesteps(1000 // stride)
    for now in (999, 500, stride):
        following = now - stride
        expected = stock.step(prediction, now, noisy, eta=eta, variance_noise=fresh).prev_sample
        rows = [torch.full((3,), t) for t in (now, following)]
        found = PROCESSES[kind].step(noisy, prediction, *rows, fresh=fresh, eta=eta)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_step_of_flow_is_that_of_the_stock_euler() -> None:
    stock = FlowMatchEulerDiscreteScheduler()
    stock.set_timesteps(sigmas=[0.9, 0.5, 0.1])
    flow = RectifiedFlow(1000)
    noisy, prediction = clean_and_noise(3)
    for i in range(2):
        now, following = (
            flow.timestep_of(stock.timesteps[i + k]).expand(3).round().long() for k in (0, 1)
        )
        expected = stock.step(prediction, stock.timesteps[i], noisy).prev_sample
        noisy = flow.step(noisy, prediction, now, following)
        torch.testing.assert_close(noisy, expected)


@each_process
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_a_walk_with_the_right_network_ends_at_the_clean_latents(
    process: Process, eta: float
) -> None:
    clean, noise = clean_and_noise(2)
    last = process.steps - 1
    times = [last, last // 2, 1, 0]
    first = torch.full((2,), last)

    def right(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        signal, sigma = (x.float().view(-1, 1, 1, 1) for x in process.signal_noise(timesteps))
        there = (noisy - signal * clean) / sigma
        return process.target(clean, there, timesteps)

    found = denoise(
        process,
        right,
        process.corrupt(clean, noise, first),
        times,
        draw=lambda: clean_and_noise(2, seed=3)[1],
        eta=eta,
    )
    torch.testing.assert_close(found, clean, atol=2e-3, rtol=1e-3)


def test_a_flow_towards_the_data_is_the_other_sign() -> None:
    away, to = RectifiedFlow(1000), RectifiedFlow(1000, "data")
    clean, noise = clean_and_noise(4)
    timesteps = torch.tensor([0, 10, 500, 999])
    assert torch.equal(to.target(clean, noise, timesteps), clean - noise)
    noisy = away.corrupt(clean, noise, timesteps)
    for name in ("to_clean", "to_noise"):
        of_one, of_other = (
            getattr(p, name)(noisy, p.target(clean, noise, timesteps), timesteps)
            for p in (away, to)
        )
        torch.testing.assert_close(of_one, of_other)


def test_new_noise_must_be_given() -> None:
    noisy, prediction = clean_and_noise(1)
    with pytest.raises(ValueError, match="needs fresh noise"):
        PROCESSES["epsilon"].step(noisy, prediction, torch.tensor([9]), torch.tensor([5]), eta=1.0)
