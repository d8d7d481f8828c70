"""Learning a concept: many runs share one pass through the frozen model."""

from safezone.personalize.adapters import Adapter
from safezone.personalize.custom_diffusion import CustomDiffusion
from safezone.personalize.embedding_files import check_placeholder
from safezone.personalize.engine import fit
from safezone.personalize.files import (
    load_adapter,
    load_embedding,
    read_adapter,
    save_adapter,
    save_embedding,
)
from safezone.personalize.lora import LoRA
from safezone.personalize.personalization import Personalization
from safezone.personalize.posteriors import TrainingRun
from safezone.personalize.textual_inversion import TextualInversion
from safezone.personalize.training import train

__all__ = [
    "Adapter",
    "CustomDiffusion",
    "LoRA",
    "Personalization",
    "TextualInversion",
    "TrainingRun",
    "check_placeholder",
    "fit",
    "load_adapter",
    "load_embedding",
    "read_adapter",
    "save_adapter",
    "save_embedding",
    "train",
]
