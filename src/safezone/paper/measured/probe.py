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
from safezone.concepts.masks import latent_mask
from safezone.files import digest
from safezone.lab.cache import Cache
from safezone.models.base import Model, Posterior
from safezone.results.drawings.pictures import Tile, draw_tiles
from safezone.results.drawings.style import Drawing

TIMES: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Of all steps, where figures 3 and 9 look."""


@dataclass(frozen=True, eq=False)
class Probe:
    """What a map depends on beside the word and the image.

    ``rows``: of the vocabulary; ``noises``: draws of each image's noise, which maps are averaged
    over.
    """

    model: Model
    model_key: str
    cache: Cache
    rows: int
    seed: int
    noises: int = 1

    def arrays(
        self, slots: Slots, posterior: Posterior, names: Sequence[str], times: Timesteps
    ) -> dict[str, Float[Tensor, "images times h w"]]:
        """``maps``, their standard ``error`` and ``attention`` of one word; ``each`` map before the
        mean over noises, [images, times, noises, h, w].

        Vocabulary rows and noise are the same for an image's clean and poisoned versions, and for
        every checkpoint: they depend on the seed and on ``names``.
        """

        def compute() -> dict[str, Tensor]:
            generator = stream(self.seed, "sensitivity rows")
            rows = random_rows(self.model, self.rows, len(slots.vectors), generator)
            repeated = times.repeat(len(names))
            maps, errors, attention = [], [], []
            for k in range(self.noises):
                drawn = [f"{name}/{k}" if k else name for name in names]
                latents, noise = image_draws(posterior, drawn, len(times), self.seed)
                found = semantic_sensitivity(self.model, slots, latents, noise, repeated, rows)
                maps.append(found.maps)
                errors.append(found.standard_error)
                attention.append(cross_attention_maps(self.model, slots, latents, noise, repeated))
            named = {
                "maps": torch.stack(maps).mean(dim=0),
                # The rows are the same for all noises, so their errors do not average out.
                "error": torch.stack(errors).mean(dim=0),
                "attention": torch.stack(attention).mean(dim=0),
                "each": torch.stack(maps, dim=1),
            }
            return {
                name: value.unflatten(0, (len(names), len(times))) for name, value in named.items()
            }

        word = digest(slots.tokens.ids, slots.tokens.slots, slots.vectors)
        image = digest(posterior.mean, posterior.std)
        drawn_from = (times.tolist(), list(names), self.rows, self.noises, self.seed)
        place = self.cache.place("sensitivity", self.model_key, word, image, *drawn_from)
        return self.cache.arrays(place, compute)

    def ratio(
        self,
        arrays: Mapping[str, Tensor],
        image: int,
        time: int,
        inside: Float[Tensor, "h w"],
    ) -> "Ratio":
        """The in-region ratio of one map, and its standard error over the noises."""
        whole = float(in_region_ratio(arrays["maps"][image, time][None], inside[None])[0])
        if self.noises < 2:
            return Ratio(whole, None)
        each = arrays["each"][image, time]
        spread = in_region_ratio(each, inside.expand(self.noises, -1, -1)).double()
        return Ratio(whole, float(spread.std()) / self.noises**0.5)


@dataclass(frozen=True)
class Ratio:
    """R of a map, and its standard error over noises; None for a single noise."""

    value: float
    error: float | None

    @property
    def numbers(self) -> dict[str, float | None]:
        """For the JSON."""
        return {"R": self.value, "standard_error": self.error}

    def __str__(self) -> str:
        return f"R = {self.value:.2f}" + ("" if self.error is None else f" ± {self.error:.2f}")


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
    ratios: dict[str, dict[str, dict[str, float | None]]] = {}
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
                    if k < len(times):
                        ratio = probe.ratio(found, i, k, inside)
                        ratios.setdefault(label, {})[f"t={int(times[k])}"] = ratio.numbers
                    else:
                        share = float(in_region_ratio(values[None], inside[None])[0])
                        ratio = Ratio(share, None)
                    below = str(ratio)
                tiles.append(Tile(values, below, inside))
            rows.append(tiles)
            labels.append(label.replace(", ", ",\n"))
    middle = int(times[len(times) // 2])
    columns = ["image", *(f"SSM,\nt = {int(t)}" for t in times), f"attention,\nt = {middle}"]
    headline = (
        f"Semantic sensitivity of {title}, K = {probe.rows} rows, {probe.noises} noises (R ± "
        f"standard error over them), {probe.model.name}; each map from 0 to its own 98% quantile"
    )
    numbers = {"in_region_ratio": ratios, "relative_standard_error": errors}
    return Drawing(draw_tiles(headline, rows, labels, columns), numbers)
