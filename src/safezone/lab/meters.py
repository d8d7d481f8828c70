"""How much memory is there, and how much a piece of work takes at its peak: CUDA and this machine.

Every answer is None where nobody tells: a pass is then made as large as was asked for.
"""

import ctypes
import gc
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import torch

NOISE: Final = 16 << 20
"""Bytes below which the growth of a process cannot be told from its usual ups and downs."""


class Meter(Protocol):
    """Of one device."""

    def there(self) -> int | None:
        """Bytes that a pass could take now."""
        ...

    def peak(self, work: Callable[[], object]) -> int | None:
        """Does the work; the most bytes that it held at any time beside what was held before."""
        ...


@dataclass(frozen=True)
class Cuda:
    """What the driver has left, and what the allocator holds and does not use."""

    device: torch.device

    def there(self) -> int | None:
        free, _ = torch.cuda.mem_get_info(self.device)
        reserved = torch.cuda.memory_reserved(self.device)
        return free + reserved - torch.cuda.memory_allocated(self.device)

    def peak(self, work: Callable[[], object]) -> int | None:
        gc.collect()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        work()
        return max(NOISE, torch.cuda.max_memory_allocated(self.device) - before)


@dataclass(frozen=True)
class Host:
    """What the kernel has left for this process, and the growth of its peak resident size.

    ``proc`` and ``cgroup``: where Linux tells; other systems tell at most the free pages.
    """

    proc: Path = Path("/proc")
    cgroup: Path = Path("/sys/fs/cgroup")

    def there(self) -> int | None:
        known = [each for each in (self._available(), self._allowed()) if each is not None]
        return min(known) if known else None

    def _available(self) -> int | None:
        found = _field(self.proc / "meminfo", "MemAvailable:")
        if found is not None:
            return 1024 * found
        try:
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError):
            return None

    def _allowed(self) -> int | None:
        """What a container may still take; pages of files that it can drop count as free."""
        most, used = _number(self.cgroup / "memory.max"), _number(self.cgroup / "memory.current")
        if most is None or used is None:
            return None
        return most - used + (_field(self.cgroup / "memory.stat", "inactive_file") or 0)

    def peak(self, work: Callable[[], object]) -> int | None:
        gc.collect()
        _give_back()
        status = self.proc / "self" / "status"
        before = _field(status, "VmRSS:")
        try:
            (self.proc / "self" / "clear_refs").write_text("5")  # the peak starts anew from here
        except OSError:
            before = None
        work()
        after = _field(status, "VmHWM:")
        return None if before is None or after is None else max(NOISE, 1024 * (after - before))


def _give_back() -> None:
    """Free memory that the C library keeps would hide what the work takes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _field(file: Path, name: str) -> int | None:
    """The number behind a name in a file of lines."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), None)


def _number(file: Path) -> int | None:
    """The only number of a file; None for a file that is not there or says "max"."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def meter_of(device: torch.device) -> Meter | None:
    """The meter of a device; None for one whose memory we cannot read."""
    if device.type == "cuda":
        return Cuda(device)
    return Host() if device.type == "cpu" else None
