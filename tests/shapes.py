"""Checks, in tests, every shape that a signature or a dataclass of these rooms tells.

Only shapes: annotations without one are types, which mypy checks, and many of them are protocols
or names that exist for it alone.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from beartype import beartype
from jaxtyping import AbstractArray

SOURCE = Path(__file__).parent.parent / "src"
CHECKED = [
    "analysis",
    "arrays",
    "defenses",
    "generate",
    "image_metrics",
    "images",
    "models",
    "personalize",
    "scores",
]
"""The rooms whose shapes are checked; SAFEZONE_SHAPES=all: of every one, none: of none."""
UNCHECKED = ("safezone.scores.loading",)
"""Whose functions become part of an encoder's fingerprint, with all that is wrapped around them."""

Function = TypeVar("Function", bound=Callable[..., Any])


def checked_modules() -> list[str]:
    """The modules of the package whose shapes are checked; not those that tell none."""
    files = [path for path in SOURCE.rglob("*.py") if _tells_shapes(path)]
    names = [".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in files]
    asked = os.environ.get("SAFEZONE_SHAPES")
    rooms = [] if asked == "none" else CHECKED
    wanted = [name for name in names if asked == "all" or name.split(".")[1] in rooms]
    return [name for name in wanted if name not in UNCHECKED]


def _tells_shapes(path: Path) -> bool:
    source = path.read_text(encoding="utf-8")
    return path.name != "__init__.py" and ("jaxtyping" in source or "safezone.arrays" in source)


def has_shape(hint: Any) -> bool:
    """Whether an annotation is a shape, or one stands in it."""
    if isinstance(hint, type) and get_origin(hint) is None:
        return issubclass(hint, AbstractArray)
    return any(has_shape(inner) for inner in get_args(hint))


def check_shapes(function: Function) -> Function:
    """For jaxtyping's import hook."""
    hints = function.__annotations__
    function.__annotations__ = {
        name: hint if has_shape(hint) else Any for name, hint in hints.items()
    }
    return beartype(function)
