"""Defenses: what is done to the images, when to train and where the loss counts."""

from safezone.defenses.defense import Defense, defend, preprocessed
from safezone.defenses.loss_masks import (
    LatentMask,
    LossInputMask,
    LossMask,
    NoMask,
    ObjectMask,
    masked_loss,
)
from safezone.defenses.pixel_purify import DiffPure, GridPure, PDMPure
from safezone.defenses.preprocess import Chain, GaussianBlur, Identity, Jpeg, Preprocess, RandomJpeg
from safezone.defenses.purify import Impress, Purifier, Regen, fingerprints, resolve
from safezone.defenses.table import DEFENSES, defense, own_defenses
from safezone.defenses.timesteps import AtLeast, Below, Power, Tanh, TimestepDistribution, Uniform

__all__ = [
    "DEFENSES",
    "AtLeast",
    "Below",
    "Chain",
    "Defense",
    "DiffPure",
    "GaussianBlur",
    "GridPure",
    "Identity",
    "Impress",
    "Jpeg",
    "LatentMask",
    "LossInputMask",
    "LossMask",
    "NoMask",
    "ObjectMask",
    "PDMPure",
    "Power",
    "Preprocess",
    "Purifier",
    "RandomJpeg",
    "Regen",
    "Tanh",
    "TimestepDistribution",
    "Uniform",
    "defend",
    "defense",
    "fingerprints",
    "masked_loss",
    "own_defenses",
    "preprocessed",
    "resolve",
]
