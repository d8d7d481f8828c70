"""LoRA (Hu et al., 2022): low-rank changes of the attention layers, under a prompt of their own."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from safezone.arrays import stream
from safezone.concepts import Concept
from safezone.concepts.prompts import Templates
from safezone.errors import UserError
from safezone.models.base import Model
from safezone.models.deltas import Delta, LowRank
from safezone.personalize.personalization import Personalization
from safezone.personalize.runs import PreparedRun
from safezone.personalize.starting import started_low_rank


@dataclass(frozen=True)
class LoRA(Personalization):
    """Settings of LoRA; the defaults are the paper's (Appendix P) and diffusers' script's.

    ``rank``; ``alpha``: the change is scaled by alpha / rank; None is the rank. ``targets``: ends
    of the names of the U-Net's layers that change. ``text_encoder``: change layers of the text
    encoder too, those whose names end in ``text_targets``. ``token``: the dummy word that signifies
    the LoRA; with the class word it stands for the concept in prompts, as in "a photo of a * dog".
    Down matrices start normal with deviation 1 / rank, up matrices at zero. The rest as in
    ``Personalization``.

    Raises UserError for a value out of its range.
    """

    name: ClassVar[str] = "lora"

    steps: int = 1000
    learning_rate: float = 1e-4
    templates: Templates | tuple[str, ...] = ("a photo of a {}",)
    rank: int = 4
    alpha: float | None = None
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    text_encoder: bool = False
    text_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "out_proj")
    token: str = "*"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise UserError(f"rank is {self.rank}; give at least 1.")
        if self.alpha is not None and not (math.isfinite(self.alpha) and self.alpha > 0):
            raise UserError(f"alpha is {self.alpha}; give a positive number.")

    def trigger(self, concept: Concept) -> str:
        """The dummy word and the class word."""
        return f"{self.token} {concept.class_word}".strip()

    def layers(self, model: Model) -> list[str]:
        """The names of the layers that change; UserError when a target names none."""
        parts = [("unet", "targets", self.targets, "to_q or ff.net.2")]
        if self.text_encoder:
            parts.append(("text_encoder", "text_targets", self.text_targets, "q_proj or mlp.fc1"))
        chosen = set()
        for part, option, targets, example in parts:
            for target in targets:
                ending = {name for name in model.layers if _is_target(name, part, target)}
                if not ending:
                    raise UserError(
                        f"The model {model.name} has no layer of the {part} that ends in "
                        f"{target!r}; give {option} such as {example}."
                    )
                chosen |= ending
        return [name for name in model.layers if name in chosen]

    def begin(self, model: Model, run: PreparedRun) -> Mapping[str, Tensor]:
        """Down and up matrix of every layer, which change nothing yet."""
        layers = self.layers(model)
        most = max(min(model.layers[name]) for name in layers)
        if self.rank > most:
            raise UserError(f"rank is {self.rank}, but the largest layer has {most}; give less.")
        if self.start is not None:
            return started_low_rank(self.start, model, layers, self.rank, self._scale)
        parameters = {}
        for name in layers:
            outputs, inputs = model.layers[name]
            generator = stream(run.seed, run.concept.name, "lora", name)
            down = torch.randn(self.rank, inputs, generator=generator) / self.rank
            parameters[f"{name}.down"] = down
            parameters[f"{name}.up"] = torch.zeros(outputs, self.rank)
        return parameters

    @property
    def _scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def deltas(self, parameters: Mapping[str, Tensor]) -> dict[str, Delta]:
        """The low-rank changes that the parameters make."""
        names = [key.removesuffix(".down") for key in parameters if key.endswith(".down")]
        return {
            name: LowRank(parameters[f"{name}.down"], parameters[f"{name}.up"], self._scale)
            for name in names
        }


def _is_target(name: str, part: str, target: str) -> bool:
    # text_encoder_2 is a text encoder too
    return name.startswith(part) and name.endswith(f".{target}")
