"""The token vectors of a textual inversion on the way, at marks, kept beside what it learned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safezone.errors import UserError
from safezone.files import write_safetensors

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
