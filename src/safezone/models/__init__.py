"""Latent diffusion models behind one protocol; ``load_model`` opens one."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safezone.models.base import Conditioning, Model, Posterior, Tokens
    from safezone.models.known import BUILTIN, builtin_folder
    from safezone.models.loading import load_model
    from safezone.models.process import Epsilon, Process, RectifiedFlow, Velocity

_HOMES = {
    **dict.fromkeys(("Conditioning", "Model", "Posterior", "Tokens"), "base"),
    **dict.fromkeys(("BUILTIN", "builtin_folder"), "known"),
    "load_model": "loading",
    **dict.fromkeys(("Epsilon", "Process", "RectifiedFlow", "Velocity"), "process"),
}


def __getattr__(name: str) -> Any:
    """Imports a name when it is first used: the command line needs the names of models at once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
