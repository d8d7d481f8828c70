"""Where the weights of the built-in models lie."""

from pathlib import Path
from typing import Final

from safezone.errors import UserError

BUILTIN: Final = ("mini", "mini-v", "mini-rf")
"""The model, and its twins that predict velocity and rectified flow."""
WEIGHTS = Path(__file__).parent / "weights"


def builtin_folder(name: str) -> Path:
    """The diffusers folder of a built-in model, inside the installed package.

    Raises UserError for a name that is not in ``BUILTIN`` and for weights that are not there.
    """
    if name not in BUILTIN:
        raise UserError(f"there is no built-in model {name!r}; choose one of: {', '.join(BUILTIN)}")
    folder = WEIGHTS / name
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"the weights of the built-in model {name!r} are missing at {folder}; "
            "make them with `python -m training`"
        )
    return folder
