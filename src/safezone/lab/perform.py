"""One task: a stage of some runs, done by whoever is given it."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import torch
from tqdm.auto import tqdm

from safezone.concepts import Concept, save_concept
from safezone.defenses import defense
from safezone.errors import UserError, WorkspaceError
from safezone.files import read_json
from safezone.images import read_image
from safezone.lab import probes
from safezone.lab.lab import Artifact, Lab
from safezone.lab.memory import Capacity, OutOfMemory
from safezone.lab.passes import (
    TrainingJob,
    dissolve,
    personalize_stage,
    without_preprocess,
)
from safezone.lab.run import Run
from safezone.lab.stage import (
    IMAGES_RECORD,
    KEY_FILE,
    MANIFEST,
    RUN_RECORD,
    GenerationJob,
    artifact_folder,
    done,
    generate_stage,
    poison_stage,
    preprocess_stage,
    score_stage,
)
from safezone.lab.training import Training
from safezone.lab.turns import in_turn
from safezone.personalize import TrainingRun, read_adapter
from safezone.personalize.personalization import captions_of
from safezone.scores import CLEAN

Note: TypeAlias = Callable[[str], None]
Failures: TypeAlias = dict[Run, str]
"""Why runs failed."""

TRAINING: Final = "training"
"""The folder of checkpoints in a workspace."""


@dataclass(frozen=True)
class Task:
    """A stage of some runs; what other runs share with them is made once, by one task."""

    stage: str
    runs: tuple[Run, ...]


def save_clean(lab: Lab, runs: Iterable[Run]) -> None:
    """Writes the clean concepts of the runs, which later stages refer to."""
    for run in {run.concept: run for run in runs}.values():
        clean = lab.clean(run)
        if not done(clean.place, "concept.json", clean.key):
            with artifact_folder(clean.place, "concept.json", clean.key) as temporary:
                save_concept(lab.concepts[run.concept], temporary, extra={"key": clean.key})


def _poison(lab: Lab, runs: Iterable[Run], progress: bool, note: Note) -> Failures:
    distinct = {lab.poisoned(run): run for run in runs if run.poison != CLEAN}
    todo = {a.place: (a, run) for a, run in distinct.items() if not done(a.place, MANIFEST, a.key)}
    failed: Failures = {}
    capacity = Capacity(lab.folder)
    bar = tqdm(total=len(todo), desc="poisoning", unit="concept", disable=not progress or not todo)
    with bar, closing(in_turn(todo)) as turns:
        for place in turns:
            artifact, run = todo[place]

            def attempt(size: int, run: Run = run, artifact: Artifact = artifact) -> None:
                poison_stage(
                    lab.model,
                    lab.concepts[run.concept],
                    lab.poison_settings(run),
                    lab.poison_seed(run),
                    artifact.place,
                    artifact.key,
                    batch_size=size,
                    progress=False,
                )

            try:
                concept, row = lab.concepts[run.concept], lab.poison_settings(run)
                probe = probes.poison_probe(lab.model, concept, row, lab.poison_seed(run))
                name = probes.pass_name(lab.model, "poison", run.poison)
                capacity.fit(name, min(16, len(concept.images)), attempt, probe)
            except _OF_ONE_RUN as error:
                failed[run] = _reason(error)
            bar.update()
    if todo:
        note(f"{len(todo) - len(failed)} of {len(todo)} concepts poisoned")
    return failed


_OF_ONE_RUN: Final = (UserError, FloatingPointError, OutOfMemory)


def _reason(error: Exception) -> str:
    """Why one run failed; raises what concerns all of them, such as a full disk."""
    if isinstance(error, WorkspaceError):
        raise error
    return str(error)


def _preprocess(lab: Lab, runs: Iterable[Run], progress: bool, note: Note) -> Failures:
    changed = {a.place: (a, run) for run in runs if (a := lab.preprocessed(run)) is not None}
    todo = {place: each for place, each in changed.items() if missing(lab, "preprocess", each[1])}
    failed: Failures = {}
    bar = tqdm(total=len(todo), desc="preprocessing", disable=not progress or not todo)
    with bar, closing(in_turn(todo)) as turns:
        for place in turns:
            images, run = todo[place]
            try:
                preprocess_stage(
                    lab.model,
                    lab.load(lab.poisoned(run)),
                    defense(run.defense).preprocess,
                    run.seed,
                    images.place,
                    images.key,
                )
            except _OF_ONE_RUN as error:
                failed[run] = _reason(error)
            bar.update()
    return failed


def _personalize(lab: Lab, runs: Iterable[Run], progress: bool, note: Note) -> Failures:
    failed: Failures = {}
    by_training: dict[Training, dict[Run, TrainingJob]] = {}
    loaded: dict[Artifact, Concept] = {}
    for run in runs:
        images, adapter = lab.preprocessed(run), lab.adapter(run)
        row = defense(run.defense)
        try:
            if images not in loaded:
                loaded[images] = lab.load(images)
            training = TrainingRun(run.label, loaded[images], row, run.seed)
            _require_masks(lab, training)
            if lab.training(run).templates == "captions":
                captions_of(training.concept, 1)
        except UserError as error:
            failed[run] = _reason(error)
            continue
        record = {**asdict(run), "defense_parts": repr(row)}
        job = TrainingJob(
            adapter.key, without_preprocess(training, training.concept), adapter.place, record
        )
        by_training.setdefault(lab.training(run), {})[run] = job
    for settings, jobs in by_training.items():
        failed |= _train(lab, settings, jobs, progress, note)
    return failed


def _require_masks(lab: Lab, training: TrainingRun) -> None:
    """UserError for a run whose masks are missing or empty, before it shares a pass with others."""
    concept, mask, factor = training.concept, training.defense.loss_mask, lab.model.factor
    mask.mask_images(concept.images, concept.masks, factor, concept=concept.name)
    mask.weights(concept.masks, factor, concept=concept.name)
    mask.latent_weights(concept.masks, factor, concept=concept.name)


def _train(
    lab: Lab, settings: Training, jobs: Mapping[Run, TrainingJob], progress: bool, note: Note
) -> Failures:
    scratch, capacity = lab.folder / TRAINING, Capacity(lab.folder)
    name = probes.pass_name(lab.model, settings.method, f"x {settings.batch_size}")

    def train(chosen: Sequence[TrainingJob]) -> None:
        def attempt(size: int) -> None:
            if size < settings.runs_per_pass:  # what was begun has fitted before
                dissolve(scratch, chosen, size, begun=size == capacity.known(name))
            personalize_stage(
                lab.model, chosen, settings, scratch, most=size, progress=progress, note=note
            )

        probe = probes.training_probe(lab.model, chosen[0].run, settings)
        capacity.fit(name, min(settings.runs_per_pass, len(chosen)), attempt, probe)

    failed: Failures = {}
    try:
        train(list(jobs.values()))
    except OutOfMemory:  # now one by one, so that those that fit are trained
        for run, job in jobs.items():
            try:
                train([job])
            except OutOfMemory as error:
                failed[run] = str(error)
    for run, job in jobs.items():
        if run not in failed and job.failed_at is not None:
            failed[run] = f"the training became NaN at step {job.failed_at}"
    return failed


def _generate(lab: Lab, runs: Iterable[Run], progress: bool, note: Note) -> Failures:
    jobs: dict[Run, GenerationJob] = {}
    for run in runs:
        images = lab.images(run)
        if done(images.place, IMAGES_RECORD, images.key):
            continue

        def relative(artifact: Artifact, start: Path = images.place) -> str:
            return os.path.relpath(artifact.place, start)

        record: dict[str, Any] = {
            **asdict(run),
            "clean": relative(lab.clean(run)),
            "training": relative(lab.poisoned(run)),
        }
        adapter = read_adapter(lab.adapter(run).place)
        jobs[run] = GenerationJob(images.key, adapter, run.concept, run.seed, images.place, record)
    if not jobs:
        return {}
    reasons = _images(lab, list(jobs.values()), progress)
    note(f"images of {len(jobs) - len(reasons)} of {len(jobs)} runs made")
    return {run: reasons[job.key] for run, job in jobs.items() if job.key in reasons}


def _images(lab: Lab, jobs: list[GenerationJob], progress: bool) -> dict[str, str]:
    def attempt(size: int) -> dict[str, str]:
        return generate_stage(
            lab.model, jobs, lab.settings.sampling, images_per_pass=size, progress=progress
        )

    probe = probes.image_probe(lab.model, jobs[0], lab.settings.sampling)
    try:
        return Capacity(lab.folder).fit(probes.pass_name(lab.model, "generate"), 32, attempt, probe)
    except OutOfMemory as error:  # every pass has the same size: none of those left fits
        return {job.key: str(error) for job in jobs if not job.done}


def _score(lab: Lab, runs: Iterable[Run], progress: bool, note: Note) -> Failures:
    failed: Failures = {}
    for run in tqdm(list(runs), desc="scoring", unit="run", disable=not progress):
        artifact, images = lab.score(run), lab.images(run)
        if done(artifact.place, KEY_FILE, artifact.key):
            continue
        try:
            made = read_images(images.place)
        except UserError as error:
            failed[run] = _reason(error)
            continue
        clean = lab.concepts[run.concept]
        score_stage(lab.encoders, clean, *made, run, artifact.place, artifact.key)
    return failed


def read_images(place: Path) -> tuple[torch.Tensor, list[str]]:
    """The images of ``generate_stage``, uint8 [n, 3, h, w], and the prompt of each."""
    record = read_json(place / IMAGES_RECORD)["images"]
    arrays = [torch.from_numpy(read_image(place / image["file"])) for image in record]
    return torch.stack(arrays).permute(0, 3, 1, 2).contiguous(), [i["prompt"] for i in record]


_STAGES: Final[Mapping[str, Callable[[Lab, Iterable[Run], bool, Note], Failures]]] = (
    MappingProxyType(
        {
            "poison": _poison,
            "preprocess": _preprocess,
            "personalize": _personalize,
            "generate": _generate,
            "score": _score,
        }
    )
)


def perform(
    lab: Lab, task: Task, *, progress: bool = False, note: Note = lambda text: None
) -> Failures:
    """Does what is missing of the task; returns why runs failed, of shared work the first run."""
    return _STAGES[task.stage](lab, task.runs, progress, note)


def missing(lab: Lab, stage: str, run: Run) -> bool:
    """Whether the stage has something to do for the run."""
    places: Mapping[str, tuple[Callable[[Run], Artifact], str]] = {
        "poison": (lab.poisoned, MANIFEST),
        "preprocess": (lab.preprocessed, MANIFEST),
        "personalize": (lab.adapter, RUN_RECORD),
        "generate": (lab.images, IMAGES_RECORD),
        "score": (lab.score, KEY_FILE),
    }
    of, record = places[stage]
    artifact = of(run)
    if artifact == lab.clean(run) or (stage == "preprocess" and artifact == lab.poisoned(run)):
        return False
    return not done(artifact.place, record, artifact.key)
