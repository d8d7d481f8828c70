"""Figures 7, 12 and 13: what poisons do to pixels and frequencies, and JPEG to poisons.

The drawings are of arrays alone, so ``safezone analyze`` has them of folders too.
"""

from collections.abc import Mapping
from typing import Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safezone.analysis.spectra import (
    bimodality,
    frequencies,
    levels,
    modes,
    perturbation_counts,
    rapsd,
    share_at_limit,
    spectrum_distance,
)
from safezone.concepts import Concept
from safezone.images import jpeg
from safezone.lab.bench import Bench
from safezone.paper.rows import Figure
from safezone.results.drawings.panels import Panel, Series, draw_panels
from safezone.results.drawings.style import (
    Drawing,
    figure_title,
    label_axes,
    legend,
    panels,
    stroke,
)

QUALITY: Final = 25
BEFORE: Final = "as poisoned"
AFTER: Final = f"JPEG {QUALITY}"
CONTROL: Final = f"JPEG {QUALITY} of clean"
"""What compression alone does to clean images."""


def _count(bench: Bench) -> str:
    images = sum(len(concept.images) for concept in bench.concepts)
    return f"n = {images} images of {bench.concept_count}, {bench.model.name}"


def _treated(concept: Concept) -> dict[str, Concept]:
    """The images as they are and after JPEG."""
    return {BEFORE: concept, AFTER: concept.with_images(jpeg(concept.images, QUALITY))}


def histograms(bench: Bench, figure: Figure) -> Drawing:
    """Differences to the clean images, before and after JPEG; one panel a poison."""
    poisons = figure.data(bench)[1:]
    bench.poison_all(bench.concepts, poisons)
    counts: dict[str, dict[str, Tensor]] = {}
    for poison in poisons:
        sums = {name: torch.zeros(511, dtype=torch.int64) for name in (BEFORE, AFTER, CONTROL)}
        for concept in bench.concepts:
            every = _treated(bench.poisoned(concept, poison)) | {CONTROL: _treated(concept)[AFTER]}
            for name, changed in every.items():
                sums[name] += perturbation_counts(concept.images, changed.images)
        counts[poison] = sums
    kappas = [bench.lab.settings.poisoning.poison(name).budget.kappa for name in poisons]
    limit = max(1, round(max(kappas) * 255))
    return histogram_drawing(counts, limit=limit, n=_count(bench))


def spectra(bench: Bench, figure: Figure) -> Drawing:
    """Spectra of mean latents, before and after JPEG; averaged over images."""
    data = figure.data(bench)
    bench.poison_all(bench.concepts, data)
    powers: dict[str, dict[str, Tensor]] = {BEFORE: {}, AFTER: {}}
    for each in bench.each("spectra", data):
        parts: dict[str, list[Tensor]] = {BEFORE: [], AFTER: []}
        for concept in bench.concepts:
            for name, treated in _treated(bench.poisoned(concept, each)).items():
                parts[name].append(rapsd(bench.posterior(treated).mean.cpu()))
        for name, every in parts.items():
            powers[name][each] = torch.cat(every).mean(dim=0)
    side = bench.model.image_size // bench.model.factor
    return spectrum_drawing(powers, side, "latent cell", "mean latents", _count(bench))


