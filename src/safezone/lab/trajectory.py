"""Trainings whose token vectors are kept at ten marks on the way, not only at the end."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from safezone.concepts import Concept
from safezone.defenses import defense, fingerprints
from safezone.errors import UserError
from safezone.files import cannot_write, write_safetensors
from safezone.lab.bench import Bench
from safezone.lab.run import TEXTUAL_INVERSION, content_key
from safezone.lab.stage import job
from safezone.lab.variants import PAPER_STEPS
from safezone.personalize import (
    Adapter,
    PreparedRun,
    TextualInversion,
    TrainingRun,
    read_adapter,
    train,
)

MARKS: Final = 10
"""Between the start and the end of a training, the end included."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One training: the clean concept, the data it is trained on, the defense."""

    concept: Concept
    data: str
    defense: str = "nominal"

    @property
    def label(self) -> str:
        """A name that is unique among a figure's trainings."""
        return f"{self.concept.name},{self.data},{self.defense}"


@dataclass(frozen=True, eq=False)
class Trajectory:
    """``vectors``: float32 [marks, k, width], after ``steps`` optimiser steps, 0 the first."""

    steps: list[int]
    vectors: Float[Tensor, "marks k width"]

    def nearest(self, step: int) -> int:
        """The index of the mark that is nearest to a step."""
        return min(range(len(self.steps)), key=lambda i: abs(self.steps[i] - step))


def _marks(method: TextualInversion) -> tuple[TextualInversion, list[int]]:
    every = max(1, method.steps // MARKS)
    steps = [0, *range(every, method.steps + 1, every)]
    return replace(method, preview_every=every), steps


def _short_trainings(
    bench: Bench, cells: Sequence[Cell], method: TextualInversion, at: int
) -> dict[str, Trajectory] | None:
    """Start and step ``at`` from trainings that ended there, as those of ``grid run figure5``.

    None unless there is one of every cell. Under a constant learning rate they are the beginning
    of longer ones: what a training draws depends on its seed, concept and step.
    """
    if method.schedule != "constant":
        return None
    paper = f"{PAPER_STEPS * at / method.steps:g}"
    steps = f"{paper.removesuffix('000')}k" if paper.endswith("000") else paper
    found = {}
    for cell in cells:
        run = replace(
            bench.run(cell.concept, cell.data, cell.defense),
            method=f"{TEXTUAL_INVERSION}; steps={steps}",
        )
        made = job(bench.lab, run).of["personalize"]
        ended = bench.lab.training(run).steps
        if ended != at or not made.done:
            return None
        adapter = read_adapter(made.place)
        if adapter.failed:
            return None
        row = defense(cell.defense)
        training = PreparedRun(cell.label, cell.concept, row.timesteps, row.loss_mask, run.seed)
        start = method.inject(bench.model, [training]).initial["vectors"][0].detach().cpu()
        found[cell.label] = Trajectory([0, at], torch.stack([start, adapter.vectors.to(start)]))
    return found


def trajectories(
    bench: Bench, cells: Sequence[Cell], at: int | None = None
) -> dict[str, Trajectory]:
    """The trajectories of all cells by label; missing ones are trained together.

    ``at``: the only step beside the start that is looked at, for which a grid's short trainings
    are taken where they are there. Killed and started again, a training goes on from its last
    checkpoint. Raises UserError for a training that becomes NaN and for ``at`` beyond its end.
    """
    settings = bench.lab.settings.training
    learned = settings.personalization()
    if not isinstance(learned, TextualInversion):
        raise UserError(
            f"The figure follows the vectors of textual inversion; --method is {settings.method}."
        )
    if at is not None and not 0 <= at <= learned.steps:
        raise UserError(f"--at is {at}; the training has {learned.steps} steps, give 0 to that.")
    method, steps = _marks(learned)
    if at is not None and (short := _short_trainings(bench, cells, learned, at)) is not None:
        return short
    bench.poison_all({c.concept.name: c.concept for c in cells}.values(), {c.data for c in cells})
    runs, places = [], {}
    for cell in cells:
        images, row = bench.poisoned(cell.concept, cell.data), defense(cell.defense)
        keys = fingerprints(row.preprocess, bench.model)
        parts = (images.content_key(), repr(row), keys, bench.scope.seed, method.content())
        places[cell.label] = bench.cache.place("vectors", bench.lab.model_key, *parts, steps)
        runs.append(TrainingRun(cell.label, images, row, bench.scope.seed))
    todo = [run for run in runs if not places[run.key].is_file()]
    for start in range(0, len(todo), settings.runs_per_pass):
        group = todo[start : start + settings.runs_per_pass]
        prepared = [run.prepare(bench.model) for run in group]
        found = _trained(bench, prepared, method, steps, [places[run.key] for run in group])
        for run, vectors in zip(group, found, strict=True):
            write_safetensors(places[run.key], {"vectors": vectors})
    read = {label: bench.cache.arrays(place, _missing) for label, place in places.items()}
    return {label: Trajectory(steps, arrays["vectors"]) for label, arrays in read.items()}


def _missing() -> dict[str, Tensor]:
    raise AssertionError("every training was written")


def _trained(
    bench: Bench,
    runs: Sequence[PreparedRun],
    method: TextualInversion,
    steps: Sequence[int],
    places: Sequence[Path],
) -> list[Float[Tensor, "marks k width"]]:
    """The vectors of the runs at all marks, from one training in a folder of its own."""
    folder = bench.cache.folder / f"training-{content_key(*(p.name for p in places))[:16]}"
    marks = [folder / f"mark-{step}.safetensors" for step in steps]

    def keep(step: int, adapters: list[Adapter]) -> None:
        write_safetensors(
            folder / f"mark-{step}.safetensors",
            {str(i): adapter.vectors.contiguous() for i, adapter in enumerate(adapters)},
        )

    if not marks[0].is_file():
        start = method.inject(bench.model, runs).initial["vectors"].detach().cpu()
        write_safetensors(marks[0], {str(i): v.contiguous() for i, v in enumerate(start)})
    try:
        adapters = train(bench.model, runs, method, folder, progress=bench.progress, preview=keep)
        if not all(mark.is_file() for mark in marks):  # killed between a checkpoint and its mark
            (folder / "checkpoint.safetensors").unlink()
            adapters = train(
                bench.model, runs, method, folder, progress=bench.progress, preview=keep
            )
    except (OSError, SafetensorError) as error:
        raise cannot_write(folder, error) from error
    for run, adapter in zip(runs, adapters, strict=True):
        if adapter.failed:
            raise UserError(
                f"the training of {run.key} became NaN at step {adapter.provenance['failed_at']}; "
                "lower the learning rate"
            )
    arrays = [load_file(mark) for mark in marks]
    shutil.rmtree(folder, ignore_errors=True)
    return [torch.stack([each[str(i)] for each in arrays]) for i in range(len(runs))]
