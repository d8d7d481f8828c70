"""Figures 7, 12 and 13: what poisons do to pixels and frequencies, and JPEG to poisons."""

from typing import Final

import torch
from torch import Tensor

from safezone.analysis.spectra import perturbation_counts, rapsd
from safezone.concepts import Concept
from safezone.images import jpeg
from safezone.lab.bench import Bench
from safezone.paper.figure import Figure
from safezone.results.drawings.spectra import histogram_drawing, spectrum_drawing
from safezone.results.drawings.style import Drawing

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
    limit = max(1, round(bench.lab.settings.poisoning.kappa * 255))
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
    return spectrum_drawing(
        powers,
        side=bench.model.image_size // bench.model.factor,
        unit="latent cell",
        of="mean latents",
        n=_count(bench),
    )
