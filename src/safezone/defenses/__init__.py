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
    masked_loss,
)
from safezone.defenses.names import defense
from safezone.defenses.preprocess import Chain, Identity, Jpeg, MovesMasks, Preprocess
from safezone.defenses.table import DEFENSES
from safezone.defenses.timesteps import (
    AtLeast,
    Below,
    Power,
    Tanh,
    TimestepDistribution,
    Uniform,
)

__all__ = [
    "DEFENSES",
    "AdvClean",
    "AtLeast",
    "Below",
    "BitDepth",
    "CentreCrop",
    "Chain",
    "Defense",
    "GaussianBlur",
    "GaussianNoise",
    "Identity",
    "InputMask",
    "Jpeg",
    "LatentMask",
    "LossInputMask",
    "LossMask",
    "MedianBlur",
    "NoMask",
    "ObjectMask",
    "Power",
    "Preprocess",
    "RandomJpeg",
    "Rescale",
    "Tanh",
    "TimestepDistribution",
    "Uniform",
    "defend",
    "defense",
    "masked_loss",
    "preprocessed",
]


def preprocessed(concept: Concept, preprocess: Preprocess, seed: int) -> Concept:
    """The concept with other images; where the preprocess moves the object, its masks follow."""
    changed = concept.with_images(preprocess(concept.images, seed))
    if concept.masks is None or not isinstance(preprocess, MovesMasks):
        return changed
    return replace(changed, masks=preprocess.move_masks(concept.masks, seed))


def defend(concept: Concept, defense: Defense, seed: int) -> Concept:
    """The concept with preprocessed images; the other two parts act during training."""
    return preprocessed(concept, defense.preprocess, seed)
