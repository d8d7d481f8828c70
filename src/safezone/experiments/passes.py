"""The stage personalize: many runs in one pass; killed at any moment, gone on with at will."""

import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError

from safezone.concepts import Concept
from safezone.defenses.preprocess import Identity
from safezone.experiments.run import content_key
from safezone.experiments.stages import RUN_RECORD, done
from safezone.experiments.training import Training
from safezone.experiments.workspace import cannot_write, read_json, whole_folder, write_json
from safezone.generate import generate, preview_writer
from safezone.models.base import Model
from safezone.personalize import TrainingRun, save_adapter, train
from safezone.personalize.checkpoints import log_path
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


def _groups(
    jobs: Sequence[TrainingJob], scratch: Path, runs_per_pass: int
) -> Iterable[tuple[Path, list[TrainingJob]]]:
    """Trainings that were begun before, with the runs that they had; then new ones of the rest."""
    wanted = {job.key: job for job in jobs}
    missing = {job.key for job in jobs if not job.done}
    for record in sorted(scratch.glob(f"*/{MEMBERS}")):
        members = read_json(record)["members"]
        if missing & set(members) and set(members) <= wanted.keys():
            yield record.parent, [wanted[key] for key in members]
            missing -= set(members)
        elif not missing & set(members) and set(members) <= wanted.keys():
            shutil.rmtree(record.parent)  # killed after its last adapter was written
    rest = [job for job in jobs if job.key in missing]
    for start in range(0, len(rest), runs_per_pass):
        group = rest[start : start + runs_per_pass]
        folder = scratch / content_key(*(job.key for job in group))[:16]
        with whole_folder(folder) as temporary:
            write_json(temporary / MEMBERS, {"members": [job.key for job in group]})
        yield folder, group


def personalize_stage(
    model: Model,
    jobs: Sequence[TrainingJob],
    training: Training,
    scratch: Path,
    *,
    progress: bool = True,
    note: Callable[[str], None] = lambda text: None,
) -> None:
    """Trains what is missing, ``training.runs_per_pass`` runs in one pass.

    ``scratch`` holds the checkpoints: a killed training goes on from its last one. A run that
    became NaN is written as well; its record tells the step.
    """
    method = training.personalization()
    todo = sum(not job.done for job in jobs)
    if not todo:
        return
    finished, started = 0, time.monotonic()
    observers = trackers_of(training.tracker, scratch, method.content())
    for folder, group in _groups(jobs, scratch, training.runs_per_pass):
        try:
            runs = [job.run for job in group]
            if method.prior:
                runs = with_class_images(model, runs, method.prior_images)
            adapters = train(
                model,
                runs,
                method,
                folder,
                progress=progress,
                preview=preview_writer(
                    model, method.preview_prompts, scratch / "previews" / folder.name
                ),
                compile=training.compile,
                checkpointing=training.checkpointing,
                observers=observers,
            )
        except (OSError, SafetensorError) as error:
            raise cannot_write(folder, error) from error
        for job, adapter in zip(group, adapters, strict=True):
            if job.done:
                continue
            record = {**job.record, "key": job.key, "seed": job.run.seed}
            record["failed_at"] = adapter.provenance["failed_at"]
            provenance = {**adapter.provenance, **record}
            with whole_folder(job.place) as temporary:
                save_adapter(replace(adapter, provenance=provenance), temporary)
                log = log_path(folder, job.run.key)
                if log.exists():
                    shutil.copyfile(log, temporary / "log.jsonl")
                write_json(
                    temporary / RUN_RECORD,
                    {**record, "settings": dict(adapter.provenance["settings"])},
                )
            finished += 1
        shutil.rmtree(folder, ignore_errors=True)
        note(f"{finished} of {todo} runs trained{_left(started, finished, todo)}")
    for observer in observers:
        observer.close()


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
