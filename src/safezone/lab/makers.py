"""How each stage but training makes one artifact: from a job to a folder, whole or not there."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import UInt8
from torch import Tensor
from tqdm.auto import tqdm

from safezone.concepts import save_concept
from safezone.concepts.prompts import fill
from safezone.defenses import preprocessed
from safezone.errors import UserError, WorkspaceError
from safezone.files import write_safetensors
from safezone.generate import MadeNaN
from safezone.generate import generate as draw
from safezone.images import read_image, write_png
from safezone.lab.cost import images_of
from safezone.lab.lab import Failures, Job, Lab, Note
from safezone.lab.memory import DRAWN, Capacity, OutOfMemory
from safezone.lab.run import Run
from safezone.lab.settings import Sampling
from safezone.lab.store import IMAGES_RECORD, ROWS_FILE, Artifact, in_turn, together
from safezone.models.base import Model
from safezone.personalize import Adapter, read_adapter
from safezone.reading import own_fault, read_json
from safezone.scores import CLEAN, Encoders, Pictures, Row, score_images, write_rows

OF_ONE_RUN: Final = (UserError, FloatingPointError, OutOfMemory)
"""What stops one run and not the others, unless the workspace itself is at fault."""


def failure_reason(error: Exception) -> str:
    """Why one run failed, also by a fault in a user's own file; raises what concerns all of them,
    such as a full disk."""
    if isinstance(error, OF_ONE_RUN) and not isinstance(error, WorkspaceError):
        return str(error)
    if (reason := own_fault(error)) is None:
        raise error
    return reason


MakeGroup = Callable[[Lab, Sequence[Job]], None]
"""Makes the artifacts of jobs that belong together."""


def in_groups(
    stage: str,
    groups: Callable[[Lab, Sequence[Job]], Iterable[Sequence[Job]]],
    make: MakeGroup,
    lab: Lab,
    jobs: Sequence[Job],
    among: Sequence[Job],
    *,
    wait: bool,
    progress: bool,
    note: Note,
) -> Failures:
    """Makes what is missing, each group by one of the processes that share the workspace.

    See ``Make``. Where a group fails, each of its jobs alone, so that only the guilty ones fail.
    """
    todo = {a.place: job for job in jobs if not (a := job.of[stage]).done}
    places = [[job.of[stage].place for job in group] for group in groups(lab, list(todo.values()))]
    failed: Failures = {}

    def attempt(group: Sequence[Job]) -> None:
        try:
            if left := [job for job in group if not job.of[stage].done]:
                make(lab, left)
        except Exception as error:
            reason = failure_reason(error)
            if len(group) == 1:
                failed[group[0].run] = reason
            else:
                for job in group:
                    attempt([job])

    bar = tqdm(total=len(todo), desc=stage, disable=not progress or not todo)
    with bar, closing(together(places, wait=wait)) as turns:
        for ours in turns:
            attempt([todo[place] for place in ours])
            bar.update(len(ours))
    done = sum(job.of[stage].done for job in among)
    if todo and (wait or done + len(failed) == len(among)):  # else it is told in the end
        note(f"{stage}: {done} of {len(among)} made")
    return failed


def one_by_one(
    stage: str,
    make: Callable[[Lab, Job], None],
    lab: Lab,
    jobs: Sequence[Job],
    among: Sequence[Job],
    **how: Any,
) -> Failures:
    """``in_groups`` of one job each."""

    def groups(lab: Lab, jobs: Sequence[Job]) -> Iterable[Sequence[Job]]:
        return ([job] for job in jobs)

    def alone(lab: Lab, group: Sequence[Job]) -> None:
        (job,) = group
        make(lab, job)

    return in_groups(stage, groups, alone, lab, jobs, among, **how)


def clean(lab: Lab, job: Job) -> None:
    """Writes the concept as it was given, which later stages refer to."""
    with job.of["clean"].written({}) as folder:
        save_concept(lab.concepts[job.run.concept], folder)


def preprocess(lab: Lab, job: Job) -> None:
    """Writes the concept as the trainer will see it."""
    first, seed = lab.defense(job.run).preprocess, job.run.seed
    concept = lab.load(job.of["poison"])
    with job.of["preprocess"].written({"preprocess": repr(first), "seed": seed}) as folder:
        save_concept(preprocessed(concept, first, seed, lab.purifying), folder)


@dataclass(frozen=True, eq=False)
class DrawingJob:
    """The images of one adapter: from which noise, where they go, what is recorded beside them."""

    artifact: Artifact
    adapter: Adapter
    noise_key: str
    seed: int
    record: Mapping[str, Any]


def about_images(lab: Lab, job: Job) -> dict[str, Any]:
    """What the record of a run's images says of it: its cell, the clean and the trained images, the
    adapter's folder."""
    place = job.of["generate"].place
    stages = {"clean": "clean", "training": "poison", "embedding": "personalize"}
    beside = {name: os.path.relpath(job.of[each].place, place) for name, each in stages.items()}
    return asdict(job.run) | beside


