"""What a kind of encoder is: how it is opened, what it measures, how its numbers are shown."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch

    from safezone.scores.pictures import Pictures, Score

NONE: Final = "none"
"""The name that leaves a slot empty."""


def later(module: str, name: str) -> Callable[..., Any]:
    """A function of a module that is imported when the function is first called.

    The table is read for every ``--help``; torch and what needs it takes seconds to import.
    """

    def call(*values: Any) -> Any:
        return getattr(import_module(module), name)(*values)

    return call


@dataclass(frozen=True)
class Metric:
    """How a number is shown: its label, which direction is good (None: neither), decimals."""

    name: str
    label: str
    higher_is_better: bool | None
    decimals: int = 2


@dataclass(frozen=True)
class Slot:
    """A kind of encoder, of which a scoring has one or none.

    ``name``: its setting is ``<name>_encoder`` and its option ``--<name>-encoder`` (with ``-`` for
    ``_``). ``help``: what the option's help says. ``load``: a name or folder and a device to an
    encoder; UserError when it cannot be opened. ``measure``: the encoder and the pictures of one
    run to scores, each of a metric in ``metrics``, without those that the pictures do not allow.
    ``built_in`` and ``default``: the encoder's name for the built-in models and for all others.
    ``optional``: whether ``none`` leaves it out. ``cached``: whether the features of images that
    come again, such as the clean ones, are remembered. ``keep``: what is written beside the rows,
    as ``<name>.safetensors``, for measurements over many runs.
    """

    name: str
    help: str
    load: "Callable[[str, torch.device | str], Any]"
    measure: "Callable[[Any, Pictures], Iterable[Score]]"
    metrics: tuple[Metric, ...]
    built_in: str = NONE
    default: str = NONE
    optional: bool = True
    cached: bool = False
    keep: "Callable[[Any, Pictures], Mapping[str, torch.Tensor]] | None" = None

    @property
    def setting(self) -> str:
        """The name of the setting that says which encoder is taken."""
        return f"{self.name}_encoder"
