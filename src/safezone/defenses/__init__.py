"""Defenses: what is done to the images, when to train and where the loss counts."""

from dataclasses import replace

from safezone.concepts import Concept
from safezone.defenses.advclean import AdvClean
from safezone.defenses.defense import Defense
from safezone.defenses.filters import (
    BitDepth,
    CentreCrop,
    GaussianBlur,
    GaussianNoise,
    MedianBlur,
    RandomJpeg,
    Rescale,
)
from safezone.defenses.loss_masks import (
    InputMask,
    LatentMask,
    LossInputMask,
    LossMask,
    NoMask,
    ObjectMask,
    PriorMask,
    masked_loss,
)
from safezone.defenses.names import defense
from safezone.defenses.own import own_defenses
from safezone.defenses.pixel_purify import DiffPure, GridPure, PDMPure
from safezone.defenses.preprocess import Chain, Identity, Jpeg, MovesMasks, Preprocess
from safezone.defenses.purify import Impress, Purifier, Regen, fingerprints, resolve
from safezone.defenses.table import DEFENSES
from safezone.defenses.timesteps import (
    AtLeast,
    Below,
    Power,
    Tanh,
    TimestepDistribution,
    Uniform,
)
from safezone.models.base import Model

__all__ = [
    "DEFENSES",
    "AdvClean",
    "AtLeast",
    "Below",
    "BitDepth",
    "CentreCrop",
    "Chain",
    "Defense",
    "DiffPure",
    "GaussianBlur",
    "GaussianNoise",
    "GridPure",
    "Identity",
    "Impress",
    "InputMask",
    "Jpeg",
    "LatentMask",
    "LossInputMask",
    "LossMask",
    "MedianBlur",
    "NoMask",
    "ObjectMask",
    "PDMPure",
    "Power",
    "Preprocess",
    "PriorMask",
    "Purifier",
    "RandomJpeg",
    "Regen",
    "Rescale",
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


def preprocessed(
    concept: Concept, preprocess: Preprocess, seed: int, model: Model | None = None
) -> Concept:
    """The concept with other images; where the preprocess moves the object, its masks follow.

    ``model``: the one that is personalized, which purifiers need. Raises UserError when a
    purifier's networks cannot be opened.
    """
    ready = resolve(preprocess, model)
    changed = concept.with_images(ready(concept.images, seed))
    if concept.masks is None or not isinstance(ready, MovesMasks):
        return changed
    return replace(changed, masks=ready.move_masks(concept.masks, seed))


def defend(concept: Concept, defense: Defense, seed: int, model: Model | None = None) -> Concept:
    """The concept as preprocessed; the other two parts act during training."""
    return preprocessed(concept, defense.preprocess, seed, model)
