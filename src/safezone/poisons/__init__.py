"""Poisons: a row of the table is an objective, its direction, a budget and an optimiser."""

from safezone.poisons.guide import BoundObjective, Guide, NetworkObjective
from safezone.poisons.making import (
    Unpoisoned,
    imperceptibility,
    poison_concept,
    poison_fingerprints,
    poison_images,
    poison_many,
)
from safezone.poisons.passes import Checkpoints, fixed_guide
from safezone.poisons.pgd import Budget
from safezone.poisons.row import Poison
from safezone.poisons.table import POISONS, own_poisons, poison
from safezone.poisons.transforms import transform

__all__ = [
    "POISONS",
    "BoundObjective",
    "Budget",
    "Checkpoints",
    "Guide",
    "NetworkObjective",
    "Poison",
    "Unpoisoned",
    "fixed_guide",
    "imperceptibility",
    "own_poisons",
    "poison",
    "poison_concept",
    "poison_fingerprints",
    "poison_images",
    "poison_many",
    "transform",
]
