"""A training on disk: one checkpoint for all runs, a log for each; trackers read along."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from safezone.errors import UserError
from safezone.files import digest, write_safetensors, write_text
from safezone.personalize.adapters import kept

CHECKPOINT = "checkpoint.safetensors"
"""The file in a training's folder."""
_METADATA = "safezone"
_FORMAT = "safezone training checkpoint 2"
_GROUPS = ("parameters", "exp_avg", "exp_avg_sq")
_OF_RUNS = ("failed_at", "window", "last_loss")


@dataclass(eq=False)
class State:
    """Everything a training needs to go on; random streams are counted, so they need nothing.

    ``parameters``, ``exp_avg``, ``exp_avg_sq``: by name, [runs, ...]. ``step``: steps done.
    ``failed_at``: int64 [runs], the step whose loss or gradient was not finite, -1 while well.
    ``window``: float64 [runs], the losses since the last log line, summed. ``last_loss``: float64
    [runs], the loss of the last log line. ``history``: the token vectors, [runs, n, width],
    at the marks so far (``adapters.mark_steps``); none where layers are learned.
    """

    parameters: dict[str, Tensor]
    exp_avg: dict[str, Tensor]
    exp_avg_sq: dict[str, Tensor]
    step: int
    failed_at: Tensor
    window: Tensor
    last_loss: Tensor
    history: list[Tensor]

    @staticmethod
    def start(parameters: Mapping[str, Tensor], runs: int) -> "State":
        """The state before the first step; by name in one order, as sums over names are logged."""
        begun = {name: parameters[name].detach().clone() for name in sorted(parameters)}
        return State(
            begun,
            exp_avg={name: torch.zeros_like(value) for name, value in begun.items()},
            exp_avg_sq={name: torch.zeros_like(value) for name, value in begun.items()},
            step=0,
            failed_at=torch.full((runs,), -1, dtype=torch.int64),
            window=torch.zeros(runs, dtype=torch.float64),
            last_loss=torch.full((runs,), torch.nan, dtype=torch.float64),
            history=kept(parameters),
        )


def save_state(state: State, path: Path, content_key: str) -> None:
    """Writes the state whole or not at all."""
    tensors = {
        f"{group}/{name}": value
        for group in _GROUPS
        for name, value in getattr(state, group).items()
    }
    tensors |= {name: getattr(state, name) for name in _OF_RUNS}
    if state.history:
        tensors["history"] = torch.stack(state.history)
    # One entry: the file format keeps no order of several, and equal states are equal bytes.
    about = {"format": _FORMAT, "content_key": content_key, "step": state.step}
    write_safetensors(path, tensors, {_METADATA: json.dumps(about)})


def load_state(path: Path, content_key: str, device: torch.device) -> State | None:
    """The state in the file, or None when there is no file.

    Raises UserError for a file that is no checkpoint, or was made by other runs or settings.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
            # Copied, so that the memory is aligned as it is in an undisturbed training.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as a checkpoint ({error}); delete it to start again."
        ) from error
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise UserError(f"{path} is no checkpoint of this version; delete it to start again.")
    if about["content_key"] != content_key:
        raise UserError(
            f"{path} was made with other runs, settings or images; choose another folder, or "
            "delete it to start again."
        )

    def group(prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(f"{prefix}/"): value.to(device)
            for name, value in sorted(tensors.items())
            if name.startswith(f"{prefix}/")
        }

    return State(
        group("parameters"),
        group("exp_avg"),
        group("exp_avg_sq"),
        step=int(about["step"]),
        failed_at=tensors["failed_at"],
        window=tensors["window"],
        last_loss=tensors["last_loss"],
        history=list(tensors.get("history", [])),
    )


def log_path(folder: Path, key: str) -> Path:
    """Where the run's log is: characters that a file name cannot have are quoted as in a URL, and
    the end of a name that is then too long for one is a hash."""
    name = quote(key, safe="+=@ ,<>")
    if len(name) > 200:
        name = f"{name[:150]}-{digest(key)[:16]}"
    return folder / "logs" / f"{name}.jsonl"


def append_log(path: Path, line: Mapping[str, Any]) -> None:
    """One JSON object, one line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def truncate_log(path: Path, step: int) -> None:
    """Drops the lines after ``step`` and a half-written last one, so that a resumed log is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return
    whole = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            of_step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            break
        if not line.endswith("\n") or of_step > step:
            break
        whole.append(line)
    write_text(path, "".join(whole))


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
