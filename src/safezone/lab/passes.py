"""The stage personalize: many runs in one pass; killed at any moment, gone on with at will."""

import shutil
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from safetensors import SafetensorError

from safezone.concepts import Concept
from safezone.defenses.preprocess import Identity
from safezone.errors import UserError
from safezone.files import cannot_write, read_json, whole_folder, write_json
from safezone.generate import generate, preview_writer
from safezone.lab.run import content_key
from safezone.lab.stage import RUN_RECORD, artifact_folder, done
from safezone.lab.training import Training
from safezone.lab.turns import MAKING, in_turn, turn
from safezone.models.base import Model
from safezone.personalize import TrainingRun, save_adapter, train
from safezone.personalize.checkpoints import CHECKPOINT, log_path
from safezone.personalize.trackers import trackers_of

MEMBERS: Final = "members.json"
"""In the folder of a training's checkpoints: the keys of its runs."""


@dataclass(frozen=True, eq=False)
class TrainingJob:
    """One run to train, where it goes and what is recorded beside it."""

    key: str
    run: TrainingRun
    place: Path
    record: Mapping[str, Any]

    @property
    def done(self) -> bool:
        return done(self.place, RUN_RECORD, self.key)

    @property
    def failed_at(self) -> int | None:
        """The step at which a finished run became NaN, else None."""
        value = read_json(self.place / RUN_RECORD).get("failed_at")
        return value if isinstance(value, int) else None


class Keyed(Protocol):
    """What can be grouped into passes."""

    @property
    def key(self) -> str: ...
    @property
    def done(self) -> bool: ...


Job = TypeVar("Job", bound=Keyed)


def _members(record: Path) -> list[str]:
    """The keys of a begun training; none when another worker has just finished it."""
    try:
        return list(read_json(record)["members"])
    except UserError:
        if record.exists():
            raise
        return []


def _groups(
    jobs: Sequence[Job], scratch: Path, runs_per_pass: int
) -> Iterable[tuple[Path, list[Job]]]:
    """Trainings that were begun before, with the runs that they had; then new ones of the rest."""
    wanted = {job.key: job for job in jobs}
    missing = {job.key for job in jobs if not job.done}
    for record in sorted(scratch.glob(f"*/{MEMBERS}")):
        members = _members(record)
        if missing & set(members) and set(members) <= wanted.keys():
            yield record.parent, [wanted[key] for key in members]
            missing -= set(members)
    rest = [job for job in jobs if job.key in missing]
    for start in range(0, len(rest), runs_per_pass):
        group = rest[start : start + runs_per_pass]
        folder = scratch / content_key(*(job.key for job in group))[:16]
        with whole_folder(folder, (folder / MEMBERS).is_file) as temporary:
            write_json(temporary / MEMBERS, {"members": [job.key for job in group]})
        yield folder, group


def passes(jobs: Sequence[Job], scratch: Path, runs_per_pass: int) -> list[list[Job]]:
    """The jobs of every pass that is still to do, for those who share them among workers."""
    return [group for _, group in _groups(jobs, scratch, runs_per_pass)]


def sweep(scratch: Path, written: Collection[str]) -> None:
    """Removes trainings whose adapters, by their keys, are all written.

    They are there when a process was killed between its last adapter and the end of its training.
    """
    for record in scratch.glob(f"*/{MEMBERS}"):
        if set(_members(record)) <= set(written):
            with turn(record.parent) as ours:
                if ours:
                    _discard(record.parent)
    for lock in scratch.glob(f"{MAKING}*"):  # of a killed process, which may have been discarding
        place = lock.with_name(lock.name.removeprefix(MAKING))
        if not (place / MEMBERS).exists():
            with turn(place) as ours:  # whose end removes the lock
                if ours and not (place / MEMBERS).exists():
                    _discard(place)


