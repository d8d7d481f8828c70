"""Histograms and spectra of perturbations, from arrays to drawings (figures 7, 12 and 13)."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from safezone.analysis.spectra import (
    bimodality,
    frequencies,
    levels,
    modes,
    share_at_limit,
    spectrum_distance,
)
from safezone.results.drawings.curves import Panel, Series, draw_histograms, draw_panels
from safezone.results.drawings.style import Drawing

Histograms = Mapping[str, Mapping[str, Int[Tensor, " bins"]]]
"""By poison and treatment ("as poisoned", "JPEG 25"): counts of ``perturbation_counts``."""


def histogram_numbers(histograms: Histograms, limit: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Of each histogram: bimodality, modes, mean, deviation, largest difference; in levels."""

    def one(counts: Tensor) -> dict[str, Any]:
        share = counts.double() / counts.sum()
        mean = float((share * levels()).sum())
        return {
            "bimodality": bimodality(levels(), counts),
            "modes": list((peaks := modes(counts)).places),
            "valley": peaks.valley,
            "mean": mean,
            "standard_deviation": float((share * (levels() - mean).square()).sum().sqrt()),
            "largest": float(levels()[counts > 0].abs().max()),
            "share_at_limit": share_at_limit(counts, limit),
            "values": int(counts.sum()),
        }

    return {
        poison: {name: one(counts) for name, counts in treated.items()}
        for poison, treated in histograms.items()
    }


def modes_text(numbers: Mapping[str, Any]) -> str:
    """In words: the modes' places and, of two, how deep the valley between them is."""
    places = " and ".join(f"{place:+.0f}" for place in numbers["modes"])
    if len(numbers["modes"]) == 1:
        return f"mode {places}"
    return f"modes {places}, valley {numbers['valley']:.2f}"


def histogram_drawing(histograms: Histograms, *, limit: int, n: str) -> Drawing:
    """Perturbations before and after JPEG. ``limit``: kappa in levels; ``n``: what was counted."""
    numbers = histogram_numbers(histograms, limit)
    notes = {
        poison: {
            name: f": bimodality {each['bimodality']:.2f}, valley {each['valley']:.2f}, "
            f"{100 * each['share_at_limit']:.0f}% from ±{limit} on"
            for name, each in treated.items()
        }
        for poison, treated in numbers.items()
    }
    title = f"Perturbations relative to the clean images ({n}); bimodal: above 0.56, or a valley"
    figure = draw_histograms(title, histograms, notes, limit=limit)
    return Drawing(figure, {"n": n, "limit": limit, "histograms": numbers})


def spectrum_drawing(
    spectra: Mapping[str, Mapping[str, Float[Tensor, " radii"]]],
    *,
    side: int,
    unit: str,
    of: str,
    n: str,
    reference: str = "clean",
) -> Drawing:
    """One panel a treatment, one curve a data set: mean spectra, and their distance to the clean.

    ``spectra[treatment][data]``: power by radius; distances are to ``reference`` of the first
    treatment. ``side``: the shorter side; ``unit``: what a cycle is counted in; ``of``: of what.
    """
    first = next(iter(spectra.values()))[reference]
    distances: dict[str, dict[str, float]] = {}
    rows: list[Panel] = []
    for treatment, curves in spectra.items():
        distances[treatment] = {k: spectrum_distance(v, first) for k, v in curves.items()}
        series = [
            Series(name, frequencies(len(power), side)[1:], power[1:], bare=True)
            for name, power in curves.items()
        ]
        rows.append(Panel(treatment, series, f"frequency (cycles per {unit})", "power", log_y=True))
    figure = draw_panels(
        f"Radially averaged power spectra of {of} ({n})", [rows], share_y=True, width=3.6, height=3
    )
    for axes, treatment in zip(figure.axes, spectra, strict=False):
        if lines := axes.get_legend():
            for text in lines.get_texts():
                distance = distances[treatment][text.get_text()]
                text.set_text(f"{text.get_text()} ({distance:.1f} dB)")
    numbers: dict[str, Any] = {
        "n": n,
        "distance_to_clean_db": distances,
        "frequencies": frequencies(len(first), side).tolist(),
        "power": {t: {k: v.tolist() for k, v in c.items()} for t, c in spectra.items()},
    }
    return Drawing(figure, numbers)