def _images_a_pass(lab: Lab) -> Capacity:
    item = lab.item_bytes(lab.model).drawn
    return Capacity(lab.folder, lab.model, "generate", DRAWN.on(lab.model), item)


def drawing_groups(lab: Lab, jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
    """Adapters whose images share passes: as many as fit, but no more than a process's share."""
    fit = _images_a_pass(lab).size // images_of(lab)
    by_seed: dict[int, list[Job]] = {}
    for job in jobs:
        by_seed.setdefault(job.run.seed, []).append(job)
    for same in by_seed.values():
        most = max(1, min(fit, math.ceil(len(same) / lab.sharers)))
        yield from (same[start : start + most] for start in range(0, len(same), most))


def make_images(lab: Lab, jobs: Sequence[Job]) -> None:
    """Writes the images of the jobs' adapters, all of one seed, in passes that fit into memory."""
    drawings = [
        DrawingJob(
            job.of["generate"],
            read_adapter(job.of["personalize"].place),
            job.run.concept,
            job.run.seed,
            about_images(lab, job),
        )
        for job in jobs
    ]
    settings = lab.settings

    def attempt(size: int) -> None:
        write_images(lab.model, drawings, settings.sampling, size, settings.training.captured)

    _images_a_pass(lab).fit(attempt)


def generate_all(
    model: Model,
    drawings: Sequence[DrawingJob],
    sampling: Sampling,
    *,
    captured: bool = False,
    progress: bool = True,
) -> dict[Path, str]:
    """Writes the images that are missing; returns, by place, why some could not be made."""
    todo = {each.artifact.place: each for each in drawings if not each.artifact.done}
    count = len(sampling.texts()) * sampling.images_per_prompt
    failures = {}
    bar = tqdm(total=len(todo) * count, desc="generating", unit="image", disable=not progress)
    with bar, closing(in_turn(todo)) as turns:
        for place in turns:
            try:
                write_images(model, [todo[place]], sampling, captured=captured)
            except MadeNaN as error:
                failures[place] = str(error)
            bar.update(count)
    return failures


def write_images(
    model: Model,
    drawings: Sequence[DrawingJob],
    sampling: Sampling,
    most: int = 32,
    captured: bool = False,
) -> None:
    """Writes PNGs and ``images.json`` of each, at most so many images in one pass.

    All have the same seed. ``captured``: as in ``generate``.

    Raises MadeNaN when the model makes NaN.
    """
    todo = [drawing for drawing in drawings if not drawing.artifact.done]
    if not todo:
        return
    prompts, count = sampling.texts(), sampling.images_per_prompt
    total = len(todo) * len(prompts) * count
    drawn = draw(
        model,
        [drawing.adapter for drawing in todo],
        prompts,
        count,
        seed=todo[0].seed,
        noise_keys=[drawing.noise_key for drawing in todo],
        steps=sampling.steps,
        guidance=sampling.guidance,
        guidance_rescale=sampling.guidance_rescale,
        scheduler=sampling.scheduler,
        batch_size=_pass_size(total, most, captured),
        captured=captured,
        progress=False,
    )
    for drawing, images in zip(todo, drawn, strict=True):
        _write_drawn(model, drawing, sampling, images)


def _pass_size(total: int, most: int, captured: bool) -> int:
    """Of as few passes as there can be; captured ones have one size, to be captured once."""
    if captured:
        return max(n for n in range(1, min(total, most) + 1) if total % n == 0)
    return -(-total // -(-total // most))


def _write_drawn(
    model: Model, drawing: DrawingJob, sampling: Sampling, images: UInt8[Tensor, "n 3 height width"]
) -> None:
    """Writes the images of one adapter, with what they show and what they were made with."""
    prompts, count, adapter = sampling.texts(), sampling.images_per_prompt, drawing.adapter
    texts = [fill(prompt, adapter.words) for prompt in prompts for _ in range(count)]
    names = [f"{p:02d}-{k}.png" for p in range(len(prompts)) for k in range(count)]
    listed = [{"file": name, "prompt": text} for name, text in zip(names, texts, strict=True)]
    unseen = model.unseen(texts, adapter.placeholder or None, max(1, len(adapter.vectors)))
    record = {
        **drawing.record,
        **({"unseen": unseen} if unseen else {}),
        "seed": drawing.seed,
        "precision": model.precision,
        "placeholder": adapter.placeholder,
        "words": adapter.words,
        "class_word": adapter.class_word,
        "settings": asdict(sampling),
        "images": listed,
    }
    with drawing.artifact.written(record) as folder:
        for name, image, text in zip(names, images, texts, strict=True):
            write_png(folder / name, image, {"prompt": text})


def read_images(place: Path) -> tuple[Tensor, list[str]]:
    """The images of ``generate``, uint8 [n, 3, h, w], and the prompt of each."""
    record = read_json(place / IMAGES_RECORD)["images"]
    arrays = [torch.from_numpy(read_image(place / image["file"])) for image in record]
    return torch.stack(arrays).permute(0, 3, 1, 2).contiguous(), [i["prompt"] for i in record]


def learned_word(record: Mapping[str, Any]) -> str:
    """What stands for the object in the prompts of an ``images.json``: the placeholder, or a
    LoRA's words, which have none."""
    placeholder, words = str(record["placeholder"]), str(record.get("words", ""))
    return words if placeholder not in words and words else placeholder


def score_rows(
    encoders: Encoders, pictures: Pictures, run: Run, poison_model: str = ""
) -> list[Row]:
    """The rows of one run. ``poison_model``: what its poison was made on, if another model."""
    scores = score_images(pictures, encoders.by_slot)
    return [Row(**asdict(run), **score._asdict(), poison_model=poison_model) for score in scores]


def score(lab: Lab, job: Job) -> None:
    """Writes the rows of one run, ``rows.jsonl``, and what encoders keep for many runs."""
    images, prompts = read_images(job.of["generate"].place)
    clean, learned = lab.concepts[job.run.concept], {}
    if "token" in lab.encoders:
        vectors = read_adapter(job.of["personalize"].place).vectors
        learned = {"vectors": vectors, "word_vectors": lab.model.word_vectors(clean.class_word)}
    word = learned_word(read_json(job.of["generate"].place / IMAGES_RECORD))
    pictures = Pictures(images, prompts, clean.images, clean.class_word, word, **learned)
    carried = job.run.poison != CLEAN and lab.poisoning != (lab.model,)
    made_on = " + ".join(model.name for model in lab.poisoning) if carried else ""
    rows = score_rows(lab.encoders, pictures, job.run, made_on)
    features = lab.encoders.kept(pictures)
    with job.of["score"].written({}) as folder:
        write_rows(folder / ROWS_FILE, rows)
        for name, tensors in features.items():
            write_safetensors(folder / f"{name}.safetensors", tensors)
