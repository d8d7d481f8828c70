"""The stages poison, preprocess, personalize, generate, score: each from a key to a folder.

A folder whose record carries the key is done and is passed over; any other is refused. Folders
appear whole or not at all, so a process that is killed at any moment and started again does only
what is missing, and gives the same bytes.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor
from tqdm.auto import tqdm

from safezone.concepts import Concept, save_concept
from safezone.concepts.prompts import fill
from safezone.defenses import Preprocess, preprocessed
from safezone.errors import UserError, WorkspaceError
from safezone.files import read_json, whole_folder, write_json
from safezone.generate import generate
from safezone.images import write_png
from safezone.lab.run import Run, content_key
from safezone.lab.settings import Sampling
from safezone.lab.turns import in_turn
from safezone.models.base import Model
from safezone.personalize import Adapter
from safezone.poisons import Checkpoints, Poison, imperceptibility, poison_concept
from safezone.scores import Encoders, Pictures, Row, score_images, write_rows

VERSIONS: Final[Mapping[str, int]] = {
    "poison": 2,
    "preprocess": 2,
    "personalize": 3,
    "generate": 1,
    "score": 1,
}
"""Part of every key of a stage; raised when the same inputs no longer give the same artifact."""

MANIFEST: Final = "manifest.json"
RUN_RECORD: Final = "run.json"
IMAGES_RECORD: Final = "images.json"
ROWS: Final = "rows.jsonl"
KEY_FILE: Final = "key.json"


def stage_key(stage: str, *parts: Any) -> str:
    """The content key of one artifact of the stage."""
    return content_key(stage, VERSIONS[stage], *parts)


def done(place: Path, record: str, key: str) -> bool:
    """Whether ``place`` holds the artifact of this key.

    Raises UserError when it is something else that is not empty.
    """
    if (place / record).is_file():
        if read_json(place / record).get("key") == key:
            return True
        raise WorkspaceError(
            f"{place} was made with other settings or images; choose another --out or remove it"
        )
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise WorkspaceError(f"{place} exists and is not empty; choose another place or remove it")
    return False


def artifact_folder(place: Path, record: str, key: str) -> AbstractContextManager[Path]:
    """``whole_folder`` for the artifact of this key, which another process may make meanwhile."""
    return whole_folder(place, lambda: done(place, record, key))


def _json_number(value: float) -> float | None:
    return value if value == value and abs(value) != float("inf") else None


def poison_stage(
    model: Model,
    concept: Concept,
    poison: Poison,
    seed: int,
    place: Path,
    key: str,
    *,
    record: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    progress: bool = True,
) -> None:
    """Writes the poisoned concept: PNGs with their provenance, masks, words, ``manifest.json``.

    The manifest holds the settings and, for every image, PSNR, SSIM, the largest change and the
    share of values changed by just that. A process that is killed goes on from its last
    checkpoint, beside ``place``, to the same bytes.

    Raises FloatingPointError when the model's gradient breaks, UserError when ``place`` cannot be
    written or holds something else, or when the poison needs masks and there are none.
    """
    if done(place, MANIFEST, key):
        return
    unfinished = place.absolute().with_name(f".unfinished-{place.name}")
    poisoned = poison_concept(
        model,
        concept,
        poison,
        seed,
        batch_size=batch_size,
        progress=progress,
        checkpoints=Checkpoints(unfinished, key),
    )
    provenance = {**poison.record(), "seed": seed, "model": model.name, "key": key}
    measured = imperceptibility(concept.images, poisoned.images)
    images = [
        {"image": name, **{metric: _json_number(float(v[i])) for metric, v in measured.items()}}
        for i, name in enumerate(concept.image_names)
    ]
    with artifact_folder(place, MANIFEST, key) as temporary:
        save_concept(poisoned, temporary, png_text={"safezone": json.dumps(provenance)})
        write_json(
            temporary / MANIFEST,
            {
                **provenance,
                "concept": concept.name,
                "image_size": concept.images.shape[-1],
                **(record or {}),
                "images": images,
            },
        )
    shutil.rmtree(unfinished, ignore_errors=True)


def preprocess_stage(
    model: Model, concept: Concept, preprocess: Preprocess, seed: int, place: Path, key: str
) -> None:
    """Writes the concept as the trainer will see it, with ``manifest.json``.

    ``model``: the one that is personalized, which purifiers work with.
    """
    if done(place, MANIFEST, key):
        return
    with artifact_folder(place, MANIFEST, key) as temporary:
        save_concept(preprocessed(concept, preprocess, seed, model), temporary)
        write_json(temporary / MANIFEST, {"key": key, "preprocess": repr(preprocess), "seed": seed})


@dataclass(frozen=True, eq=False)
class GenerationJob:
    """The images of one adapter: where they go and what is recorded beside them."""

    key: str
    adapter: Adapter
    noise_key: str
    seed: int
    place: Path
    record: Mapping[str, Any]

    @property
    def done(self) -> bool:
        return done(self.place, IMAGES_RECORD, self.key)


def _pass_size(images: int, most: int) -> int:
    """The largest divisor up to ``most``: adapters never share a pass, so each is as if alone."""
    return max(size for size in range(1, min(images, most) + 1) if images % size == 0)


def generate_stage(
    model: Model,
    jobs: Sequence[GenerationJob],
    sampling: Sampling,
    *,
    images_per_pass: int = 32,
    progress: bool = True,
) -> dict[str, str]:
    """Writes the images of all jobs that are missing: PNGs and ``images.json``.

    ``images_per_pass``: at most so many in one pass through the model.

    Returns, by key, why images could not be made (the model made NaN).
    """
    prompts, count = sampling.texts(), sampling.images_per_prompt
    todo = {job.place: job for job in jobs if not job.done}
    total = len(todo) * len(prompts) * count
    failures = {}
    bar = tqdm(total=total, desc="generating", unit="image", disable=not progress)
    with bar, closing(in_turn(todo)) as turns:
        for place in turns:
            job = todo[place]
            bar.update(len(prompts) * count)
            if job.done:  # by another process
                continue
            try:
                (images,) = generate(
                    model,
                    [job.adapter],
                    prompts,
                    count,
                    seed=job.seed,
                    noise_keys=[job.noise_key],
                    steps=sampling.steps,
                    guidance=sampling.guidance,
                    scheduler=sampling.scheduler,
                    batch_size=_pass_size(len(prompts) * count, images_per_pass),
                    progress=False,
                )
            except UserError as error:
                if "NaN" not in str(error):
                    raise
                failures[job.key] = str(error)
                continue
            _write_images(job, images, prompts, sampling)
    return failures


def _write_images(
    job: GenerationJob, images: Tensor, prompts: Sequence[str], sampling: Sampling
) -> None:
    count = sampling.images_per_prompt
    texts = [fill(prompt, job.adapter.placeholder) for prompt in prompts for _ in range(count)]
    names = [f"{p:02d}-{k}.png" for p in range(len(prompts)) for k in range(count)]
    with artifact_folder(job.place, IMAGES_RECORD, job.key) as temporary:
        for name, image, text in zip(names, images, texts, strict=True):
            write_png(temporary / name, image, {"prompt": text})
        write_json(
            temporary / IMAGES_RECORD,
            {
                **job.record,
                "key": job.key,
                "seed": job.seed,
                "placeholder": job.adapter.placeholder,
                "class_word": job.adapter.class_word,
                "settings": asdict(sampling),
                "images": [
                    {"file": name, "prompt": text} for name, text in zip(names, texts, strict=True)
                ],
            },
        )


def score_images_of(
    encoders: Encoders,
    clean: Concept,
    images: Tensor,
    prompts: Sequence[str],
    run: Run,
) -> list[Row]:
    """The rows of one run. ``images``: uint8 [n, 3, h, w], described by ``prompts`` one by one."""
    pictures = Pictures(images, prompts, clean.images, clean.class_word, clean.placeholder)
    cell = (run.concept, run.poison, run.defense, run.method, run.model, run.seed)
    return [Row(*cell, *score) for score in score_images(pictures, encoders.by_slot)]


def score_stage(
    encoders: Encoders,
    clean: Concept,
    images: Tensor,
    prompts: Sequence[str],
    run: Run,
    place: Path,
    key: str,
) -> None:
    """Writes the rows of one run, ``rows.jsonl``."""
    rows = score_images_of(encoders, clean, images, prompts, run)
    with artifact_folder(place, KEY_FILE, key) as temporary:
        write_rows(temporary / ROWS, rows)
        write_json(temporary / KEY_FILE, {"key": key})
