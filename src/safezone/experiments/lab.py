"""A grid's runs with the keys and folders of all their stages, in one workspace."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from safezone.concepts import Concept, load_concept, save_concept
from safezone.defenses import Defense, defense
from safezone.experiments.passes import TrainingJob, personalize_stage, without_preprocess
from safezone.experiments.run import Grid, Run
from safezone.experiments.settings import Settings
from safezone.experiments.stages import (
    IMAGES_RECORD,
    KEY_FILE,
    MANIFEST,
    ROWS,
    RUN_RECORD,
    Encoders,
    GenerationJob,
    done,
    generate_stage,
    poison_stage,
    preprocess_stage,
    score_stage,
    stage_key,
)
from safezone.experiments.workspace import network_keys, read_json
from safezone.images import read_image
from safezone.models.base import Model
from safezone.personalize import TrainingRun, read_adapter
from safezone.poisons import Poison
from safezone.scores import CLEAN, Row, read_rows


@dataclass(frozen=True)
class Artifact:
    """The key of one stage's result and the folder where it is or will be."""

    key: str
    place: Path


@dataclass(frozen=True, eq=False)
class Lab:
    """Everything that the keys of a grid's stages depend on.

    ``folder``: the workspace. ``model_key``: the hash of the model's weights. ``concepts``: the
    clean concepts by name, at the model's size. Random streams: a poison's seed is the run's, or
    ``settings.cells.poison_seed`` for all seeds; training and generation have the run's.
    """

    folder: Path
    model: Model
    model_key: str
    encoders: Encoders
    settings: Settings
    concepts: Mapping[str, Concept]

    def _place(self, stage: str, label: str, key: str) -> Artifact:
        return Artifact(key, self.folder / stage / f"{label}-{key[:16]}")

    def poison_settings(self, run: Run) -> Poison:
        return self.settings.poisoning.poison(run.poison)

    def poison_seed(self, run: Run) -> int:
        fixed = self.settings.cells.poison_seed
        return run.seed if fixed is None else fixed

    def clean(self, run: Run) -> Artifact:
        key = self.concepts[run.concept].content_key()
        return self._place("clean", run.concept, key)

    def poisoned(self, run: Run) -> Artifact:
        """The images that the trainer is given; of a clean run the clean ones."""
        clean = self.clean(run)
        if run.poison == CLEAN:
            return clean
        seed, poison = self.poison_seed(run), self.poison_settings(run)
        key = stage_key("poison", self.model_key, clean.key, poison, seed)
        return self._place("poison", f"{run.concept},{run.poison},{seed}", key)

    def preprocessed(self, run: Run) -> Artifact:
        """The images after the first part of the defense."""
        poisoned, row = self.poisoned(run), defense(run.defense)
        if row.preprocess == Defense("").preprocess:
            return poisoned
        keys = network_keys(row.preprocess, self.model)
        key = stage_key("preprocess", poisoned.key, row.preprocess, run.seed, *keys)
        return self._place("preprocess", f"{run.concept},{run.poison},{run.seed}", key)

    def adapter(self, run: Run) -> Artifact:
        row, method = defense(run.defense), self.settings.training.personalization()
        images = self.preprocessed(run).key
        key = stage_key(
            "personalize",
            self.model_key,
            images,
            row.timesteps,
            row.loss_mask,
            run.seed,
            run.method,
            run.defense,
            method.content(),
        )
        return self._place("personalize", run.label, key)

    def images(self, run: Run) -> Artifact:
        sampling = self.settings.sampling
        settings = {**asdict(sampling), "prompts": sampling.texts()}
        noise = [run.concept, run.seed]
        key = stage_key("generate", self.model_key, self.adapter(run).key, settings, noise)
        return self._place("generate", run.label, key)

    def score(self, run: Run) -> Artifact:
        key = stage_key("score", self.encoders.key, self.images(run).key, self.clean(run).key)
        return self._place("score", run.label, key)

    def load(self, artifact: Artifact) -> Concept:
        return load_concept(artifact.place, self.model.image_size)


def plan(lab: Lab, grid: Grid) -> dict[str, tuple[int, int]]:
    """(done, all) of every stage; nothing is made."""
    stages = {
        "poison": ([lab.poisoned(r) for r in grid if r.poison != CLEAN], MANIFEST),
        "personalize": ([lab.adapter(r) for r in grid], RUN_RECORD),
        "generate": ([lab.images(r) for r in grid], IMAGES_RECORD),
        "score": ([lab.score(r) for r in grid], KEY_FILE),
    }
    counts = {}
    for stage, (artifacts, record) in stages.items():
        distinct = set(artifacts)
        counts[stage] = (sum(done(a.place, record, a.key) for a in distinct), len(distinct))
    return counts