def histogram_drawing(
    histograms: Mapping[str, Mapping[str, Int[Tensor, " bins"]]], *, limit: int, n: str
) -> Drawing:
    """One panel a poison, one outline a treatment: the share of values at each difference.

    ``histograms[poison][treatment]``: counts of ``perturbation_counts``, int64 [511]. ``limit``:
    kappa in levels, drawn as two lines; ``n``: what was counted. The numbers, of each histogram:
    bimodality, modes, mean, deviation, largest difference; in levels.
    """
    columns = min(3, len(histograms))
    drawn, grid = panels(-(-len(histograms) // columns), columns, width=4.2, height=3.1)
    every = [axes for row in grid for axes in row]
    for axes in every[len(histograms) :]:
        axes.set_axis_off()
    numbers: dict[str, dict[str, dict[str, Any]]] = {}
    near = levels().abs() <= 3 * limit
    for axes, (poison, treated) in zip(every, histograms.items(), strict=False):
        numbers[poison] = {name: _in_numbers(counts, limit) for name, counts in treated.items()}
        for look, (name, counts) in enumerate(treated.items(), start=1):
            own, style = numbers[poison][name], stroke(look)
            note = (
                f"{name}: bimodality {own['bimodality']:.2f}, valley {own['valley']:.2f}, "
                f"{100 * own['share_at_limit']:.0f}% from ±{limit} on"
            )
            x, share = levels()[near], (100 * counts.double() / counts.sum())[near]
            axes.fill_between(
                x, share, step="mid", facecolor=style.color, alpha=0.18, hatch=style.hatch,
                edgecolor=style.color, linewidth=0,
            )  # fmt: skip
            line = {"color": style.color, "linestyle": style.dash, "linewidth": 1, "label": note}
            axes.step(x, share, where="mid", **line)
        for side in (-limit, limit):
            axes.axvline(side, color="#777777", linewidth=0.8, linestyle=":")
        axes.set_xlim(-3 * limit, 3 * limit)
        axes.set_ylim(bottom=0)
        label_axes(axes, poison, "difference to the clean image (1/255)", "share of values (%)")
        legend(axes, below=True)
    title = f"Perturbations relative to the clean images ({n}); bimodal: above 0.56, or a valley"
    figure_title(drawn, title)
    return Drawing(drawn, {"n": n, "limit": limit, "histograms": numbers})


def _in_numbers(counts: Int[Tensor, " bins"], limit: int) -> dict[str, Any]:
    share, peaks = counts.double() / counts.sum(), modes(counts)
    mean = float((share * levels()).sum())
    return {
        "bimodality": bimodality(levels(), counts),
        "modes": list(peaks.places),
        "valley": peaks.valley,
        "mean": mean,
        "standard_deviation": float((share * (levels() - mean).square()).sum().sqrt()),
        "largest": float(levels()[counts > 0].abs().max()),
        "share_at_limit": share_at_limit(counts, limit),
        "values": int(counts.sum()),
    }


def modes_text(numbers: Mapping[str, Any]) -> str:
    """In words: the modes' places and, of two, how deep the valley between them is."""
    places = " and ".join(f"{place:+.0f}" for place in numbers["modes"])
    if len(numbers["modes"]) == 1:
        return f"mode {places}"
    return f"modes {places}, valley {numbers['valley']:.2f}"


def spectrum_drawing(
    spectra: Mapping[str, Mapping[str, Float[Tensor, " radii"]]],
    side: int,
    unit: str,
    of: str,
    n: str,
) -> Drawing:
    """One panel a treatment, one curve a data set: mean spectra, and their distance to the clean.

    ``spectra[treatment][data]``: power by radius; distances are to ``clean`` of the first
    treatment. ``side``: the shorter side; ``unit``: what a cycle is counted in; ``of``: of what.
    """
    clean = next(iter(spectra.values()))["clean"]
    distances = {
        treatment: {name: spectrum_distance(power, clean) for name, power in curves.items()}
        for treatment, curves in spectra.items()
    }
    row = [
        Panel(
            treatment,
            [
                Series(name, frequencies(len(power), side)[1:], power[1:], bare=True)
                for name, power in curves.items()
            ],
            f"frequency (cycles per {unit})",
            "power",
            log_y=True,
        )
        for treatment, curves in spectra.items()
    ]
    title = f"Radially averaged power spectra of {of} ({n})"
    figure = draw_panels(title, [row], share_y=True, width=3.6, height=3)
    for axes, treatment in zip(figure.axes, spectra, strict=False):
        if lines := axes.get_legend():
            for text in lines.get_texts():
                distance = distances[treatment][text.get_text()]
                text.set_text(f"{text.get_text()} ({distance:.1f} dB)")
    numbers: dict[str, Any] = {
        "n": n,
        "distance_to_clean_db": distances,
        "frequencies": frequencies(len(clean), side),
        "power": spectra,
    }
    return Drawing(figure, numbers)
