"""Loops over the table of stages: what is to do, how long it takes, the way through, the rest."""

import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from safezone.errors import UserError
from safezone.files import write_json
from safezone.lab.cost import Passes
from safezone.lab.executors import Executor, OpenLab
from safezone.lab.lab import TRAINING_FOLDER, Failures, Job, Lab, Note
from safezone.lab.poisonings import discard_checkpoints
from safezone.lab.run import Grid
from safezone.lab.stage import STAGES, Stage, jobs, of_runs, own, planned
from safezone.lab.store import NEEDS, ROWS_FILE, WORK, take
from safezone.lab.trainings import sweep
from safezone.reading import read_json
from safezone.scores import Row, Score, read_rows

CATALOGUE: Final = "catalogue.json"
"""In the work folder: every finished artifact. It can be rebuilt from them at any time."""


@dataclass(frozen=True, eq=False)
class Results:
    """``rows``: of all runs, those that failed as a row with a reason. ``failed``: the reasons."""

    rows: list[Row]
    failed: Failures


@dataclass(frozen=True)
class Cost:
    """Of one stage. ``seconds``: of what is to do. ``size``: bytes that will be written."""

    done: int
    todo: int
    seconds: float
    size: float


def plan(lab: Lab, grid: Grid, stages: Sequence[Stage] = STAGES) -> dict[str, tuple[int, int]]:
    """(done, all) of every stage; nothing is made."""
    return {
        stage.name: (sum(each.done for each in artifacts), len(artifacts))
        for stage, artifacts in planned(lab, grid, stages)
    }


def estimate(
    lab: Lab, grid: Grid, passes: Passes, workers: int = 1, stages: Sequence[Stage] = STAGES
) -> Mapping[str, Cost]:
    """The cost of every stage; nothing is written."""
    costs = {}
    for stage, artifacts in planned(lab, grid, stages):
        todo = [
            job.run
            for artifact, job in artifacts.items()
            if artifact.key not in lab.reuse and not artifact.done
        ]
        seconds = stage.seconds(lab, todo, passes) / workers
        size = sum(stage.size(lab, run) for run in todo)
        costs[stage.name] = Cost(len(artifacts) - len(todo), len(todo), seconds, size)
    return costs


def make(
    lab: Lab,
    grid: Grid,
    *,
    last: str | None = None,
    progress: bool = False,
    note: Note = lambda text: None,
    stages: Sequence[Stage] = STAGES,
) -> Failures:
    """Makes what is missing, up to the stage called ``last``; returns why runs failed.

    A run that fails does not stop the others. Any number of processes may do so in one folder at
    the same time; one that shares it goes through all stages first without waiting for others.
    """
    failed = _refused(lab, grid)
    made = jobs(lab, grid, stages)
    for wait in (True,) if lab.sharers == 1 else (False, True):
        left = made
        for stage in of_runs(stages):
            left = [job for job in left if job.run not in failed]
            how: dict[str, Any] = {"wait": wait, "progress": progress, "note": note}
            failed |= _make_stage(lab, stage, left, made, **how)
            if not wait:  # what others are at, with all that rests on it, is made afterwards
                left = [job for job in left if job.of[stage.name].done]
            if stage.name == last:
                break
    discard_checkpoints({job.of["poison"] for job in made})
    sweep(lab.folder / TRAINING_FOLDER, [a for job in made if (a := job.of["personalize"]).done])
    return failed


def _make_stage(
    lab: Lab, stage: Stage, left: Sequence[Job], made: Sequence[Job], *, wait: bool, **how: Any
) -> Failures:
    """Makes what is missing of one stage; of what is shared, a failure is that of all."""
    artifacts = own(stage, left)
    _reuse(lab, stage, left)
    failures: Failures = {}
    if stage.make is not None and not all(artifact.done for artifact in artifacts):
        owners, among = list(artifacts.values()), list(own(stage, made).values())
        failures = stage.make(lab, owners, among, wait=wait, **how)
    reasons = {job.of[stage.name]: failures[job.run] for job in left if job.run in failures}
    failed: Failures = {}
    for job in left:
        artifact = job.of[stage.name]
        reason = reasons.get(artifact)
        if reason is None and (wait or artifact.done):
            reason = artifact.failure
        if reason is not None:
            failed[job.run] = reason
    return failed


def _reuse(lab: Lab, stage: Stage, made: Iterable[Job]) -> None:
    """Copies what is wanted and lies elsewhere already."""
    for artifact, job in own(stage, made).items():
        if artifact.key in lab.reuse and not artifact.done:
            take(lab.reuse[artifact.key], artifact, stage.about(lab, job))


def _refused(lab: Lab, grid: Grid) -> Failures:
    return {run: reason for run in grid if (reason := lab.refused(run)) is not None}


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _work(grid: Grid, open_lab: OpenLab, *, progress: bool = False, note: Note = _tell) -> Failures:
    """What a worker does, mostly in another process."""
    return make(open_lab(), grid, progress=progress, note=note)


