"""The stage personalize: many runs in one pass; a training that was killed goes on."""

import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError

from safezone.errors import UserError
from safezone.files import cannot_write, whole_folder, write_json
from safezone.generate import generate, preview_writer
from safezone.lab.lab import TRAINING_FOLDER, Failures, Job, Lab
from safezone.lab.makers import failure_reason
from safezone.lab.memory import RUNS, Capacity, OutOfMemory
from safezone.lab.run import Run, content_key
from safezone.lab.store import MAKING, Artifact, in_turn, turn
from safezone.lab.training import Training
from safezone.models.base import Model
from safezone.personalize import PreparedRun, TrainingRun, save_adapter, train
from safezone.personalize.checkpoints import CHECKPOINT, log_path, trackers_of
from safezone.reading import read_json

MEMBERS: Final = "members.json"
"""In the folder of a training's checkpoints: its runs (``member``)."""


@dataclass(frozen=True, eq=False)
class TrainingJob:
    """One run to train, opened when its turn comes; where it goes and what is recorded there."""

    open: Callable[[], TrainingRun | PreparedRun]
    artifact: Artifact
    record: Mapping[str, Any]

    @property
    def failed_at(self) -> int | None:
        """The step at which a finished run became NaN, else None."""
        value = read_json(self.artifact.place / self.artifact.record).get("failed_at")
        return value if isinstance(value, int) else None


def _members(record: Path) -> list[str]:
    """The folders of a begun training; none when another worker has just finished it."""
    try:
        return list(read_json(record)["members"])
    except UserError:
        if record.exists():
            raise
        return []


def member(artifact: Artifact, scratch: Path) -> str:
    """What a training calls a run: its key and its folder, since runs may share a key."""
    return f"{artifact.key} {os.path.relpath(artifact.place, scratch)}"


def _groups(
    jobs: Iterable[TrainingJob], scratch: Path, runs_per_pass: int
) -> Iterator[tuple[Path, list[TrainingJob]]]:
    """Trainings that were begun before, with the runs that they had; then new ones of the rest."""
    named = {member(job.artifact, scratch): job for job in jobs}
    missing = [name for name, job in named.items() if not job.artifact.done]
    for record in sorted(scratch.glob(f"*/{MEMBERS}")):
        members = _members(record)
        if set(missing) & set(members) and set(members) <= named.keys():
            yield record.parent, [named[name] for name in members]
            missing = [name for name in missing if name not in members]
    for start in range(0, len(missing), runs_per_pass):
        group = missing[start : start + runs_per_pass]
        folder = scratch / content_key(*group)[:16]
        with whole_folder(folder, (folder / MEMBERS).is_file) as temporary:
            write_json(temporary / MEMBERS, {"members": group})
        yield folder, [named[name] for name in group]


def sweep(scratch: Path, written: Collection[Artifact]) -> None:
    """Removes trainings whose adapters are all written.

    They are there when a process was killed between its last adapter and the end of its training.
    """
    names = {member(artifact, scratch) for artifact in written}
    for record in scratch.glob(f"*/{MEMBERS}"):
        if set(_members(record)) <= names:
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


def dissolve(scratch: Path, artifacts: Collection[Artifact], most: int, *, begun: bool) -> None:
    """Forgets trainings of these adapters with more than ``most`` runs: they do not fit.

    ``begun``: also those with a checkpoint.
    """
    names = {member(artifact, scratch) for artifact in artifacts}
    for record in scratch.glob(f"*/{MEMBERS}"):
        members = _members(record)
        with turn(record.parent) as ours:
            kept = not begun and (record.parent / CHECKPOINT).exists()
            if ours and not kept and len(members) > most and set(members) <= names:
                _discard(record.parent)


def _to_train(folder: Path, group: Sequence[TrainingJob]) -> list[TrainingJob]:
    """Whose turn has come: of a training with a checkpoint all its runs, else those not done."""
    if all(job.artifact.done for job in group):
        return []
    if (folder / CHECKPOINT).exists():
        members = _members(folder / MEMBERS)
        return [job for job in group if member(job.artifact, folder.parent) in members]
    left = [job for job in group if not job.artifact.done]
    write_json(folder / MEMBERS, {"members": [member(job.artifact, folder.parent) for job in left]})
    return left


def _most_runs(training: Training, model: Model) -> int:
    return training.runs_per_pass or RUNS.on(model)


def train_all(
    model: Model,
    jobs: Sequence[TrainingJob],
    training: Training,
    scratch: Path,
    *,
    most: int | None = None,
    wait: bool = True,
    progress: bool = True,
    note: Callable[[str], None] = lambda text: None,
) -> None:
    """Trains what is missing, ``most`` runs in one pass, or as many as the training says.

    ``wait``: for trainings that other processes are at. ``scratch`` holds the checkpoints: a killed
    training goes on from its last one. A run that became NaN is written as well; its record tells
    the step.
    """
    todo = [job.artifact for job in jobs if not job.artifact.done]
    started = time.monotonic()
    while not all(each.done for each in todo):  # again where another process had other groups
        groups = dict(_groups(jobs, scratch, most or _most_runs(training, model)))
        with closing(in_turn(groups, wait=wait)) as turns:
            for folder in turns:
                group = _to_train(folder, groups[folder])
                if group:
                    _train_pass(model, group, training, folder, progress)
                _discard(folder)
                finished, left = sum(each.done for each in todo), ""
                if 0 < finished < len(todo):  # at the pace so far
                    pace = (time.monotonic() - started) / finished
                    left = f", about {max(1, round(pace * (len(todo) - finished) / 60))} min left"
                note(f"{finished} of {len(todo)} runs trained{left}")
        if not wait:
            break
    sweep(scratch, [job.artifact for job in jobs if job.artifact.done])


