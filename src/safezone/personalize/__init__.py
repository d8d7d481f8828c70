"""Learning a concept: many runs share one pass through the frozen model."""

from safezone.personalize.adapters import Adapter
from safezone.personalize.engine import fit
from safezone.personalize.exports import (
    check_placeholder,
    load_embedding,
    save_embedding,
)
from safezone.personalize.posteriors import TrainingRun
from safezone.personalize.textual_inversion import TextualInversion, train

__all__ = [
    "Adapter",
    "TextualInversion",
    "TrainingRun",
    "check_placeholder",
    "fit",
    "load_embedding",
    "save_embedding",
    "train",
]
