"""How many items a pass may hold: halved when memory runs out, and remembered in the workspace."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import torch

from safezone.experiments.workspace import read_json, write_json

MEMORY: Final = "memory.json"
"""In a workspace: the largest pass of every stage that was found to fit."""

Result = TypeVar("Result")

_WORDS: Final = ("out of memory", "can't allocate memory", "not enough memory")


class OutOfMemory(RuntimeError):
    """Memory ran out with a single item in the pass."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that a device or the machine has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


@dataclass(frozen=True)
class Capacity:
    """The pass sizes of one workspace, ``folder``/memory.json."""

    folder: Path

    def size(self, stage: str, wanted: int) -> int:
        """``wanted``, or less where less was found to fit."""
        file = self.folder / MEMORY
        known = read_json(file).get(stage) if file.is_file() else None
        return min(wanted, known) if isinstance(known, int) and known >= 1 else wanted

    def _remember(self, stage: str, size: int) -> None:
        file = self.folder / MEMORY
        known = read_json(file) if file.is_file() else {}
        write_json(file, {**known, stage: size})

    def fit(self, stage: str, wanted: int, attempt: Callable[[int], Result]) -> Result:
        """``attempt(size)`` with half the size after each time that memory ran out.

        Raises OutOfMemory when a single item does not fit.
        """
        size = self.size(stage, wanted)
        while True:
            try:
                return attempt(size)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    reason = "out of memory with a single item in the pass"
                    raise OutOfMemory(f"{stage}: {reason}") from error
            size //= 2
            self._remember(stage, size)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
