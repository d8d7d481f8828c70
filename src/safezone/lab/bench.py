"""What a figure is measured on: a lab, how large the figure is, and what was measured before.

The stage ``measure``: arrays that figures and analyses are drawn from, measured once.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from tqdm.auto import tqdm

from safezone.analysis.timesteps import posterior_of
from safezone.concepts import Concept
from safezone.concepts.masks import latent_mask
from safezone.errors import UserError
from safezone.files import write_safetensors
from safezone.lab.lab import Job, Lab
from safezone.lab.run import TEXTUAL_INVERSION, Grid, Run
from safezone.lab.schedule import make
from safezone.lab.settings import BenchScope
from safezone.lab.stage import job, named
from safezone.lab.store import turn
from safezone.lab.variants import PAPER_STEPS
from safezone.models.base import Model, Posterior
from safezone.personalize import History, read_history
from safezone.personalize.adapters import mark_steps
from safezone.scores import CLEAN, NOMINAL

ARRAYS: Final = "arrays.safetensors"
"""The file in a measurement's folder."""

Unit = TypeVar("Unit")


@dataclass(frozen=True, eq=False)
class Measures:
    """The measurements of a work folder with one model, whose weights are in every key."""

    work: Path
    model: Model

    @cached_property
    def model_key(self) -> str:
        return self.model.fingerprint()

    def arrays(
        self, label: str, compute: Callable[[], Mapping[str, Tensor]], *parts: Any
    ) -> dict[str, Tensor]:
        """What ``compute`` measures, or has measured before under the key of these ``parts``.

        Of several processes that ask for the same at once, one measures and the others wait.
        Raises UserError when a file is damaged or cannot be written.
        """
        artifact = named("measure").artifact(self.work, label, label, self.model_key, *parts)
        if not artifact.done:
            with turn(artifact.place, wait=True):
                if not artifact.done:
                    arrays = compute()
                    with artifact.written({}) as folder:
                        write_safetensors(folder / ARRAYS, arrays)
        try:
            return load_file(artifact.place / ARRAYS)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{artifact.place / ARRAYS} is damaged; remove its folder") from error


@dataclass(frozen=True, eq=False)
class Bench:
    """``procedural``: the concepts are the built-in ones."""

    lab: Lab
    scope: BenchScope
    procedural: bool
    progress: bool
    note: Callable[[str], None]

    @property
    def model(self) -> Model:
        return self.lab.model

    @cached_property
    def measures(self) -> Measures:
        return Measures(self.lab.folder, self.lab.model)

    @property
    def concepts(self) -> list[Concept]:
        return list(self.lab.concepts.values())

    @property
    def concept_count(self) -> str:
        """As in a title: 1 concept, 10 concepts."""
        count = len(self.concepts)
        return f"{count} concept{'s' * (count != 1)}"

    def run(self, concept: Concept, data: str, defense: str = NOMINAL) -> Run:
        cell = (concept.name, data, defense, TEXTUAL_INVERSION)
        return Run(*cell, self.model.name, self.scope.seed)

    def each(self, what: str, units: Sequence[Unit]) -> Iterator[Unit]:
        """The units, with a progress bar."""
        yield from tqdm(units, desc=what, disable=not self.progress or len(units) < 2)

    def made(self, runs: Iterable[Run], last: str) -> dict[Run, Job]:
        """The runs, brought through the lab's stages up to the ``last``.

        With the keys and in the folders of claims and grids. Raises UserError for one that fails.
        """
        grid = Grid.of("figure", runs)
        failed = make(self.lab, grid, last=last, progress=self.progress, note=self.note)
        if failed:
            run, reason = next(iter(failed.items()))
            raise UserError(f"{run.label} failed: {reason}; choose other settings")
        return {run: job(self.lab, run) for run in grid}

    def poison_all(self, concepts: Iterable[Concept], data: Iterable[str]) -> None:
        self.made([self.run(c, d) for c in concepts for d in data if d != CLEAN], "poison")

    def poisoned(self, concept: Concept, data: str) -> Concept:
        """The concept with the images of ``data``, which are made when they are missing."""
        if data == CLEAN:
            return concept
        run = self.run(concept, data)
        return self.lab.load(self.made([run], "poison")[run].of["poison"])

    def marks(self, *paper: int) -> list[int]:
        """The steps that were asked for; else those of a training that are nearest to the paper's.

        ``paper``: of the paper's 5000 steps.
        """
        steps = self.lab.settings.training.steps
        marks = mark_steps(steps)
        own = {min(marks, key=lambda k: abs(k - steps * each / PAPER_STEPS)) for each in paper}
        return sorted({*self.scope.marks} or own)

    def begun_is_enough(self, steps: Sequence[int]) -> bool:
        """Whether these steps need no more than the beginning of a training.

        That is so for a single one under a constant rate. Raises UserError for a step that is not
        kept or beyond the training's end.
        """
        training = self.lab.settings.training
        last = max(steps)
        if last > training.steps:
            raise UserError(f"The training has {training.steps} steps; {last} is beyond its end.")
        if last > 0 and set(steps) <= {0, last} and training.schedule == "constant":
            return True
        marks = mark_steps(training.steps)
        for step in sorted(set(steps) - set(marks)):
            raise UserError(
                f"No vectors are kept of step {step}: a training of {training.steps} steps keeps "
                f"every {marks[1]}th; give one of those."
            )
        return False

    def histories(self, runs: Sequence[Run], steps: Sequence[int]) -> dict[Run, History]:
        """The learned vectors of textual inversion on the way; missing trainings are made.

        ``steps``: at which they are wanted; where the beginning is enough it is trained as ``grid
        run figure5`` does, unless the whole is there. Raises UserError as ``begun_is_enough`` does.
        """
        total, last = self.lab.settings.training.steps, max(steps)
        trained = {run: run for run in runs}
        if self.begun_is_enough(steps) and not (
            last in mark_steps(total)
            and all(job(self.lab, run).of["personalize"].done for run in runs)
        ):
            paper = f"{PAPER_STEPS * last / total:g}"
            short = f"{paper.removesuffix('000')}k" if paper.endswith("000") else paper
            name = f"{TEXTUAL_INVERSION}; steps={short}"
            trained = {run: replace(run, method=name) for run in runs}
        made = self.made(trained.values(), "personalize")
        return {r: read_history(made[t].of["personalize"].place) for r, t in trained.items()}

    def posterior(self, concept: Concept) -> Posterior:
        """The posteriors of a concept's images, on the model's device."""
        return posterior_of(self.model, concept.images)

    def masks(self, concept: Concept) -> Float[Tensor, "images h w"]:
        """The object's masks at latent size, 0 and 1; UserError when there are none."""
        if concept.masks is None:
            raise UserError(
                f"{concept.name} has no masks, which this figure needs; make them with "
                "`safezone mask`"
            )
        return latent_mask(concept.masks, self.model.factor)[:, 0]
