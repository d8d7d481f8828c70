"""What there is to do, how long it takes, and the way through all stages."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from safezone.lab.cost import Passes
from safezone.lab.executors import Executor, OpenLab
from safezone.lab.lab import TRAINING_FOLDER, Failures, Job, Lab, Note
from safezone.lab.run import Grid, Run
from safezone.lab.stage import STAGES, Stage, jobs, of_runs, own
from safezone.lab.store import ROWS_FILE, take
from safezone.lab.trainings import sweep
from safezone.scores import Row, read_rows


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
    made = jobs(lab, grid, stages)
    counts = {}
    for stage in of_runs(stages):
        artifacts = own(stage, made)
        counts[stage.name] = (sum(each.done for each in artifacts), len(artifacts))
    return counts


def estimate(
    lab: Lab, grid: Grid, passes: Passes, workers: int = 1, stages: Sequence[Stage] = STAGES
) -> Mapping[str, Cost]:
    """The cost of every stage; nothing is written."""
    made, costs = jobs(lab, grid, stages), {}
    for stage in of_runs(stages):
        artifacts = own(stage, made)
        todo = [
            job.run
            for artifact, job in artifacts.items()
            if artifact.key not in lab.reuse and not artifact.done
        ]
        operations = sum(stage.operations(lab, run, passes) for run in todo)
        size = sum(stage.size(lab, run) for run in todo)
        seconds = operations / passes.per_second / workers
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
    the same time.
    """
    failed = {run: reason for run in grid if (reason := lab.refused(run)) is not None}
    made = jobs(lab, grid, stages)
    for stage in of_runs(stages):
        left = [job for job in made if job.run not in failed]
        artifacts = own(stage, left)
        _reuse(lab, stage, left)
        failures: Failures = {}
        if stage.make is not None and not all(artifact.done for artifact in artifacts):
            failures = stage.make(lab, list(artifacts.values()), progress=progress, note=note)
        reasons = {job.of[stage.name]: failures[job.run] for job in left if job.run in failures}
        for job in left:  # what is shared fails for all that share it
            artifact = job.of[stage.name]
            reason = reasons.get(artifact) or artifact.failure
            if reason is not None:
                failed[job.run] = reason
        if stage.name == last:
            break
    sweep(lab.folder / TRAINING_FOLDER, [a for job in made if (a := job.of["personalize"]).done])
    return failed


def _reuse(lab: Lab, stage: Stage, made: Iterable[Job]) -> None:
    """Copies what is wanted and lies elsewhere already."""
    for artifact, job in own(stage, made).items():
        if artifact.key in lab.reuse and not artifact.done:
            take(lab.reuse[artifact.key], artifact, stage.about(lab, job))


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
    made = {job.run: job for job in jobs(lab, grid, stages)}
    if executor is None:
        failed = make(lab, grid, progress=progress, note=note, stages=stages)
    else:  # what one worker could not do another may have done
        failed = {run: reason for run in grid if (reason := lab.refused(run)) is not None}
        for stage in of_runs(stages):
            _reuse(lab, stage, made.values())
        for failures in executor.run(partial(_work, grid), note):
            failed |= failures
        failed = {run: why for run, why in failed.items() if not _complete(made.get(run))}
    rows: list[Row] = []
    for run in grid:
        if run in failed:
            rows.append(failed_row(run, failed[run]))
        else:
            rows += read_rows(made[run].of["score"].place / ROWS_FILE)
    return Results(rows, failed)


def _complete(job: Job | None) -> bool:
    return job is not None and all(artifact.done for artifact in job.of.values())


def failed_row(run: Run, reason: str) -> Row:
    """The row of a run without scores."""
    cell = (run.concept, run.poison, run.defense, run.method, run.model, run.seed)
    return Row(*cell, "instance_similarity", float("nan"), 0, 0, reason)
