"""The table of figures; a new one is a row."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from safezone.errors import UserError
from safezone.lab.bench import Bench
from safezone.paper.measured import (
    by_timestep,
    gallery,
    in_and_out,
    maps,
    perturbations,
    probabilities,
)
from safezone.paper.row import SEVEN
from safezone.results.drawings.style import Drawing


@dataclass(frozen=True)
class Figure:
    """One figure of the paper. ``scores``: whether encoders of images are needed."""

    number: int
    title: str
    draw: Callable[[Bench], Drawing]
    scores: bool = False


def _own(function: Callable[..., Drawing], *own: object) -> Callable[[Bench], Drawing]:
    return lambda bench: function(bench, *own)


_ROWS = (
    Figure(1, "generated images of five concepts, Nominal beside SZT",
           _own(gallery.gallery, 1), scores=True),
    Figure(2, "attention and sensitivity maps of words", maps.words),
    Figure(3, "sensitivity maps before and during training",
           partial(maps.before_and_after, name="HattedMug", place=0)),
    Figure(4, "loss by timestep", by_timestep.losses),
    Figure(5, "gradient by timestep", by_timestep.gradients),
    Figure(6, "loss inside and outside the concept",
           _own(in_and_out.losses_in_and_out, "adm+", "sds+", "ea")),
    Figure(7, "perturbations of ADM+, before and after JPEG",
           _own(perturbations.histograms, "adm+")),
    Figure(8, "generated images of one concept, by defense",
           _own(gallery.gallery, 8), scores=True),
    Figure(9, "sensitivity maps of a second concept",
           partial(maps.before_and_after, name="PartyFish", place=1)),
    Figure(10, "predicted noise and loss by timestep, with the closed form",
           by_timestep.losses_and_norms),
    Figure(11, "gradient by timestep throughout training", by_timestep.gradients_throughout),
    Figure(12, "perturbations of all poisons, before and after JPEG",
           _own(perturbations.histograms, *SEVEN[1:])),
    Figure(13, "power spectra of latents", _own(perturbations.spectra, "adm+", "adm-", "ea")),
    Figure(14, "the concepts", gallery.dataset),
    Figure(15, "timestep distributions", probabilities.probabilities),
    Figure(16, "in-region ratio during training", _own(maps.ratios, "adm+", "ea")),
    Figure(17, "similarity against CLIP score", _own(gallery.plane, *SEVEN[1:]), scores=True),
    Figure(18, "generated images of five concepts, in the snow",
           _own(gallery.gallery, 18), scores=True),
    Figure(19, "generated images of one concept, by poison, in the snow",
           _own(gallery.gallery, 19), scores=True),
    Figure(20, "generated images of five concepts, on the beach",
           _own(gallery.gallery, 20), scores=True),
    Figure(21, "generated images of one concept, by poison, on the beach",
           _own(gallery.gallery, 21), scores=True),
)  # fmt: skip

FIGURES: Mapping[int, Figure] = MappingProxyType({row.number: row for row in _ROWS})


def figure(number: int) -> Figure:
    """The row of that number; UserError for another."""
    if number not in FIGURES:
        raise UserError(
            f"there is no figure {number} to draw; give {min(FIGURES)} to {max(FIGURES)}"
        )
    return FIGURES[number]
