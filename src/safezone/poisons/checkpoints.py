"""What a poison needs to go on after its process was killed."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from safezone.arrays import Images
from safezone.errors import UserError


@dataclass(frozen=True)
class Checkpoints:
    """Images and random states of unfinished poisons, one file for each pass of images.

    ``folder``: made when the first file is written. ``key``: of all that the result depends on; a
    file of another key, or one that is damaged, counts as absent and is overwritten.
    """

    folder: Path
    key: str

    def _path(self, names: Sequence[str]) -> Path:
        digest = hashlib.sha256("\x1f".join(names).encode()).hexdigest()
        return self.folder / f"{digest[:16]}.safetensors"

    def save(
        self,
        names: Sequence[str],
        steps: int,
        images: Images,
        generators: Sequence[torch.Generator],
    ) -> None:
        """Writes the file whole or not at all; UserError when the place cannot be written."""
        path = self._path(names)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        states = torch.stack([generator.get_state() for generator in generators])
        tensors = {"images": images.detach().cpu().contiguous(), "generators": states}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, temporary, {"key": self.key, "steps": str(steps)})
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"cannot write {path} ({error}); choose a place that is writable and has free space"
            ) from error

    def load(
        self, names: Sequence[str], generators: Sequence[torch.Generator]
    ) -> tuple[int, Tensor] | None:
        """The steps done and the images then, the generators set as they were; None if absent."""
        path = self._path(names)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                record = file.metadata() or {}
                if record.get("key") != self.key:
                    return None
                images, states = file.get_tensor("images"), file.get_tensor("generators")
        except (OSError, SafetensorError):
            return None
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state.clone())  # set_state ignores the offset of a view
        return int(record["steps"]), images
