"""How many items a pass may hold: sized to the memory there, halved when it runs out, remembered.

The size changes how fast a stage is, never what comes out: an item in company equals it alone.
"""

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import torch

from safezone.files import read_json, write_json
from safezone.lab.meters import Meter

MEMORY: Final = "memory.json"
"""In a workspace: by stage the largest pass found to fit; under ``peaks`` the bytes of one item."""
PEAKS: Final = "peaks"
SHARE: Final = 0.8
"""Of the memory that is there, for one pass: the rest is for what others take meanwhile."""

Result = TypeVar("Result")

_WORDS: Final = ("out of memory", "can't allocate memory", "not enough memory")


class OutOfMemory(RuntimeError):
    """Memory ran out with a single item in the pass."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that a device or the machine has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


@dataclass(frozen=True, eq=False)
class Probe:
    """How to find out what one item takes.

    ``most``: bytes that an item surely does not exceed, reckoned without any work. ``small``: a
    short pass of a single item, whose results are thrown away.
    """

    meter: Meter
    most: float
    small: Callable[[], object]


@dataclass(frozen=True)
class Capacity:
    """The pass sizes of one workspace, ``folder``/memory.json."""

    folder: Path

    def _told(self) -> Mapping[str, object]:
        file = self.folder / MEMORY
        return read_json(file) if file.is_file() else {}

    def _remember(self, name: str, value: object) -> None:
        write_json(self.folder / MEMORY, {**self._told(), name: value})

    def known(self, stage: str) -> int | None:
        """The size that was found to fit after larger ones were found not to."""
        size = self._told().get(stage)
        return size if isinstance(size, int) and size >= 1 else None

    def size(self, stage: str, wanted: int, probe: Probe | None = None) -> int:
        """``wanted``, or less where less was found to fit or the probe says so; at least 1.

        The probe's small pass is made once in a workspace, and not where ``wanted`` items of
        ``probe.most`` bytes fit.
        """
        size = min(wanted, self.known(stage) or wanted)
        there = None if probe is None or size == 1 else probe.meter.there()
        if probe is None or there is None or size * probe.most <= SHARE * there:
            return size
        item = self._item(stage, probe)
        return size if item is None else max(1, min(size, int(SHARE * there / item)))

    def _item(self, stage: str, probe: Probe) -> float | None:
        """The bytes of one item, remembered or measured; None where the meter cannot tell."""
        peaks = self._told().get(PEAKS)
        known = dict(peaks) if isinstance(peaks, Mapping) else {}
        if stage not in known:
            try:
                peak = probe.meter.peak(probe.small)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                _release()
                return float("inf")
            if peak is None:
                return None
            known[stage] = peak
            self._remember(PEAKS, known)
        return float(known[stage])

    def fit(
        self,
        stage: str,
        wanted: int,
        attempt: Callable[[int], Result],
        probe: Probe | None = None,
    ) -> Result:
        """``attempt(size)`` with half the size after each time that memory ran out.

        It starts with ``self.size(...)``. Raises OutOfMemory when a single item does not fit.
        """
        size = self.size(stage, wanted, probe)
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
            _release()


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
