"""What is to do, shared out as tasks; how long it takes; and the way through all stages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from safezone.lab.cost import Passes
from safezone.lab.executors import Executor, InProcess, Task
from safezone.lab.lab import TRAINING, Failures, Job, Lab, Note
from safezone.lab.run import Grid, Run
from safezone.lab.stage import STAGES, Stage, jobs, of_runs, own
from safezone.lab.store import ROWS, Artifact, take
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


def split(lab: Lab, stage: Stage, made: Sequence[Job], workers: int) -> list[Task]:
    """Tasks that can be done at the same time: no two make the same artifact.

    Of a stage without ``tasks`` of its own a single worker gets one task.
    """
    artifacts = own(stage, made)
    todo = [job for artifact, job in artifacts.items() if not artifact.done]
    if not todo or stage.make is None:
        return []
    if stage.tasks is not None:
        groups = stage.tasks(lab, list(artifacts.values()))
    else:
        size = len(todo) if workers == 1 else stage.share
        groups = [todo[i : i + size] for i in range(0, len(todo), size)]
    return [Task(stage.name, stage.make, tuple(group)) for group in groups]


def make(
    lab: Lab,
    grid: Grid,
    *,
    last: str | None = None,
    executor: Executor | None = None,
    progress: bool = True,
    note: Note = lambda text: None,
    stages: Sequence[Stage] = STAGES,
) -> Failures:
    """Does what is missing of the grid, up to the stage called ``last``; returns why runs failed.

    A run that fails does not stop the others.
    """
    executor = InProcess() if executor is None else executor
    failed = {run: reason for run in grid if (reason := lab.refused(run)) is not None}
    made = jobs(lab, grid, stages)
    for stage in of_runs(stages):
        left = [job for job in made if job.run not in failed]
        artifacts = {job.run: job.of[stage.name] for job in left}
        reasons: dict[Artifact, str] = {}
        for artifact, job in own(stage, left).items():
            if artifact.key in lab.reuse and not artifact.done:
                take(lab.reuse[artifact.key], artifact, stage.about(job))
        tasks = split(lab, stage, left, executor.workers)
        for failures in executor.run(lab, tasks, progress=progress, note=note):
            reasons |= {artifacts[run]: reason for run, reason in failures.items()}
        for run, artifact in artifacts.items():  # what is shared fails for all that share it
            reason = reasons.get(artifact) or artifact.failure
            if reason is not None:
                failed[run] = reason
        if stage.name == last:
            break
    sweep(lab.folder / TRAINING, [a for job in made if (a := job.of["personalize"]).done])
    return failed


def run_grid(
    lab: Lab,
    grid: Grid,
    *,
    executor: Executor | None = None,
    progress: bool = True,
    note: Note = lambda text: None,
    stages: Sequence[Stage] = STAGES,
) -> Results:
    """Does what is missing of the grid and reads its rows; those that failed have a reason."""
    failed = make(lab, grid, executor=executor, progress=progress, note=note, stages=stages)
    scored = {job.run: job.of["score"] for job in jobs(lab, grid, stages)}
    rows: list[Row] = []
    for run in grid:
        if run in failed:
            rows.append(failed_row(run, failed[run]))
        else:
            rows += read_rows(scored[run].place / ROWS)
    return Results(rows, failed)


def failed_row(run: Run, reason: str) -> Row:
    """The row of a run without scores."""
    cell = (run.concept, run.poison, run.defense, run.method, run.model, run.seed)
    return Row(*cell, "instance_similarity", float("nan"), 0, 0, reason)
