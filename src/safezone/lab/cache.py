"""Measured arrays on disk: one safetensors file a unit of work, named by what it depends on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from safezone.errors import UserError
from safezone.files import write_safetensors
from safezone.lab.run import content_key

VERSION: Final = 2
"""Part of every key; raised when the same inputs no longer give the same arrays."""


@dataclass(frozen=True)
class Cache:
    """``folder``/<label>-<key>.safetensors. A killed measurement goes on with what is missing."""

    folder: Path

    def place(self, label: str, *parts: Any) -> Path:
        """Where the arrays of these inputs are or will be; ``parts`` as for ``content_key``."""
        return self.folder / f"{label}-{content_key(label, VERSION, *parts)[:16]}.safetensors"

    def arrays(self, place: Path, compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The arrays at ``place``, measured and written, whole or not at all, when missing.

        Raises UserError when a file there is damaged or cannot be written.
        """
        if place.is_file():
            try:
                return load_file(place)
            except SafetensorError as error:
                raise UserError(f"{place} is damaged; remove it") from error
        found = {name: value.detach().cpu().contiguous() for name, value in compute().items()}
        write_safetensors(place, found)
        return found
