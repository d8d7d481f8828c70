"""Curves over a training, means over concepts, from arrays to drawings (figures 6 and 16)."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from safezone.results.drawings.curves import Panel, Series, draw_panels
from safezone.results.drawings.style import Drawing, legend


def _mean_curve(
    name: str, steps: Int[Tensor, " marks"], values: Float[Tensor, "concepts marks"]
) -> tuple[Series, Tensor, Tensor]:
    """The mean over concepts with its standard error as a band, and both as numbers."""
    mean = values.mean(dim=0)
    error = values.std(dim=0, correction=min(1, len(values) - 1)) / len(values) ** 0.5
    return Series(name, steps.double(), mean, [(mean - error, mean + error)]), mean, error


def region_drawing(
    values: Mapping[str, Mapping[str, Float[Tensor, "concepts marks"]]],
    steps: Int[Tensor, " marks"],
    *,
    n: str,
) -> Drawing:
    """Figure 6: changes in per cent of the first step. ``values[data][region]``: mean losses."""
    row, numbers = [], {}
    for region in ("inside", "outside"):
        series = []
        for data, parts in values.items():
            change = 100 * (parts[region] / parts[region][:, :1] - 1)
            curve, mean, _ = _mean_curve(data, steps, change)
            series.append(curve)
            numbers[f"{data}, {region}"] = {
                "loss": parts[region].mean(dim=0).tolist(),
                "change_percent": mean.tolist(),
            }
        row.append(Panel(f"{region} the object", series, "training step", "change of the loss (%)"))
    since = "the start of training" if not int(steps[0]) else f"step {int(steps[0])}"
    title = f"Loss since {since}; mean over concepts ± standard error ({n})"
    figure = draw_panels(title, [row], share_y=True, width=3.6, height=3)
    return Drawing(figure, {"n": n, "steps": steps.tolist(), "loss": numbers})


def ratio_drawing(
    values: Mapping[tuple[str, str], Float[Tensor, "concepts marks"]],
    steps: Int[Tensor, " marks"],
    area: float,
    about: str,
) -> Drawing:
    """Figure 16. ``values``: R by (data, defense); ``area``: of the object, what chance gives."""
    numbers: dict[str, Any] = {}
    panels: dict[str, list[Series]] = {}
    for (data, defense), by_concept in values.items():
        curve, mean, error = _mean_curve(data, steps, by_concept)
        panels.setdefault(defense, []).append(curve)
        numbers[f"{data}, {defense}"] = {
            "mean": mean.tolist(),
            "standard_error": error.tolist(),
            "concepts": len(by_concept),
        }
    row = [
        Panel(f"{defense} training", series, "training step", "in-region ratio R")
        for defense, series in panels.items()
    ]
    title = (
        f"Share of the learned word's sensitivity inside the object: {about}; the object's area is "
        f"{area:.2f}"
    )
    figure = draw_panels(title, [row], share_y=True, width=3.6, height=3.4)
    for axes in figure.axes:
        legend(axes, below=True)
    return Drawing(figure, {"steps": steps.tolist(), "in_region_ratio": numbers, "area": area})
