"""What the folders that a command is given say about how their images were made."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from safezone.lab.settings import Settings, preset

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
