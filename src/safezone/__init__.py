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
    "Adapter": "personalize",
    "Concept": "concepts",
    "CustomDiffusion": "personalize",
    "LoRA": "personalize",
    "Pictures": "scores",
    "Row": "scores",
    "TextualInversion": "personalize",
    "TrainingRun": "personalize",
    "UserError": "errors",
    "defend": "defenses",
    "defense": "defenses",
    # The module of the same name is safezone.generate, so the verb has another.
    "generate_images": "generate",
    "load_adapter": "personalize",
    "load_concept": "concepts",
    "load_embedding": "personalize",
    "load_encoder": "scores",
    "load_model": "models",
    "poison": "poisons",
    "poison_concept": "poisons",
    "save_concept": "concepts",
    "save_embedding": "personalize",
    "score_images": "scores",
    "train": "personalize",
}
_RENAMED: Final = {"generate_images": "generate"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'safezone' has no attribute {name!r}")
    value = getattr(import_module(f"safezone.{_HOMES[name]}"), _RENAMED.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
