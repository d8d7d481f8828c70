"""The table of figures; a new one is a row."""

from collections.abc import Mapping
from functools import partial
from typing import Final

import torch

from safezone.defenses.timesteps import Power, Tanh, TimestepDistribution, Uniform
from safezone.errors import UserError
from safezone.lab.bench import Bench
from safezone.paper.measured import by_timestep, gallery, maps, perturbations, training
from safezone.paper.rows import SEVEN, Figure
from safezone.results.drawings.panels import Panel, Series, draw_panels
from safezone.results.drawings.style import Drawing

_CURVES: Final[Mapping[str, Mapping[str, TimestepDistribution]]] = {
    "tanh": {f"rho = {rho:g}": Tanh(rho) for rho in (1.0, 3.0, 5.0, 10.0)},
    "power": {f"rho = {rho:g}": Power(rho) for rho in (0.25, 0.5, 1.0, 2.0, 4.0)},
}


def probabilities(bench: Bench, figure: Figure) -> Drawing:
    """Figure 15: the tanh and power curves of appendix H, over the model's timesteps."""
    steps = bench.model.process.steps
    t = torch.arange(steps, dtype=torch.float64)
    row, numbers = [], {}
    for name, curves in _CURVES.items():
        series = []
        for label, distribution in {"uniform": Uniform(), **curves}.items():
            p = distribution.checked(steps)
            series.append(Series(label, t, p * steps, bare=True))
            numbers[f"{name}, {label}"] = {"mean_timestep": float((p * t).sum())}
        row.append(Panel(name, series, "timestep t", "probability x T (uniform: 1)", floor=0.0))
    drawn = draw_panels(f"Timestep distributions over T = {steps}", [row], width=3.6, height=3)
    return Drawing(drawn, numbers)


_ADM: Final = ("adm+",)
_IMAGES: Final = ("poisons",)
_TRAINED: Final = ("poisons", "seed")
_MAPS: Final = ("seed", "rows", "noises")
_SCENES: Final = ("poisons", "seed", "images", "timesteps")
_GRADIENTS: Final = (*_TRAINED, "timesteps", "draws", "losses")
_gallery = partial(
    Figure, draw=gallery.gallery, reads=(*_TRAINED, "defenses", "candidates"), scores=True
)

_ROWS: Final = (
    _gallery(1, "generated images of five concepts, Nominal beside SZT"),
    Figure(2, "attention and sensitivity maps of words", maps.words, (*_MAPS, "images")),
    Figure(3, "sensitivity maps before and during training", maps.before_and_after,
           (*_MAPS, "poisons", "at")),
    Figure(4, "loss by timestep", by_timestep.losses, _SCENES, _ADM),
    Figure(5, "gradient by timestep", training.gradients, (*_GRADIENTS, "at")),
    Figure(6, "loss inside and outside the concept", training.losses_in_and_out,
           (*_TRAINED, "defenses", "timesteps", "marks"), one_defense=True),
    Figure(7, "perturbations of ADM+, before and after JPEG", perturbations.histograms,
           _IMAGES, _ADM),
    _gallery(8, "generated images of one concept, by defense"),
    Figure(9, "sensitivity maps of a second concept", maps.before_and_after,
           (*_MAPS, "poisons", "at")),
    Figure(10, "predicted noise and loss by timestep, with the closed form",
           by_timestep.losses_and_norms, (*_SCENES, "moments"), _ADM),
    Figure(11, "gradient by timestep throughout training", training.gradients_throughout,
           (*_GRADIENTS, "marks")),
    Figure(12, "perturbations of all poisons, before and after JPEG",
           perturbations.histograms, _IMAGES, SEVEN),
    Figure(13, "power spectra of latents", perturbations.spectra, _IMAGES,
           ("adm+", "adm-", "ea")),
    Figure(14, "the concepts", gallery.dataset, ()),
    Figure(15, "timestep distributions", probabilities, ()),
    Figure(16, "in-region ratio during training", training.ratios,
           (*_TRAINED, "defenses", "rows", "marks")),
    Figure(17, "similarity against CLIP score", gallery.poison_plane, (*_TRAINED, "defenses"),
           scores=True),
    _gallery(18, "generated images of five concepts, in the snow"),
    _gallery(19, "generated images of one concept, by poison, in the snow"),
    _gallery(20, "generated images of five concepts, on the beach"),
    _gallery(21, "generated images of one concept, by poison, on the beach"),
)  # fmt: skip

FIGURES: Final[Mapping[int, Figure]] = {row.number: row for row in _ROWS}


def figure(number: int) -> Figure:
    """The row of that number; UserError for another."""
    if number not in FIGURES:
        raise UserError(
            f"there is no figure {number} to draw; give {min(FIGURES)} to {max(FIGURES)}"
        )
    return FIGURES[number]
