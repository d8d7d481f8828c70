"""Custom Diffusion (Kumari et al., 2023): keys and values of the cross-attention, and a token."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from safezone.concepts import Concept
from safezone.errors import UserError
from safezone.models.base import Model
from safezone.models.deltas import Delta, Full
from safezone.personalize.history import VECTORS
from safezone.personalize.runs import PreparedRun
from safezone.personalize.starting import started_full
from safezone.personalize.textual_inversion import TextualInversion

_TARGETS = (".attn2.to_k", ".attn2.to_v")


@dataclass(frozen=True)
class CustomDiffusion(TextualInversion):
    """Settings of Custom Diffusion; the steps are the paper's (Appendix P), the rate diffusers'.

    The token's vectors start and learn as in ``TextualInversion``; the placeholder and the class
    word together stand for the concept in prompts, as in "a photo of a <toy> dog". The weights of
    keys and values learn from where they are; the start token's are left out of the learning, as in
    the released code. ``crop_rescale``: the augmentation of ``safezone.personalize.crops``.

    Raises UserError for a value out of its range.
    """

    name: ClassVar[str] = "custom diffusion"

    steps: int = 1000
    learning_rate: float = 1e-5
    crop_rescale: bool = False  # type: ignore[misc]

    def trigger(self, concept: Concept) -> str:
        """The placeholder and the class word."""
        return f"{concept.placeholder} {concept.class_word}".strip()

    def begin(self, model: Model, run: PreparedRun) -> Mapping[str, Tensor]:
        """The token's vectors, and no change of any key or value yet; UserError as the parent."""
        layers = [
            name for name in model.layers if name.startswith("unet.") and name.endswith(_TARGETS)
        ]
        if not layers:
            raise UserError(
                f"The model {model.name} has no cross-attention; Custom Diffusion needs some."
            )
        if self.start is not None:
            changes = started_full(self.start, model, layers)
        else:
            changes = {f"{name}.change": torch.zeros(model.layers[name]) for name in layers}
        return {**super().begin(model, run), **changes}

    def deltas(self, parameters: Mapping[str, Tensor]) -> dict[str, Delta]:
        """The changes of keys and values."""
        return {
            name.removesuffix(".change"): Full(value, frozen_start=True)
            for name, value in parameters.items()
            if name != VECTORS
        }