def _discard(folder: Path) -> None:
    """Removes a training's folder, the list of members last: killed midway, it is found again."""
    for path in folder.glob("*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != MEMBERS:
            path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def dissolve(scratch: Path, jobs: Iterable[TrainingJob], most: int, *, begun: bool) -> None:
    """Forgets trainings of these jobs with more than ``most`` runs: they do not fit.

    ``begun``: also those with a checkpoint.
    """
    keys = {job.key for job in jobs}
    for record in scratch.glob(f"*/{MEMBERS}"):
        members = _members(record)
        with turn(record.parent) as ours:
            kept = not begun and (record.parent / CHECKPOINT).exists()
            if ours and not kept and len(members) > most and set(members) <= keys:
                _discard(record.parent)


def _to_train(folder: Path, group: Sequence[TrainingJob]) -> list[TrainingJob]:
    """Whose turn has come: of a training with a checkpoint all its runs, else those not done."""
    if all(job.done for job in group):
        return []
    if (folder / CHECKPOINT).exists():
        members = _members(folder / MEMBERS)
        return [job for job in group if job.key in members]
    left = [job for job in group if not job.done]
    write_json(folder / MEMBERS, {"members": [job.key for job in left]})
    return left


def personalize_stage(
    model: Model,
    jobs: Sequence[TrainingJob],
    training: Training,
    scratch: Path,
    *,
    most: int | None = None,
    progress: bool = True,
    note: Callable[[str], None] = lambda text: None,
) -> None:
    """Trains what is missing, ``training.runs_per_pass`` runs in one pass, or ``most``.

    ``scratch`` holds the checkpoints: a killed training goes on from its last one. A run that
    became NaN is written as well; its record tells the step.
    """
    todo = [job for job in jobs if not job.done]
    started = time.monotonic()
    while any(not job.done for job in jobs):  # again where another process had other groups
        groups = dict(_groups(jobs, scratch, most or training.runs_per_pass))
        with closing(in_turn(groups)) as turns:
            for folder in turns:
                group = _to_train(folder, groups[folder])
                if group:
                    _train_pass(model, group, training, folder, progress)
                _discard(folder)
                finished = sum(job.done for job in todo)
                left = _left(started, finished, len(todo))
                note(f"{finished} of {len(todo)} runs trained{left}")
    sweep(scratch, {job.key for job in jobs if job.done})


def _train_pass(
    model: Model, group: Sequence[TrainingJob], training: Training, folder: Path, progress: bool
) -> None:
    """Trains the runs together and writes their adapters."""
    method = training.personalization()
    runs = [job.run for job in group]
    if method.prior:
        runs = with_class_images(model, runs, method.prior_images)
    observers = trackers_of(training.tracker, folder.parent, method.content())
    try:
        adapters = train(
            model,
            runs,
            method,
            folder,
            progress=progress,
            preview=preview_writer(
                model, method.preview_prompts, folder.parent / "previews" / folder.name
            ),
            compile=training.compile,
            checkpointing=training.checkpointing,
            observers=observers,
        )
    except (OSError, SafetensorError) as error:
        raise cannot_write(folder, error) from error
    finally:
        for observer in observers:
            observer.close()
    for job, adapter in zip(group, adapters, strict=True):
        if job.done:
            continue
        record = {**job.record, "key": job.key, "seed": job.run.seed}
        record["failed_at"] = adapter.provenance["failed_at"]
        provenance = {**adapter.provenance, **record}
        with artifact_folder(job.place, RUN_RECORD, job.key) as temporary:
            save_adapter(replace(adapter, provenance=provenance), temporary)
            log = log_path(folder, job.run.key)
            if log.exists():
                shutil.copyfile(log, temporary / "log.jsonl")
            write_json(
                temporary / RUN_RECORD,
                {**record, "settings": dict(adapter.provenance["settings"])},
            )


def with_class_images(model: Model, runs: Sequence[TrainingRun], count: int) -> list[TrainingRun]:
    """The runs with images of their class that the model draws, the same for one class word."""
    prior = {
        word: generate(
            model,
            [None],
            [f"a photo of a {word}"],
            count,
            seed=0,
            noise_keys=["prior"],
            size=runs[0].concept.images.shape[-1],
            progress=False,
        )[0]
        for word in dict.fromkeys(run.concept.class_word for run in runs)
    }
    return [replace(run, prior=prior[run.concept.class_word]) for run in runs]


def _left(started: float, finished: int, todo: int) -> str:
    """How long the rest will take at the pace so far."""
    if not 0 < finished < todo:
        return ""
    minutes = (time.monotonic() - started) / finished * (todo - finished) / 60
    return f", about {max(1, round(minutes))} min left"


def without_preprocess(run: TrainingRun, preprocessed: Concept) -> TrainingRun:
    """The run on images to which the first part of its defense has been done already."""
    defense = replace(run.defense, preprocess=Identity())
    return replace(run, concept=preprocessed, defense=defense)
