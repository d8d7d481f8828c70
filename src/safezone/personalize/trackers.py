"""Training numbers to any tracker that accelerate knows, beside the JSONL log."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safezone.errors import UserError


class Tracker:
    """``name``: tensorboard, wandb, mlflow, ... as in accelerate; ``folder``: for its files.

    Every run's loss, norm and rate go to ``<run key>/<name>`` at their step. Raises UserError as
    ``require_tracker`` does.
    """

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        from accelerate import Accelerator

        require_tracker(name)
        self._accelerator = Accelerator(cpu=True, log_with=name, project_dir=str(folder))
        plain = {
            key: value for key, value in settings.items() if isinstance(value, int | float | str)
        }
        self._accelerator.init_trackers("safezone", config=plain)

    def __call__(self, key: str, line: Mapping[str, Any]) -> None:
        """One line of a run's log."""
        values = {f"{key}/{name}": value for name, value in line.items() if name != "step"}
        self._accelerator.log(values, step=int(line["step"]))

    def close(self) -> None:
        """Writes what the tracker still holds."""
        self._accelerator.end_training()


def require_tracker(name: str) -> None:
    """Raises UserError for an unknown tracker and for one whose package is not installed."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = sorted(map(str, LOGGER_TYPE_TO_CLASS))
    if name not in known:
        raise UserError(f"there is no tracker {name!r}; choose one of: {', '.join(known)}")
    if name not in map(str, get_available_trackers()):
        raise UserError(f"the tracker {name} is not installed; install its package first")


def trackers_of(name: str | None, folder: Path, settings: Mapping[str, Any]) -> Sequence[Tracker]:
    """The tracker of that name, or none."""
    return [] if name is None else [Tracker(name, folder, settings)]
