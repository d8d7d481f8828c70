"""Sensitivity and attention maps of one word: measured once, and as they are drawn."""

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
from safezone.lab.measure import Measures
from safezone.models.base import Posterior
from safezone.results.drawings.maps import MapRow, Ratio, WordMap, maps_drawing
from safezone.results.drawings.style import Drawing

TIMES: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Of all steps, where figures 3 and 9 look."""


@dataclass(frozen=True, eq=False)
class Probe:
    """What a map depends on beside the word and the image.

    ``rows``: of the vocabulary; ``noises``: draws of each image's noise, which maps are averaged
    over.
    """

    measures: Measures
    rows: int
    seed: int
    noises: int = 1

    @property
    def about(self) -> str:
        """For a title."""
        return (
            f"K = {self.rows} rows, {self.noises} noises (R ± standard error over them), "
            f"{self.measures.model.name}"
        )

    def arrays(
        self, slots: Slots, posterior: Posterior, names: Sequence[str], times: Timesteps
    ) -> dict[str, Float[Tensor, "images times h w"]]:
        """``maps``, their standard ``error`` and ``attention`` of one word; ``each`` map before the
        mean over noises, [images, times, noises, h, w].

        Vocabulary rows and noise are the same for an image's clean and poisoned versions, and for
        every step of a training: they depend on the seed and on ``names``.
        """
        model = self.measures.model

        def compute() -> dict[str, Tensor]:
            generator = stream(self.seed, "sensitivity rows")
            rows = random_rows(model, self.rows, len(slots.vectors), generator)
            repeated = times.repeat(len(names))
            maps, errors, attention = [], [], []
            for k in range(self.noises):
                drawn = [f"{name}/{k}" if k else name for name in names]
                latents, noise = image_draws(posterior, drawn, len(times), self.seed)
                sensitivity = semantic_sensitivity(model, slots, latents, noise, repeated, rows)
                maps.append(sensitivity.maps)
                errors.append(sensitivity.standard_error)
                attention.append(cross_attention_maps(model, slots, latents, noise, repeated))
            means = {
                "maps": torch.stack(maps).mean(dim=0),
                # The rows are the same for all noises, so their errors do not average out.
                "error": torch.stack(errors).mean(dim=0),
                "attention": torch.stack(attention).mean(dim=0),
                "each": torch.stack(maps, dim=1),
            }
            return {
                name: value.unflatten(0, (len(names), len(times))) for name, value in means.items()
            }

        word = digest(slots.tokens.ids, slots.tokens.slots, slots.vectors)
        image = digest(posterior.mean, posterior.std)
        drawn_from = (times.tolist(), list(names), self.rows, self.noises, self.seed)
        return self.measures.arrays("sensitivity", compute, word, image, *drawn_from)

    def maps(
        self,
        arrays: Mapping[str, Tensor],
        image: int,
        times: Timesteps,
        inside: Float[Tensor, "h w"] | None,
        word: str = "",
    ) -> dict[str, WordMap]:
        """The maps of one image at all times, and its attention at the middle one, by column."""
        middle = len(times) // 2
        columns = {
            f"SSM, t = {int(t)}": WordMap(
                arrays["maps"][image, k], self._ratio(arrays, image, k, inside), word
            )
            for k, t in enumerate(times)
        }
        attention = arrays["attention"][image, middle]
        ratio = None if inside is None else Ratio(_share(attention, inside))
        return {**columns, f"attention, t = {int(times[middle])}": WordMap(attention, ratio, word)}

    def _ratio(
        self,
        arrays: Mapping[str, Tensor],
        image: int,
        time: int,
        inside: Float[Tensor, "h w"] | None,
    ) -> Ratio | None:
        """The in-region ratio of one map, and its standard error over the noises."""
        if inside is None:
            return None
        whole = _share(arrays["maps"][image, time], inside)
        if self.noises < 2:
            return Ratio(whole)
        every = in_region_ratio(
            arrays["each"][image, time], inside.expand(self.noises, -1, -1)
        ).double()
        return Ratio(whole, float(every.std()) / self.noises**0.5)


def _share(values: Float[Tensor, "h w"], inside: Float[Tensor, "h w"]) -> float:
    return float(in_region_ratio(values[None], inside[None])[0])


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
    rows, errors, model = [], {}, probe.measures.model
    for folder, concept in concepts.items():
        few, names = concept.images[:images], concept.image_names[:images]
        arrays = probe.arrays(slots, posterior_of(model, few), names, times)
        errors[folder] = float(arrays["error"].mean() / arrays["maps"].mean().clamp(min=1e-12))
        masks = None
        if concept.masks is not None:
            masks = latent_mask(concept.masks[:images], model.factor)[:, 0]
        for i, name in enumerate(names):
            inside = None if masks is None else masks[i]
            maps = probe.maps(arrays, i, times, inside)
            rows.append(MapRow(f"{folder}, {name}", few[i], maps, inside))
    return maps_drawing(
        f"Semantic sensitivity of {title}, {probe.about}", rows, relative_standard_error=errors
    )
