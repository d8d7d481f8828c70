"""Measuring sensitivity and attention maps, cached; those of folders as a drawing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from safezone.analysis.latents import image_draws, posterior_of
from safezone.analysis.sensitivity import (
    Slots,
    cross_attention_maps,
    in_region_ratio,
    random_rows,
    semantic_sensitivity,
)
from safezone.arrays import Timesteps, stream
from safezone.concepts import Concept
from safezone.figures.cache import Cache, tensor_key
from safezone.figures.pictures import Tile, draw_tiles
from safezone.figures.style import Drawing
from safezone.masks import latent_mask
from safezone.models.base import Model, Posterior

TIMES: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Of all steps, where figures 3 and 9 look."""


@dataclass(frozen=True, eq=False)
class Probe:
    """What a map depends on beside the word and the image. ``rows``: of the vocabulary."""

    model: Model
    model_key: str
    cache: Cache
    rows: int
    seed: int

    def arrays(
        self, slots: Slots, posterior: Posterior, names: Sequence[str], times: Timesteps
    ) -> dict[str, Float[Tensor, "images times h w"]]:
        """``maps``, their standard ``error`` and ``attention`` of one word.

        Vocabulary rows and noise are the same for an image's clean and poisoned versions, and for
        every checkpoint: they depend on the seed and on ``names``.
        """

        def compute() -> dict[str, Tensor]:
            latents, noise = image_draws(posterior, names, len(times), self.seed)
            repeated = times.repeat(len(names))
            generator = stream(self.seed, "sensitivity rows")
            rows = random_rows(self.model, self.rows, len(slots.vectors), generator)
            found = semantic_sensitivity(self.model, slots, latents, noise, repeated, rows)
            attention = cross_attention_maps(self.model, slots, latents, noise, repeated)
            named = {"maps": found.maps, "error": found.standard_error, "attention": attention}
            return {
                name: value.unflatten(0, (len(names), len(times))) for name, value in named.items()
            }

        word = tensor_key(slots.tokens.ids, slots.tokens.slots, slots.vectors)
        image = tensor_key(posterior.mean, posterior.std)
        key = (self.model_key, word, image, times.tolist(), list(names), self.rows, self.seed)
        return self.cache.arrays(self.cache.place("sensitivity", *key), compute)


def folder_maps(
    probe: Probe,
    slots: Slots,
    concepts: Mapping[str, Concept],
    times: Timesteps,
    images: int,
    title: str,
) -> Drawing:
    """Maps of one word on the first ``images`` of every folder, beside its attention.

    R is told where a folder has masks.
    """
    rows: list[list[Tile | None]] = []
    labels: list[str] = []
    ratios: dict[str, dict[str, float]] = {}
    errors: dict[str, float] = {}
    for folder, concept in concepts.items():
        few = concept.images[:images]
        names = concept.image_names[:images]
        found = probe.arrays(slots, posterior_of(probe.model, few), names, times)
        errors[folder] = float(found["error"].mean() / found["maps"].mean().clamp(min=1e-12))
        masks = None
        if concept.masks is not None:
            masks = latent_mask(concept.masks[:images], probe.model.factor)[:, 0]
        for i, name in enumerate(names):
            label = f"{folder}, {name}"
            inside = None if masks is None else masks[i]
            every = torch.cat([found["maps"][i], found["attention"][i, len(times) // 2][None]])
            tiles: list[Tile | None] = [Tile(few[i])]
            for k, values in enumerate(every):
                below = ""
                if inside is not None:
                    ratio = float(in_region_ratio(values[None], inside[None])[0])
                    below = f"R = {ratio:.2f}"
                    if k < len(times):
                        ratios.setdefault(label, {})[f"t={int(times[k])}"] = ratio
                tiles.append(Tile(values, below, inside))
            rows.append(tiles)
            labels.append(label.replace(", ", ",\n"))
    middle = int(times[len(times) // 2])
    columns = ["image", *(f"SSM,\nt = {int(t)}" for t in times), f"attention,\nt = {middle}"]
    headline = f"Semantic sensitivity of {title}, K = {probe.rows} rows, {probe.model.name}"
    numbers = {"in_region_ratio": ratios, "relative_standard_error": errors}
    return Drawing(draw_tiles(headline, rows, labels, columns), numbers)