def run_grid(
    lab: Lab,
    grid: Grid,
    *,
    executor: Executor | None = None,
    progress: bool = True,
    note: Note = lambda text: None,
    stages: Sequence[Stage] = STAGES,
) -> Results:
    """Makes what is missing of the grid, here or by an executor's workers, and reads the rows."""
    able = jobs(lab, grid, stages)
    of = {job.run: job.of for job in able}
    if executor is None:
        failed = make(lab, grid, progress=progress, note=note, stages=stages)
    else:
        failed = _refused(lab, grid)
        for stage in of_runs(stages):
            _reuse(lab, stage, able)
        for failures in executor.run(partial(_work, grid), note):
            failed |= failures
        for run in [*failed]:  # what one worker could not do another may have done
            if run in of and all(artifact.done for artifact in of[run].values()):
                del failed[run]
    rows: list[Row] = []
    for run in grid:
        if run in failed:
            nothing = Score("instance_similarity", float("nan"), 0, 0)
            rows.append(Row(**asdict(run), **nothing._asdict(), reason=failed[run]))
        else:
            # Equal content has one artifact, which another name of model or method may have made.
            made = read_rows(of[run]["score"].place / ROWS_FILE)
            rows += [replace(row, **asdict(run)) for row in made]
    return Results(rows, failed)


# What lies in a workspace, and what no result needs any more


@dataclass(frozen=True)
class Entry:
    """One finished artifact. ``place``: relative to the work folder. ``size``: in bytes."""

    stage: str
    place: str
    key: str
    size: int


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _folders(work: Path, stages: Sequence[Stage]) -> Iterator[tuple[Stage, Path]]:
    for stage in stages:
        for folder in sorted((work / stage.name).glob("*")):
            if folder.is_dir():
                yield stage, folder


def require_workspace(workspace: Path) -> Path:
    """The work folder; UserError for a folder in which no grid was run."""
    work = workspace / WORK
    if not work.is_dir():
        raise UserError(f"{workspace} is no folder of `safezone grid run`; give its --out")
    return work


def catalogue(workspace: Path, stages: Sequence[Stage] = STAGES) -> list[Entry]:
    """Every finished artifact, from the index where it is right, else from the artifacts.

    The index is written anew when it was missing, damaged or older than what is there.
    """
    work = require_workspace(workspace)
    try:
        known = {e["place"]: Entry(**e) for e in read_json(work / CATALOGUE)["artifacts"]}
    except (UserError, KeyError, TypeError):
        known = {}

    def entry(stage: Stage, folder: Path, place: str) -> Entry:
        key = str(read_json(folder / stage.record).get("key", ""))
        return Entry(stage.name, place, key, _bytes(folder))

    entries = [
        known.get(place := str(folder.relative_to(work))) or entry(stage, folder, place)
        for stage, folder in _folders(work, stages)
        if (folder / stage.record).is_file()
    ]
    if entries != list(known.values()):
        write_json(work / CATALOGUE, {"artifacts": [asdict(entry) for entry in entries]})
    return entries


def by_stage(entries: list[Entry], stages: Sequence[Stage] = STAGES) -> dict[str, tuple[int, int]]:
    """(artifacts, bytes) of every stage, in the order of the data."""
    sizes = {stage.name: [e.size for e in entries if e.stage == stage.name] for stage in stages}
    return {name: (len(each), sum(each)) for name, each in sizes.items()}


def results(workspace: Path) -> dict[str, dict[str, Any]]:
    """{folder: what its needs.json says} of all grids that were run here, and as ``.`` of a claim.

    A claim has its results in the workspace itself, in which grids may have been run as well.
    """
    files = [*workspace.glob(NEEDS), *sorted(workspace.glob(f"*/{NEEDS}"))]
    return {str(file.parent.relative_to(workspace)): read_json(file) for file in files}


def garbage(workspace: Path, stages: Sequence[Stage] = STAGES) -> list[Path]:
    """Artifacts that no result of the workspace rests on, and what killed processes left.

    What figures have measured is no grid's, and stays.
    Raises UserError when no grid says what it needs: then everything would be garbage.
    """
    work = require_workspace(workspace)
    grids = results(workspace)
    if not grids:
        raise UserError(f"{workspace} has no grid with a {NEEDS}; run one there before gc")
    needed = {place for grid in grids.values() for place in grid["artifacts"]}
    unneeded = [
        folder
        for _, folder in _folders(work, list(of_runs(stages)))
        if str(folder.relative_to(work)) not in needed
    ]
    left = [*work.glob("*/.partial-*"), *(work / TRAINING_FOLDER).glob("*")]
    return sorted({*unneeded, *left})


def collect(workspace: Path, folders: list[Path]) -> int:
    """Removes the folders, and locks that are files, and returns how many bytes that freed."""
    freed = sum(map(_bytes, folders))
    for folder in folders:
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    catalogue(workspace)
    return freed


def unfinished(workspace: Path) -> dict[str, tuple[int, int]]:
    """{folder of a result: (artifacts that are there, all that it needs)}."""
    there = {entry.place for entry in catalogue(workspace)}
    return {
        name: (sum(place in there for place in grid["artifacts"]), len(grid["artifacts"]))
        for name, grid in results(workspace).items()
    }
