"""The stage poison: concepts that get the same poison share its passes."""

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from safezone.concepts import Concept, save_concept
from safezone.lab.lab import Job, Lab
from safezone.lab.memory import POISONED, Capacity
from safezone.lab.store import Artifact
from safezone.models.base import Model
from safezone.poisons import Checkpoints, Poison, Unpoisoned, imperceptibility, poison_many


def groups(lab: Lab, jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Concepts with the same poison and seed, as many as fit into a pass, but so that all processes
    of the workspace have their share."""
    alike: dict[tuple[str, int], list[Job]] = {}
    for job in jobs:
        alike.setdefault((job.run.poison, lab.poison_seed(job.run)), []).append(job)
    for same in alike.values():
        yield from _groups(lab, same)


def _capacity(lab: Lab, poison: str, images: int) -> Capacity:
    """``images``: how many there are."""
    models = lab.poisoning
    item = sum(lab.item_bytes(model).poisoned for model in models)
    most = min(images, POISONED.on(models[0]))
    return Capacity(lab.folder, models[0], f"poison {poison}", most, item)


def _groups(lab: Lab, jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Jobs whose images fit into one pass, no more than a process's share."""
    counts = [len(lab.original(job.run.concept).images) for job in jobs]
    most = _capacity(lab, jobs[0].run.poison, sum(counts)).size
    share = math.ceil(len(jobs) / lab.sharers)
    group: list[Job] = []
    images = 0
    for job, count in zip(jobs, counts, strict=True):
        if group and (images + count > most or len(group) == share):
            yield group
            group, images = [], 0
        group.append(job)
        images += count
    yield group


def make_poisons(lab: Lab, jobs: Sequence[Job]) -> None:
    """Writes the poisoned concepts of one poison and seed; or those that were given as they are."""
    wanted: list[Unwritten] = []
    for job in jobs:
        run, artifact = job.run, job.of["poison"]
        given = lab.given.get((run.concept, run.poison))
        if given is None:
            wanted.append(Unwritten(lab.original(run.concept), artifact))
            continue
        with artifact.written({"poison": run.poison}) as folder:
            save_concept(given, folder)
    if not wanted:
        return
    run = jobs[0].run
    row, seed = lab.poison_settings(run), lab.poison_seed(run)

    def attempt(size: int) -> None:
        captured = lab.settings.training.captured
        write_poisoned(
            lab.poisoning, wanted, row, seed, batch_size=size, captured=captured, progress=False
        )

    _capacity(lab, run.poison, sum(len(each.concept.images) for each in wanted)).fit(attempt)


def _checkpoints(artifact: Artifact) -> Path:
    """The folder of a poisoned concept's checkpoints, beside it."""
    return artifact.place.absolute().with_name(f".unfinished-{artifact.place.name}")


def discard_checkpoints(artifacts: Iterable[Artifact]) -> None:
    """Of those that are written, also by an earlier process that was killed after the last file."""
    for artifact in artifacts:
        if (left := _checkpoints(artifact)).is_dir() and artifact.done:
            shutil.rmtree(left, ignore_errors=True)


@dataclass(frozen=True, eq=False)
class Unwritten:
    """A clean concept, and the artifact that shall be its poisoned one."""

    concept: Concept
    artifact: Artifact

    @property
    def clean(self) -> Unpoisoned:
        """Its images, which go on from their last checkpoint."""
        concept = self.concept
        kept = Checkpoints(_checkpoints(self.artifact), self.artifact.key)
        return Unpoisoned(concept.images, concept.image_names, concept.masks, kept)


def write_poisoned(
    models: Sequence[Model],
    wanted: Sequence[Unwritten],
    poison: Poison,
    seed: int,
    *,
    record: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    captured: bool = False,
    progress: bool = True,
) -> None:
    """Writes poisoned concepts: PNGs with their provenance, masks, words, ``manifest.json``.

    The manifest holds the settings and, for every image, PSNR, SSIM, the largest change and the
    share of values changed by just that. A process that is killed goes on from its last
    checkpoint, beside the artifact, to the same bytes.

    Raises FloatingPointError when the model's gradient breaks, UserError when the place cannot be
    written or holds something else, or when the poison needs masks and there are none.
    """
    todo = [each for each in wanted if not each.artifact.done]
    clean = [each.clean for each in todo]
    how: dict[str, Any] = {"captured": captured, "progress": progress}
    made = poison_many(models, clean, poison, seed, batch_size=batch_size, **how)
    common = {
        **poison.record(),
        "seed": seed,
        "model": " + ".join(model.name for model in models),
        "precision": " + ".join(dict.fromkeys(model.precision for model in models)),
    }

    def number(value: Tensor) -> float | None:
        return float(value) if value.isfinite() else None

    for each, images in zip(todo, made, strict=True):
        concept, poisoned = each.concept, each.concept.with_images(images)
        provenance = {**common, "key": each.artifact.key}
        measured = imperceptibility(concept.images, images)
        numbers = [
            {"image": name, **{metric: number(values[i]) for metric, values in measured.items()}}
            for i, name in enumerate(concept.image_names)
        ]
        about = {
            "content": poisoned.content_key(),
            "concept": concept.name,
            "image_size": concept.images.shape[-1],
            **(record or {}),
        }
        with each.artifact.written({**provenance, **about, "images": numbers}) as folder:
            save_concept(poisoned, folder, png_text={"safezone": json.dumps(provenance)})
    discard_checkpoints(each.artifact for each in wanted)
