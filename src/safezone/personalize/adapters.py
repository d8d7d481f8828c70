"""What a personalization method learned, as a value; of a textual inversion its way there, too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from safezone.errors import UserError
from safezone.files import write_safetensors
from safezone.models.deltas import Delta, Full, LowRank

VECTORS: Final = "vectors"
"""The name of the token vectors among a method's parameters."""
MARKS: Final = 50
"""Between the start and the end of a training: the paper's steps 100, 500, 900, 1000, ... of 5000
are among them."""
HISTORY: Final = "history.safetensors"
"""The file in an adapter's folder."""


def mark_steps(steps: int) -> list[int]:
    """The steps whose vectors are kept: 0, every fiftieth part of the training, and its end."""
    every = max(1, steps // MARKS)
    return sorted({0, steps, *range(every, steps, every)})


def kept(parameters: Mapping[str, Tensor]) -> list[Tensor]:
    """The token vectors [runs, n, width] as they are now; none where layers are learned."""
    return [parameters[VECTORS].detach().cpu().clone()] if set(parameters) == {VECTORS} else []


@dataclass(frozen=True, eq=False)
class History:
    """``vectors`` after ``steps`` optimiser steps, 0 the first."""

    steps: Int[Tensor, " marks"]
    vectors: Float[Tensor, "marks n width"]

    @staticmethod
    def of_run(marks: Sequence[Tensor], run: int, steps: int) -> "History | None":
        """That of one run of a pass, whose ``marks`` are [runs, n, width] each."""
        if not marks:
            return None
        vectors = torch.stack([mark[run] for mark in marks])
        return History(torch.tensor(mark_steps(steps)[: len(marks)]), vectors)

    def at(self, step: int) -> Float[Tensor, "n width"]:
        """The vectors after ``step`` steps; UserError when that is no mark."""
        places = (self.steps == step).nonzero().flatten()
        if not len(places):
            every = int(self.steps[1]) if len(self.steps) > 1 else 1
            raise UserError(
                f"No vectors are kept of step {step}: the training has {int(self.steps[-1])} steps "
                f"and keeps every {every}th; give one of those."
            )
        return self.vectors[places[0]]

    def save(self, folder: Path) -> None:
        """Writes the file into a folder that is still being made."""
        write_safetensors(folder / HISTORY, {"steps": self.steps, "vectors": self.vectors})


@dataclass(frozen=True, eq=False)
class Adapter:
    """What a run learned: token vectors, changes of the model's layers, or both.

    ``vectors``: float32 [n, width], which stand in a prompt where ``placeholder`` does; n is 0
    where no token was learned. ``class_word``: what the object is called. ``provenance``: JSON
    values telling how the adapter was made; of a failed run it holds ``failed_at``, the step that
    became NaN, and the values are the last finite ones. ``deltas``: by the names in
    ``Model.layers``. ``trigger``: the words that stand for the concept in a prompt, the
    placeholder where there are vectors; empty: just the placeholder. ``widths``: of the vectors'
    parts, one for each text encoder of SDXL; empty: they are of one. ``history``: of a textual
    inversion the vectors on the way; a file that was read has none. ``convolutions``: which of the
    changed layers are 1 x 1 convolutions, whose matrices other programs want with four axes.
    """

    vectors: Float[Tensor, "n width"]
    placeholder: str
    class_word: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    deltas: Mapping[str, Delta] = field(default_factory=lambda: MappingProxyType({}))
    trigger: str = ""
    widths: tuple[int, ...] = ()
    history: History | None = None
    convolutions: frozenset[str] = frozenset()

    @property
    def failed(self) -> bool:
        """Whether the run became NaN before its last step."""
        return self.provenance.get("failed_at") is not None

    @property
    def words(self) -> str:
        """What stands for the concept in a prompt."""
        return self.trigger or self.placeholder


def stacked(
    adapters: Sequence[Adapter | None], layers: Mapping[str, tuple[int, int]], device: torch.device
) -> dict[str, Delta]:
    """The adapters' changes below each other, with a leading axis of adapters.

    An adapter that does not change a layer has zeros there, lower ranks are filled up with zeros,
    and low-rank changes beside full ones become full. ``layers``: the model's.
    """
    names = dict.fromkeys(name for each in adapters if each is not None for name in each.deltas)
    result: dict[str, Delta] = {}
    for name in names:
        deltas = [None if each is None else each.deltas.get(name) for each in adapters]
        result[name] = _stack(deltas, layers[name], device)
    return result


def _stack(deltas: Sequence[Delta | None], shape: tuple[int, int], device: torch.device) -> Delta:
    outputs, inputs = shape
    low = [each for each in deltas if isinstance(each, LowRank)]
    if len(low) < sum(each is not None for each in deltas):
        zeros = torch.zeros(outputs, inputs)
        return Full(
            torch.stack([zeros if each is None else each.weight() for each in deltas]).to(device)
        )
    rank = max(len(each.down) for each in low)
    downs, ups = [], []
    for delta in deltas:
        if not isinstance(delta, LowRank):
            downs.append(torch.zeros(rank, inputs))
            ups.append(torch.zeros(outputs, rank))
            continue
        missing = rank - len(delta.down)
        downs.append(pad(delta.down, (0, 0, 0, missing)))
        ups.append(pad(delta.scale * delta.up, (0, missing)))
    return LowRank(torch.stack(downs).to(device), torch.stack(ups).to(device))
