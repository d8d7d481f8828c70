"""Figures 7, 12 and 13: what poisons do to pixels and frequencies, and JPEG to poisons."""

from typing import Final

import torch
from torch import Tensor

from safezone.analysis.spectra import perturbation_counts, rapsd
from safezone.images import jpeg
from safezone.lab.bench import Bench
from safezone.results.drawings.spectra import histogram_drawing, spectrum_drawing
from safezone.results.drawings.style import Drawing

QUALITY: Final = 25
AFTER: Final = f"JPEG {QUALITY}"
CONTROL: Final = f"JPEG {QUALITY} of clean"
"""What compression alone does to clean images."""


def _count(bench: Bench) -> str:
    images = sum(len(concept.images) for concept in bench.concepts)
    return f"n = {images} images of {bench.concept_count}, {bench.model.name}"


def histograms(bench: Bench, *own: str) -> Drawing:
    """Differences to the clean images, before and after JPEG; one panel a poison."""
    poisons = bench.scope.data(*own)[1:]
    bench.poison_all(bench.concepts, poisons)
    control = torch.zeros(511, dtype=torch.int64)
    for concept in bench.concepts:
        control += perturbation_counts(concept.images, jpeg(concept.images, QUALITY))
    found: dict[str, dict[str, Tensor]] = {}
    for poison in poisons:
        counts = {name: torch.zeros(511, dtype=torch.int64) for name in ("as poisoned", AFTER)}
        for concept in bench.concepts:
            images = bench.poisoned(concept, poison).images
            counts["as poisoned"] += perturbation_counts(concept.images, images)
            counts[AFTER] += perturbation_counts(concept.images, jpeg(images, QUALITY))
        found[poison] = {**counts, CONTROL: control}
    limit = max(1, round(bench.lab.settings.poisoning.kappa * 255))
    return histogram_drawing(found, limit=limit, n=_count(bench))


def spectra(bench: Bench, *own: str) -> Drawing:
    """Spectra of mean latents, before and after JPEG; averaged over images."""
    data = bench.scope.data(*own)
    bench.poison_all(bench.concepts, data)
    found: dict[str, dict[str, Tensor]] = {"as poisoned": {}, AFTER: {}}
    for each in bench.each("spectra", data):
        powers: dict[str, list[Tensor]] = {"as poisoned": [], AFTER: []}
        for concept in bench.concepts:
            given = bench.poisoned(concept, each)
            treated = {
                "as poisoned": given,
                AFTER: given.with_images(jpeg(given.images, QUALITY)),
            }
            for name, images in treated.items():
                powers[name].append(rapsd(bench.posterior(images).mean.cpu()))
        for name, parts in powers.items():
            found[name][each] = torch.cat(parts).mean(dim=0)
    first = bench.concepts[0].images.shape[-1]
    return spectrum_drawing(
        found,
        side=first // bench.model.factor,
        unit="latent cell",
        of="mean latents",
        n=_count(bench),
    )