@dataclass(frozen=True, eq=False)
class Results:
    """``rows`` of the runs that went well; ``failed``: why the others did not."""

    rows: list[Row]
    failed: dict[Run, str]


def run_grid(
    lab: Lab, grid: Grid, *, progress: bool = True, note: Callable[[str], None] = lambda text: None
) -> Results:
    """Brings every run of the grid through all stages, doing only what is missing."""
    failed: dict[Run, str] = {}
    _poison(lab, grid, failed, progress, note)
    _personalize(lab, grid, failed, progress, note)
    _generate(lab, grid, failed, progress, note)
    return Results(_score(lab, grid, failed, progress), failed)


def _poison(
    lab: Lab,
    grid: Grid,
    failed: dict[Run, str],
    progress: bool,
    note: Callable[[str], None],
) -> None:
    for run in {lab.clean(run): run for run in grid}.values():
        clean = lab.clean(run)
        if not done(clean.place, "concept.json", clean.key):
            save_concept(lab.concepts[run.concept], clean.place, extra={"key": clean.key})
    distinct = {lab.poisoned(run): run for run in grid if run.poison != CLEAN}
    todo = [a for a in distinct if not done(a.place, MANIFEST, a.key)]
    broken: dict[Artifact, str] = {}
    for artifact in tqdm(todo, desc="poisoning", unit="concept", disable=not progress or not todo):
        run = distinct[artifact]
        try:
            poison_stage(
                lab.model,
                lab.concepts[run.concept],
                lab.poison_settings(run),
                lab.poison_seed(run),
                artifact.place,
                artifact.key,
                progress=False,
            )
        except FloatingPointError as error:
            broken[artifact] = str(error)
    if todo:
        note(f"{len(todo) - len(broken)} of {len(todo)} concepts poisoned")
    for run in grid:
        if run.poison != CLEAN and (reason := broken.get(lab.poisoned(run))):
            failed[run] = reason


def _personalize(
    lab: Lab,
    grid: Grid,
    failed: dict[Run, str],
    progress: bool,
    note: Callable[[str], None],
) -> None:
    jobs: dict[Run, TrainingJob] = {}
    for run in grid:
        if run in failed:
            continue
        source, images, adapter = lab.poisoned(run), lab.preprocessed(run), lab.adapter(run)
        row = defense(run.defense)
        if images != source:
            preprocess_stage(
                lab.model, lab.load(source), row.preprocess, run.seed, images.place, images.key
            )
        training = TrainingRun(run.label, lab.load(images), row, run.seed)
        record = {**asdict(run), "defense_parts": repr(row)}
        jobs[run] = TrainingJob(
            adapter.key, without_preprocess(training, training.concept), adapter.place, record
        )
    personalize_stage(
        lab.model,
        list(jobs.values()),
        lab.settings.training,
        lab.folder / "training",
        progress=progress,
        note=note,
    )
    for run, job in jobs.items():
        if job.failed_at is not None:
            failed[run] = f"the training became NaN at step {job.failed_at}"


def _generate(
    lab: Lab,
    grid: Grid,
    failed: dict[Run, str],
    progress: bool,
    note: Callable[[str], None],
) -> None:
    jobs: dict[Run, GenerationJob] = {}
    for run in grid:
        images = lab.images(run)
        if run in failed or done(images.place, IMAGES_RECORD, images.key):
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
        return
    reasons = generate_stage(
        lab.model, list(jobs.values()), lab.settings.sampling, progress=progress
    )
    note(f"images of {len(jobs) - len(reasons)} of {len(jobs)} runs made")
    for run, job in jobs.items():
        if job.key in reasons:
            failed[run] = reasons[job.key]


def _score(lab: Lab, grid: Grid, failed: dict[Run, str], progress: bool) -> list[Row]:
    rows: list[Row] = []
    wanted = [run for run in grid if run not in failed]
    for run in tqdm(wanted, desc="scoring", unit="run", disable=not progress):
        artifact = lab.score(run)
        if not done(artifact.place, KEY_FILE, artifact.key):
            images = read_images(lab.images(run).place)
            clean = lab.concepts[run.concept]
            score_stage(lab.encoders, clean, *images, run, artifact.place, artifact.key)
        rows += read_rows(artifact.place / ROWS)
    return rows


def read_images(place: Path) -> tuple[torch.Tensor, list[str]]:
    """The images of ``generate_stage``, uint8 [n, 3, h, w], and the prompt of each."""
    record = read_json(place / IMAGES_RECORD)["images"]
    arrays = [torch.from_numpy(read_image(place / image["file"])) for image in record]
    return torch.stack(arrays).permute(0, 3, 1, 2).contiguous(), [i["prompt"] for i in record]
