"""Bands by timestep, from arrays to drawings (figures 4, 5, 10 and 11)."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from safezone.analysis.closed_form import ClosedForm, Theory
from safezone.analysis.timesteps import apart, disjoint, peak_interval, quantile_bands
from safezone.arrays import Timesteps
from safezone.results.drawings.curves import Panel, Series, draw_panels
from safezone.results.drawings.style import Drawing

BandValues = Mapping[str, Float[Tensor, "samples timesteps"]]
"""By name of the data, ``clean`` first."""


def band_series(values: BandValues, timesteps: Timesteps) -> list[Series]:
    """Medians with their 50% and 95% bands, one series a data set."""
    return [_banded(name, timesteps, quantile_bands(each)) for name, each in values.items()]


def _banded(name: str, timesteps: Timesteps, band: Mapping[str, Tensor]) -> Series:
    bands = [(band["low95"], band["high95"]), (band["low50"], band["high50"])]
    return Series(name, timesteps.double(), band["median"], bands)


def parting_numbers(values: BandValues, timesteps: Timesteps) -> dict[str, Any]:
    """Medians, and beside the first data set: where the others part from it and meet it again,
    where their 50% and 95% bands have nothing in common with its, and the ratio of medians."""
    bands = {name: quantile_bands(each) for name, each in values.items()}
    reference = next(iter(bands.values()))
    numbers: dict[str, Any] = {}
    for name, band in bands.items():
        numbers[name] = {"median": band["median"].tolist(), "samples": len(values[name])}
        if band is not reference:
            numbers[name] |= {
                **apart(reference, band, timesteps),
                "bands_50_apart_at": disjoint(reference, band, timesteps, 50),
                "bands_95_apart_at": disjoint(reference, band, timesteps, 95),
                "ratio_of_medians": (band["median"] / reference["median"]).tolist(),
            }
    return numbers


def _panel(title: str, series: list[Series], ylabel: str) -> Panel:
    return Panel(title, series, "timestep t", ylabel, floor=0.0)


def loss_drawing(losses: BandValues, timesteps: Timesteps, *, n: str) -> Drawing:
    """Figure 4: the loss of clean and poisoned images by timestep."""
    title, ylabel = (
        "median, 50% band (dark), 95% band (light)",
        "loss: mean squared error of the noise",
    )
    rows = [[_panel(title, band_series(losses, timesteps), ylabel)]]
    figure = draw_panels(f"Noise-prediction loss by timestep ({n})", rows, width=4.6, height=3)
    numbers = {"n": n, "timesteps": timesteps.tolist(), "loss": parting_numbers(losses, timesteps)}
    return Drawing(figure, numbers)


def expanded_drawing(
    losses: BandValues,
    norms: BandValues,
    theory: Theory,
    timesteps: Timesteps,
    *,
    elements: int,
    n: str,
) -> Drawing:
    """Figure 10: norm of the predicted noise, norm of the error and loss, beside the closed form.

    ``theory``: of ``closed_forms``; the title says from how many images its covariance is, and the
    numbers also what was left out and why. ``elements``: of one latent; its root is E|noise|.
    """
    x = timesteps.double()
    curves = {f"closed form, {name}": each for name, each in theory.curves.items()}
    curves |= {f"one image, {name}": each for name, each in theory.one_image.items()}
    columns = (
        (
            f"norm of the predicted noise (of true noise: {elements**0.5:.0f})",
            norms,
            {name: each.prediction_norm for name, each in curves.items()},
            "l2 norm",
        ),
        (
            "norm of its error",
            {name: (each.double() * elements).sqrt() for name, each in losses.items()},
            {name: (each.loss * elements).sqrt() for name, each in curves.items()},
            "l2 norm",
        ),
        ("loss", losses, {name: e.loss for name, e in curves.items()}, "mean squared error"),
    )
    row = []
    for title, values, forms, ylabel in columns:
        lines = [Series(name, x, y, bare=True) for name, y in forms.items()]
        row.append(_panel(title, [*band_series(values, timesteps), *lines], ylabel))
    sources = ", ".join(f"C of {name} from {c.images} images" for name, c in theory.curves.items())
    figure = draw_panels(
        f"Predicted noise and loss by timestep; median, 50% and 95% bands ({n}); closed form: "
        f"{sources or 'left out, too few images'}; one image: exactly, from its own posterior",
        [row],
        width=3.5,
        height=3,
    )
    departure = {}
    for name, each in theory.curves.items():
        gap = quantile_bands(losses[name])["median"] - each.loss
        worst = int(gap.abs().argmax())
        departure[name] = {"largest": float(gap[worst]), "at": int(timesteps[worst])}
    numbers = {
        "n": n,
        "timesteps": timesteps.tolist(),
        "loss": parting_numbers(losses, timesteps),
        "prediction_norm": parting_numbers(norms, timesteps),
        "closed_form": {name: _form(each) for name, each in theory.curves.items()},
        "closed_form_of_one_image": {name: _form(each) for name, each in theory.one_image.items()},
        "closed_form_left_out": dict(theory.left_out),
        "median_loss_minus_closed_form": departure,
    }
    return Drawing(figure, numbers)


def _form(curve: ClosedForm) -> dict[str, Any]:
    return {
        "loss": curve.loss.tolist(),
        "prediction_norm": curve.prediction_norm.tolist(),
        "images": curve.images,
    }


def gradient_drawing(
    gradients: Mapping[str, Mapping[str, list[Float[Tensor, "samples timesteps"]]]],
    timesteps: Timesteps,
    *,
    n: str,
    means: bool = False,
) -> Drawing:
    """Figures 5 and 11: |dL / d embedding| by timestep, one panel a checkpoint.

    ``gradients[panel][data]``: one array a concept, whose quantiles and means are averaged over
    concepts. ``means``: drawn beside the medians; the numbers have both.
    """
    row, numbers = [], {}
    for title, by_data in gradients.items():
        series, peaks = [], {}
        for name, concepts in by_data.items():
            bands = [quantile_bands(each) for each in concepts]
            mean = {k: torch.stack([b[k] for b in bands]).mean(dim=0) for k in bands[0]}
            series.append(_banded(name, timesteps, mean))
            average = torch.stack([each.double().mean(dim=0) for each in concepts]).mean(dim=0)
            if means:
                label = f"{name}, mean"
                series.append(Series(label, timesteps.double(), average, bare=True))
            peak = int(mean["median"].argmax())
            peaks[name] = {
                "peak_at": int(timesteps[peak]),
                "peak_interval": peak_interval(concepts, timesteps),
                "peak": float(mean["median"][peak]),
                "median": mean["median"].tolist(),
                "mean": average.tolist(),
            }
        row.append(_panel(title, series, "|dL / d embedding|, l2"))
        numbers[title] = peaks
    rows = [row[i : i + 2] for i in range(0, len(row), 2)]
    lines = "median, mean" if means else "median"
    figure = draw_panels(
        f"Gradient of the loss on the learned vectors; {lines}, 50% and 95% bands ({n})",
        rows,
        width=4.2 if len(row) == 1 else 3.6,
        height=2.8,
    )
    return Drawing(figure, {"n": n, "timesteps": timesteps.tolist(), "gradient": numbers})
