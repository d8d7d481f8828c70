"""Learning a concept: many runs share one pass through the frozen model."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from safezone.personalize.adapters import Adapter, History
from safezone.personalize.engine import ready, train
from safezone.personalize.exports import FORMATS, export_adapter, load_into_pipeline
from safezone.personalize.files import (
    ADAPTER_FILES,
    check_placeholder,
    load_adapter,
    load_embedding,
    read_adapter,
    read_history,
    save_adapter,
    save_embedding,
)
from safezone.personalize.methods import CustomDiffusion, LoRA, TextualInversion
from safezone.personalize.personalization import Personalization, PreparedRun, TrainingRun

METHODS: Final[Mapping[str, type[Personalization]]] = MappingProxyType(
    {"ti": TextualInversion, "lora": LoRA, "custom-diffusion": CustomDiffusion}
)
"""By the name that settings and the command line know."""
