"""The stage ``measure``: arrays that figures and analyses are drawn from, measured once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from safezone.errors import UserError
from safezone.files import write_safetensors
from safezone.lab.stage import named
from safezone.lab.turns import turn
from safezone.models.base import Model

ARRAYS: Final = "arrays.safetensors"
"""The file in a measurement's folder."""


@dataclass(frozen=True, eq=False)
class Measures:
    """The measurements of a work folder with one model, whose weights are in every key."""

    work: Path
    model: Model

    @cached_property
    def model_key(self) -> str:
        return self.model.fingerprint()

    def arrays(
        self, label: str, compute: Callable[[], Mapping[str, Tensor]], *parts: Any
    ) -> dict[str, Tensor]:
        """What ``compute`` measures, or has measured before under the key of these ``parts``.

        Of several processes that ask for the same at once, one measures and the others wait.
        Raises UserError when a file is damaged or cannot be written.
        """
        artifact = named("measure").artifact(self.work, label, label, self.model_key, *parts)
        if not artifact.done:
            with turn(artifact.place, wait=True):
                if not artifact.done:
                    arrays = compute()
                    with artifact.written({}) as folder:
                        write_safetensors(folder / ARRAYS, arrays)
        try:
            return load_file(artifact.place / ARRAYS)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{artifact.place / ARRAYS} is damaged; remove its folder") from error
