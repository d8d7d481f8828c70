"""What a poison needs to go on after its process was killed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from safezone.arrays import Images
from safezone.files import digest, write_safetensors


@dataclass(frozen=True)
class Checkpoints:
    """Images and random states of unfinished poisons, one file for each pass of images.

    ``folder``: made when the first file is written. ``key``: of all that the result depends on; a
    file of another key, or one that is damaged, counts as absent and is overwritten.
    """

    folder: Path
    key: str

    def _path(self, names: Sequence[str]) -> Path:
        return self.folder / f"{digest(*names)[:16]}.safetensors"

    def save(
        self,
        names: Sequence[str],
        steps: int,
        images: Images,
        generators: Sequence[torch.Generator],
    ) -> None:
        """Writes the file whole or not at all; UserError when the place cannot be written."""
        path = self._path(names)
        states = torch.stack([generator.get_state() for generator in generators])
        tensors = {"images": images, "generators": states}
        write_safetensors(path, tensors, {"key": self.key, "steps": str(steps)})

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
