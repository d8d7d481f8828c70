"""Does an image protection hold when someone personalizes a diffusion model with care?

The verbs, in the order of the data; each is imported when it is first used:
``load_model``, ``load_concept``, ``poison_concept``, ``defend``, ``train``, ``generate_images``,
``score_images``. The tables: ``poison(name)``, ``defense(name)``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

__version__: Final = "0.1.0"

if TYPE_CHECKING:
    from safezone.concepts import Concept, load_concept, save_concept
    from safezone.defenses import defend, defense
    from safezone.errors import UserError
    from safezone.generate import generate as generate_images
    from safezone.models import load_model
    from safezone.personalize import (
        Adapter,
        CustomDiffusion,
        LoRA,
        TextualInversion,
        TrainingRun,
        load_adapter,
        load_embedding,
        save_embedding,
        train,
    )
    from safezone.poisons import poison, poison_concept
    from safezone.scores import Pictures, Row, load_encoder, score_images

__all__ = [
    "Adapter",
    "Concept",
    "CustomDiffusion",
    "LoRA",
    "Pictures",
    "Row",
    "TextualInversion",
    "TrainingRun",
    "UserError",
    "__version__",
    "defend",
    "defense",
    "generate_images",
    "load_adapter",
    "load_concept",
    "load_embedding",
    "load_encoder",
    "load_model",
    "poison",
    "poison_concept",
    "save_concept",
    "save_embedding",
    "score_images",
    "train",
]

_HOMES: Final = {
    **dict.fromkeys(("Concept", "load_concept", "save_concept"), "concepts"),
    **dict.fromkeys(("defend", "defense"), "defenses"),
    "UserError": "errors",
    "generate_images": "generate",  # where its name is that of the module
    "load_model": "models",
    **dict.fromkeys(("Adapter", "CustomDiffusion", "LoRA", "TextualInversion"), "personalize"),
    **dict.fromkeys(("TrainingRun", "load_adapter", "load_embedding"), "personalize"),
    **dict.fromkeys(("save_embedding", "train"), "personalize"),
    **dict.fromkeys(("poison", "poison_concept"), "poisons"),
    **dict.fromkeys(("Pictures", "Row", "load_encoder", "score_images"), "scores"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'safezone' has no attribute {name!r}")
    home = _HOMES[name]
    value = getattr(import_module(f"safezone.{home}"), home if home == "generate" else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
