"""Brings every run of a grid through all stages, with any executor, doing only what is missing."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from safezone.files import read_json
from safezone.lab.executors import Executor, InProcess
from safezone.lab.lab import STAGES, Lab
from safezone.lab.passes import passes, sweep
from safezone.lab.perform import TRAINING, Failures, Note, Task, missing, save_clean
from safezone.lab.run import Grid, Run
from safezone.lab.stage import ROWS, RUN_RECORD, done
from safezone.lab.training import Training
from safezone.scores import Row, read_rows

CHUNK: Final = 8
"""Runs of one task of generating or scoring, where workers share the work."""


@dataclass(frozen=True, eq=False)
class Results:
    """``rows``: of all runs, those that failed as a row with a reason. ``failed``: the reasons."""

    rows: list[Row]
    failed: Failures


def run_grid(
    lab: Lab,
    grid: Grid,
    *,
    executor: Executor | None = None,
    progress: bool = True,
    note: Note = lambda text: None,
) -> Results:
    """Does what is missing of the grid; a run that fails does not stop the others."""
    executor = InProcess() if executor is None else executor
    failed = {run: reason for run in grid if (reason := lab.refused(run)) is not None}
    save_clean(lab, (run for run in grid if run not in failed))
    for stage in STAGES:
        left = [run for run in grid if run not in failed]
        tasks = split(lab, stage, left, executor.workers)
        for failures in executor.run(lab, tasks, progress=progress, note=note):
            failed |= _spread(lab, stage, left, failures)
        if stage == "personalize":
            failed |= _became_nan(lab, (run for run in left if run not in failed))
            adapters = [lab.adapter(run) for run in left]
            written = {a.key for a in adapters if done(a.place, RUN_RECORD, a.key)}
            sweep(lab.folder / TRAINING, written)
    rows: list[Row] = []
    for run in grid:
        rows += (
            [failed_row(run, failed[run])]
            if run in failed
            else read_rows(lab.score(run).place / ROWS)
        )
    return Results(rows, failed)


def failed_row(run: Run, reason: str) -> Row:
    """The row of a run without scores."""
    cell = (run.concept, run.poison, run.defense, run.method, run.model, run.seed)
    return Row(*cell, "instance_similarity", float("nan"), 0, 0, reason)


def _spread(lab: Lab, stage: str, runs: Iterable[Run], failures: Failures) -> Failures:
    """What is shared fails for all that share it."""
    shared: Callable[[Run], Hashable] | None = {
        "poison": lab.poisoned,
        "preprocess": lab.preprocessed,
    }.get(stage)
    if shared is None or not failures:
        return failures
    reasons = {shared(run): reason for run, reason in failures.items()}
    return {run: reasons[key] for run in runs if (key := shared(run)) in reasons}


def _became_nan(lab: Lab, runs: Iterable[Run]) -> Failures:
    failed = {}
    for run in runs:
        step = read_json(lab.adapter(run).place / RUN_RECORD).get("failed_at")
        if isinstance(step, int):
            failed[run] = f"the training became NaN at step {step}"
    return failed


@dataclass(frozen=True)
class _Wanted:
    """A run's adapter, as ``passes`` groups it."""

    run: Run
    key: str
    done: bool


def split(lab: Lab, stage: str, runs: Sequence[Run], workers: int) -> list[Task]:
    """Tasks that can be done at the same time: no two make the same artifact.

    A training task is one pass, so that only its images are in memory; of the other stages a
    single worker gets one task.
    """
    todo = [run for run in runs if missing(lab, stage, run)]
    if not todo:
        return []
    if stage == "personalize":
        return [Task(stage, tuple(group)) for group in _passes(lab, runs)]
    if stage in ("poison", "preprocess"):
        shared: Any = lab.poisoned if stage == "poison" else lab.preprocessed
        todo = list({shared(run): run for run in reversed(todo)}.values())[::-1]
    size = len(todo) if workers == 1 else CHUNK if stage in ("generate", "score") else 1
    return [Task(stage, tuple(todo[i : i + size])) for i in range(0, len(todo), size)]


def _trained_together(lab: Lab, runs: Sequence[Run]) -> list[list[Run]]:
    """Runs by their training's settings: only such can share a pass."""
    groups: dict[Training, list[Run]] = {}
    for run in runs:
        groups.setdefault(lab.training(run), []).append(run)
    return list(groups.values())


def _passes(lab: Lab, runs: Sequence[Run]) -> list[list[Run]]:
    found: list[list[Run]] = []
    for group in _trained_together(lab, runs):
        wanted = []
        for run in group:
            adapter = lab.adapter(run)
            made = done(adapter.place, RUN_RECORD, adapter.key)
            wanted.append(_Wanted(run, adapter.key, made))
        most = lab.training(group[0]).runs_per_pass
        for members in passes(wanted, lab.folder / TRAINING, most):
            found.append([member.run for member in members])
    return found
