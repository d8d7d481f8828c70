"""How many items a pass may hold: what free memory takes, halved when memory runs out.

The size changes how fast a stage is, never what comes out: an item in company equals it alone (on
a GPU to rounding).
"""

import ctypes
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import psutil
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from safezone.files import write_json
from safezone.models.base import Model
from safezone.models.fingerprint import tensors
from safezone.reading import read_json

MEMORY: Final = "memory.json"
"""In a workspace: by kind of pass the largest size found to fit."""
SHARE: Final = 0.8
"""Of the memory that is there, for one pass: the rest is for what others take meanwhile."""
TRIAL: Final = 5
"""Items of the pass through a GPU whose memory is compared with that of one item."""
BYTES: Final = 4
KEPT: Final = 3
"""Tensors that a gradient keeps for each layer: its input, and that normalised and activated."""
CHAIN: Final = 8
"""Passes of the denoiser that one step of a poison's gradient goes through, at most."""
WORDS: Final = 77
_MMAP_THRESHOLD: Final = -3
_TRIM_THRESHOLD: Final = -1
"""What malloc.h calls M_MMAP_THRESHOLD and M_TRIM_THRESHOLD."""

Result = TypeVar("Result")


class OutOfMemory(RuntimeError):
    """Memory ran out with a single item in the pass."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether the error says that a device or the machine has no memory left."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or should_reduce_batch_size(error)


@dataclass(frozen=True)
class Most:
    """Items in a pass beyond which a larger one is hardly faster."""

    processor: int
    gpu: int

    def on(self, model: Model) -> int:
        """Where this model is."""
        return self.processor if model.device.type == "cpu" else self.gpu


RUNS: Final = Most(32, 512)
POISONED: Final = Most(16, 512)
DRAWN: Final = Most(32, 1024)


@dataclass(frozen=True)
class ItemBytes:
    """The most bytes that one item of a pass takes."""

    poisoned: float
    """Of an image that is poisoned."""
    trained: float
    """Of an image that a run trains on."""
    drawn: float
    """Of an image that is generated."""

    @staticmethod
    def of(model: Model) -> "ItemBytes":
        """Tried on a GPU, reckoned on a processor, whose system ends a process that takes too
        much."""
        return ItemBytes.reckoned(model) if model.device.type == "cpu" else ItemBytes.tried(model)

    @staticmethod
    def tried(
        model: Model, peak: Callable[[Callable[[], object]], int] | None = None
    ) -> "ItemBytes":
        """What one more item takes in a pass through each network and back.

        ``peak``: the most bytes that a call takes; by default what CUDA's allocator says.
        """
        peak = peak or (lambda call: peak_on_gpu(call, model.device))
        size = model.image_size // model.factor

        def predict(count: int, *, gradient: bool) -> None:
            latents = torch.zeros(count, model.latent_channels, size, size, device=model.device)
            words = model.embed_text(model.tokenize(["a photo"] * count))
            steps = torch.zeros(count, dtype=torch.long, device=model.device)
            with torch.set_grad_enabled(gradient):
                prediction = model.predict(latents.requires_grad_(gradient), steps, words)
                if gradient:
                    prediction.sum().backward()

        def encode(count: int) -> None:
            side = model.image_size
            images = torch.full((count, 3, side, side), 0.5, device=model.device)
            with torch.enable_grad():
                model.encode(images.requires_grad_()).mean.sum().backward()

        def decode(count: int) -> None:
            latents = torch.zeros(count, model.latent_channels, size, size, device=model.device)
            with torch.no_grad():
                model.decode(latents)

        def item(call: Callable[[int], None]) -> float:
            call(1)  # libraries take their own memory at the first call
            one = peak(lambda: call(1))
            try:
                more = peak(lambda: call(TRIAL))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                return float(one)
            return max(1.0, (more - one) / (TRIAL - 1))

        trained = item(partial(predict, gradient=True))
        drawn = max(2 * item(partial(predict, gradient=False)), item(decode))
        return ItemBytes(item(encode) + CHAIN * trained, trained, drawn)

    @staticmethod
    def reckoned(model: Model) -> "ItemBytes":
        """From the sizes of the layers, each as if it were as large as its network's first: the
        autoencoder's as the image, the others' as the latents or a prompt. Several times too high.
        """
        latent = pixel = 0.0
        for path, weight in tensors(model):
            width = BYTES * weight.shape[0] if weight.ndim >= 2 else 0
            if path.split(".")[1].strip("_") == "vae":
                pixel += width * model.image_size**2
            else:
                latent += width * max((model.image_size // model.factor) ** 2, WORDS)
        return ItemBytes(KEPT * (CHAIN * latent + pixel), KEPT * latent, 2 * latent + pixel)


def peak_on_gpu(call: Callable[[], object], device: torch.device) -> int:
    """The most bytes that the call takes beside those that are taken already."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return torch.cuda.max_memory_allocated(device) - before


def memory_left_on_gpu(device: torch.device) -> int:
    """Bytes that tensors of this process may still take there."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def memory_left(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process may still take: the machine's, or less where a container says so."""
    left = psutil.virtual_memory().available
    try:
        most, used = ((cgroup / f"memory.{name}").read_text() for name in ("max", "current"))
        lines = (cgroup / "memory.stat").read_text().splitlines()
        files = next(
            (int(line.split()[1]) for line in lines if line.startswith("inactive_file")), 0
        )
        return min(left, int(most) - int(used) + files)  # pages of files can be dropped
    except (OSError, ValueError):  # no container, or no limit ("max")
        return left


def fitting(model: Model, wanted: int, item: float) -> int:
    """``wanted``, or as many items as fit into free memory, each of ``item`` bytes; at least 1."""
    device = model.device
    left = memory_left() if device.type == "cpu" else memory_left_on_gpu(device)
    return max(1, min(wanted, int(SHARE * left / item)))


def keep_freed_memory() -> None:
    """Lets glibc keep what tensors leave for the next ones, instead of giving it back and asking
    anew at each layer; on other systems nothing changes."""
    if sys.platform == "linux":
        change = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: 0)
        change(_MMAP_THRESHOLD, 32 * 2**20)  # the most that glibc takes
        change(_TRIM_THRESHOLD, 2**30)


@dataclass(frozen=True)
class Capacity:
    """The size of one kind of pass through one model, remembered in ``folder``/memory.json.

    ``wanted``: the most items. ``item``: the most bytes that one takes.
    """

    folder: Path
    model: Model
    kind: str
    wanted: int
    item: float

    @property
    def _name(self) -> str:
        return f"{self.kind} {Path(self.model.name).name}"

    def _sizes(self) -> Mapping[str, object]:
        file = self.folder / MEMORY
        return read_json(file) if file.is_file() else {}

    @property
    def known(self) -> int | None:
        """The size that was found to fit after larger ones were found not to."""
        size = self._sizes().get(self._name)
        return size if isinstance(size, int) and size >= 1 else None

    @property
    def size(self) -> int:
        """As many as wanted, or less where less fits into free memory; at least 1."""
        return fitting(self.model, min(self.wanted, self.known or self.wanted), self.item)

    def fit(self, attempt: Callable[[int], Result]) -> Result:
        """``attempt(size)`` with half the size after each time that memory ran out.

        Raises OutOfMemory when a single item does not fit.
        """
        size = self.size
        while True:
            try:
                return attempt(size)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    reason = "out of memory with a single item in the pass"
                    raise OutOfMemory(f"{self._name}: {reason}") from error
            size //= 2
            write_json(self.folder / MEMORY, {**self._sizes(), self._name: size})
            clear_device_cache(garbage_collection=True)
