"""Figure 15: how often each timestep is drawn."""

from typing import Final

import torch

from safezone.defenses.timesteps import Power, Tanh, TimestepDistribution, Uniform
from safezone.lab.bench import Bench
from safezone.results.drawings.curves import Panel, Series, draw_panels
from safezone.results.drawings.style import Drawing

TANH: Final = (1.0, 3.0, 5.0, 10.0)
POWER: Final = (0.25, 0.5, 1.0, 2.0, 4.0)


def probabilities(bench: Bench) -> Drawing:
    """The tanh and power curves of appendix H, over the model's timesteps."""
    steps = bench.model.process.steps
    t = torch.arange(steps, dtype=torch.float64)
    row, numbers = [], {}
    for name, curves in (
        ("tanh", {f"rho = {rho:g}": Tanh(rho) for rho in TANH}),
        ("power", {f"rho = {rho:g}": Power(rho) for rho in POWER}),
    ):
        every: dict[str, TimestepDistribution] = {"uniform": Uniform(), **curves}
        series = []
        for label, distribution in every.items():
            p = distribution.probabilities(steps)
            series.append(Series(label, t, p * steps, bare=True))
            numbers[f"{name}, {label}"] = {"mean_timestep": float((p * t).sum())}
        row.append(Panel(name, series, "timestep t", "probability x T (uniform: 1)", floor=0.0))
    figure = draw_panels(f"Timestep distributions over T = {steps}", [row], width=3.6, height=3)
    return Drawing(figure, numbers)
