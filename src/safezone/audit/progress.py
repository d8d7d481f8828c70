"""How far an audit is and how long the rest takes, told from its folder by whoever looks."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safezone.files import write_json
from safezone.lab.cost import count_passes
from safezone.lab.lab import TRAINING_FOLDER, Lab
from safezone.lab.run import Grid
from safezone.lab.stage import jobs, of_runs, own
from safezone.lab.store import WORK
from safezone.personalize.checkpoints import log_path
from safezone.reading import read_json

EXPECTED: Final = "expected.json"
"""In an audit's folder: artifacts and seconds by stage, and the steps of every run."""
_OVERHEAD: Final = 0.2
"""Seconds that reading and writing one artifact take beside the operations that are counted."""


@dataclass(frozen=True)
class Progress:
    """``share``: in [0, 1], by time. ``seconds``: of all work, as estimated. ``stage``: the one
    that is made now, empty when all are there."""

    share: float
    seconds: float
    stage: str


def write_expected(lab: Lab, grid: Grid, folder: Path) -> None:
    """Writes what will have been made in the end, done or not, for ``read_progress``."""
    passes, made = count_passes(lab.model, lab.poisoners), jobs(lab, grid)
    stages = {}
    for stage in of_runs():
        artifacts = own(stage, made)
        operations = sum(stage.operations(lab, job.run, passes) for job in artifacts.values())
        places = [each.place.relative_to(lab.folder).as_posix() for each in artifacts]
        seconds = operations / passes.per_second + _OVERHEAD * len(places)
        stages[stage.name] = {"places": places, "seconds": seconds}
    steps = {run.label: lab.training(run).steps for run in grid}
    write_json(folder / EXPECTED, {"stages": stages, "steps": steps})


def read_progress(folder: Path) -> Progress | None:
    """How far the audit of this folder is; None where none has begun."""
    if not (folder / EXPECTED).is_file():
        return None
    told, work = read_json(folder / EXPECTED), folder / WORK
    done, seconds, now = 0.0, 0.0, ""
    for name, stage in told["stages"].items():
        places = [work / place for place in stage["places"]]
        made = float(sum(place.is_dir() for place in places))
        if made < len(places):
            now = now or name
            if name == "personalize":
                made = min(float(len(places)), made + _begun(work, told["steps"]))
        seconds += stage["seconds"]
        done += stage["seconds"] * made / max(1, len(places))
    return Progress(done / seconds if seconds else 1.0, seconds, now)


def _begun(work: Path, steps: Mapping[str, int]) -> float:
    """The trainings in progress, each as the share of its steps that its log has."""
    folders = [path for path in (work / TRAINING_FOLDER).glob("*") if path.is_dir()]
    return sum(
        _last_step(log_path(folder, label)) / count
        for folder in folders
        for label, count in steps.items()
    )


def _last_step(log: Path) -> int:
    """Of a log that another process may be writing; 0 where there is none."""
    try:
        lines = log.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            entry: dict[str, Any] = json.loads(line)
            return int(entry["step"])
        except (ValueError, KeyError, TypeError):
            continue  # half-written
    return 0
