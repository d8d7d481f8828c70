"""What the folders that a command is given say about how their images were made."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from safezone.errors import UserError
from safezone.lab.settings import Settings, preset

if TYPE_CHECKING:
    from torch import Tensor

    from safezone.models import Model
    from safezone.results.artifacts import RunImages

_CHOSEN: Final = ("--model", "--config")


def preset_of_images(arguments: Sequence[str]) -> Settings | None:
    """The preset of the model that made the images in the arguments' first folder.

    None where the options choose a model, or where nothing is recorded: then the usual preset.
    """
    if any(argument.split("=")[0] in _CHOSEN for argument in arguments):
        return None
    model = next((name for each in arguments if (name := _model(Path(each))) is not None), None)
    return None if model is None else preset(model)


def _model(folder: Path) -> str | None:
    if not folder.is_dir():  # an option; what follows takes seconds to import
        return None
    from safezone.lab.store import IMAGES_RECORD
    from safezone.reading import read_json

    record = next(folder.rglob(IMAGES_RECORD), None)
    model = None if record is None else read_json(record).get("model")
    return model if isinstance(model, str) else None


def learned_tokens(drawn: "RunImages", model: "Model", class_word: str) -> "dict[str, Tensor]":
    """The fields of ``Pictures`` that keep the learned token: of the adapter that drew the images.

    ``model``: what the adapter is for. Raises UserError where the adapter is gone or of another
    model.
    """
    adapter = drawn.adapter()
    if adapter is None:
        raise UserError(
            f"{drawn.place} has no adapter beside it, which --token-encoder needs; generate the "
            "images again, or give --token-encoder none"
        )
    if drawn.run.model != model.name:
        raise UserError(
            f"{drawn.place} was drawn by {drawn.run.model} and --model is {model.name}; "
            "--token-encoder needs the model that drew the images"
        )
    return {"vectors": adapter.vectors, "word_vectors": model.word_vectors(class_word)}
