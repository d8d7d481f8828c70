"""Poisons: a row of the table is an objective, its direction, a budget and an optimiser."""

from safezone.poisons.checkpoints import Checkpoints
from safezone.poisons.guide import BoundObjective, Guide, ModelObjective, NetworkObjective
from safezone.poisons.imperceptibility import imperceptibility
from safezone.poisons.making import (
    Unpoisoned,
    poison_concept,
    poison_fingerprints,
    poison_images,
    poison_many,
)
from safezone.poisons.own import own_poisons
from safezone.poisons.passes import fixed_guide
from safezone.poisons.pgd import Budget
from safezone.poisons.row import Poison
from safezone.poisons.table import MODIFIERS, POISONS, poison
from safezone.poisons.targets import high_contrast_target
from safezone.poisons.transforms import Transform, transform

__all__ = [
    "MODIFIERS",
    "POISONS",
    "BoundObjective",
    "Budget",
    "Checkpoints",
    "Guide",
    "ModelObjective",
    "NetworkObjective",
    "Poison",
    "Transform",
    "Unpoisoned",
    "fixed_guide",
    "high_contrast_target",
    "imperceptibility",
    "own_poisons",
    "poison",
    "poison_concept",
    "poison_fingerprints",
    "poison_images",
    "poison_many",
    "transform",
]