def runs_a_pass(folder: Path, model: Model, training: Training, runs: int, item: float) -> Capacity:
    """For so many runs; ``item``: bytes of one image that a run trains on."""
    most = min(_most_runs(training, model), runs)
    kind = f"{training.method} x {training.batch_size}"
    return Capacity(folder, model, kind, most, item * training.samples)


def train_fitting(
    capacity: Capacity, jobs: Sequence[TrainingJob], training: Training, scratch: Path, **how: Any
) -> None:
    """``train_all``, with smaller passes after each time that memory ran out.

    Raises OutOfMemory when a single run does not fit. ``how``: as of ``train_all``.
    """
    most = _most_runs(training, capacity.model)

    def attempt(size: int) -> None:
        if size < most:  # what was begun has fitted before
            dissolve(scratch, [each.artifact for each in jobs], size, begun=size == capacity.known)
        train_all(capacity.model, jobs, training, scratch, most=size, **how)

    replace(capacity, wanted=min(capacity.wanted, len(jobs))).fit(attempt)


def _train_pass(
    model: Model, group: Sequence[TrainingJob], training: Training, folder: Path, progress: bool
) -> None:
    """Trains the runs together and writes their adapters."""
    method = training.personalization()
    runs = [job.open() for job in group]
    if method.prior:
        runs = with_class_images(model, runs, method.prior_images)
    observers = trackers_of(training.tracker, folder.parent, method.content())
    previews = folder.parent / "previews" / folder.name
    try:
        adapters = train(
            model,
            runs,
            method,
            folder,
            progress=progress,
            preview=preview_writer(model, method.preview_prompts, previews),
            compile=training.compile,
            checkpointing=training.checkpointing,
            captured=training.captured,
            observers=observers,
        )
    except (OSError, SafetensorError) as error:
        raise cannot_write(folder, error) from error
    finally:
        for observer in observers:
            observer.close()
    for job, run, adapter in zip(group, runs, adapters, strict=True):
        if job.artifact.done:
            continue
        own = adapter.provenance
        record = {**job.record, "seed": run.seed, "failed_at": own["failed_at"]}
        provenance = {**own, **record, "key": job.artifact.key}
        if own["failed_at"] is not None:
            record["failed"] = f"the training became NaN at step {own['failed_at']}"
        record["settings"] = dict(own["settings"])
        record |= {name: own[name] for name in ("precision", "unseen") if name in own}
        with job.artifact.written(record) as temporary:
            save_adapter(replace(adapter, provenance=provenance), temporary)
            log = log_path(folder, run.key)
            if log.exists():
                shutil.copyfile(log, temporary / "log.jsonl")


def with_class_images(
    model: Model, runs: Sequence[TrainingRun | PreparedRun], count: int
) -> list[TrainingRun | PreparedRun]:
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


def about(lab: Lab, job: Job) -> dict[str, Any]:
    """What an adapter's record says of its run."""
    return {**asdict(job.run), "defense_parts": repr(lab.defense(job.run))}


def _prepared(lab: Lab, job: Job) -> PreparedRun:
    """The run on its prepared images.

    Raises UserError for captions that are missing or too long, and masks that are missing or empty,
    before the run shares a pass with others.
    """
    row, run, concept = lab.defense(job.run), job.run, lab.load(job.of["preprocess"])
    row.loss_mask(concept.images, concept.masks, lab.model.factor, concept=concept.name)
    how, record = (row.timesteps, row.loss_mask, run.seed), {"defense": row.name}
    prepared = PreparedRun(run.label, concept, *how, record=record, words=row.words)
    method = lab.training(run).personalization()
    if method.captions:
        word = concept.placeholder if method.vectors else None
        lab.model.tokenize(method.prompts_of(prepared, 1), word, max(1, method.vectors))
    return prepared


def personalize(lab: Lab, jobs: Sequence[Job], among: Sequence[Job], **how: Any) -> Failures:
    """Trains what is missing, in passes as large as fit into memory, but none larger than the
    share that each process of the workspace has of all; ``how``: see ``Make``."""
    failed: Failures = {}
    by_training: dict[Training, dict[Run, TrainingJob]] = {}
    for job in jobs:
        artifact, opened = job.of["personalize"], partial(_prepared, lab, job)
        try:
            if not artifact.done:  # what cannot begin would end the pass that it shares
                lab.training(job.run).personalization().begin(lab.model, opened())
        except Exception as error:
            failed[job.run] = failure_reason(error)
            continue
        training = TrainingJob(opened, artifact, about(lab, job))
        by_training.setdefault(lab.training(job.run), {})[job.run] = training
    scratch, item = lab.folder / TRAINING_FOLDER, lab.item_bytes(lab.model).trained
    alike = Counter(lab.training(job.run) for job in among)
    for settings, chosen in by_training.items():
        runs = math.ceil(alike[settings] / lab.sharers)
        capacity = runs_a_pass(lab.folder, lab.model, settings, runs, item)
        try:
            train_fitting(capacity, list(chosen.values()), settings, scratch, **how)
        except OutOfMemory:  # now one by one, so that those that fit are trained
            for run, each in chosen.items():
                try:
                    train_fitting(capacity, [each], settings, scratch, **how)
                except OutOfMemory as error:
                    failed[run] = str(error)
    return failed
