"""Learning a concept: many runs share one pass through the frozen model."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from safezone.personalize.adapters import Adapter
from safezone.personalize.custom_diffusion import CustomDiffusion
from safezone.personalize.embedding_files import check_placeholder
from safezone.personalize.engine import fit, ready
from safezone.personalize.exports import FORMATS, export_adapter, load_into_pipeline
from safezone.personalize.files import (
    ADAPTER_FILES,
    load_adapter,
    load_embedding,
    read_adapter,
    read_history,
    save_adapter,
    save_embedding,
)
from safezone.personalize.history import History
from safezone.personalize.lora import LoRA
from safezone.personalize.personalization import Personalization
from safezone.personalize.runs import PreparedRun, TrainingRun
from safezone.personalize.textual_inversion import TextualInversion
from safezone.personalize.training import train

METHODS: Final[Mapping[str, type[Personalization]]] = MappingProxyType(
    {"ti": TextualInversion, "lora": LoRA, "custom-diffusion": CustomDiffusion}
)
"""By the name that settings and the command line know."""

__all__ = [
    "ADAPTER_FILES",
    "FORMATS",
    "METHODS",
    "Adapter",
    "CustomDiffusion",
    "History",
    "LoRA",
    "Personalization",
    "PreparedRun",
    "TextualInversion",
    "TrainingRun",
    "check_placeholder",
    "export_adapter",
    "fit",
    "load_adapter",
    "load_embedding",
    "load_into_pipeline",
    "read_adapter",
    "read_history",
    "ready",
    "save_adapter",
    "save_embedding",
    "train",
]
