"""What a figure is measured on: a model, concepts, their poisons, and what was measured before."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from safezone.analysis.latents import posterior_of
from safezone.concepts import Concept
from safezone.concepts.masks import latent_mask
from safezone.errors import UserError
from safezone.lab.cache import Cache
from safezone.lab.lab import Lab
from safezone.lab.makers import write_poisoned
from safezone.lab.run import TEXTUAL_INVERSION, Run
from safezone.lab.stage import job
from safezone.models.base import Model, Posterior
from safezone.scores import CLEAN, NOMINAL

Unit = TypeVar("Unit")


@dataclass(frozen=True)
class Scope:
    """How large a figure is made. ``poisons``, ``defenses``: none stands for the figure's own.

    ``images``: of figures 2, 4 and 10; ``moments``: further clean scenes
    for the closed form of figure 10; ``timesteps``: how many; ``rows``: random vocabulary rows
    of a sensitivity map and ``noises`` that those of figures 2, 3 and 9 are averaged over;
    ``draws``: noises for each image of a gradient; ``candidates``: images
    of which the most faithful is shown; ``at``: the training step that figures 3, 5 and 9 look at.
    """

    seed: int = 0
    images: int = 1000
    moments: int = 3000
    poisons: tuple[str, ...] = ()
    defenses: tuple[str, ...] = ()
    timesteps: int = 21
    noises: int = 4
    rows: int = 32
    draws: int = 2
    candidates: int = 4
    at: int | None = None

    def __post_init__(self) -> None:
        least = {
            "images": 2,
            "moments": 2,
            "timesteps": 2,
            "rows": 2,
            "noises": 1,
            "draws": 1,
            "candidates": 1,
        }
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise UserError(f"{name} is {getattr(self, name)}; give at least {minimum}.")
        if CLEAN in self.poisons:
            raise UserError("clean images are always shown; name poisons only.")

    def data(self, *own: str) -> list[str]:
        """``clean`` and the poisons that were asked for, else the figure's own."""
        return list(dict.fromkeys([CLEAN, *(self.poisons or own)]))


@dataclass(frozen=True, eq=False)
class Bench:
    """The lab with a cache of arrays. ``procedural``: the concepts are the built-in ones."""

    lab: Lab
    cache: Cache
    scope: Scope
    procedural: bool
    progress: bool
    note: Callable[[str], None]

    @property
    def model(self) -> Model:
        return self.lab.model

    @property
    def concepts(self) -> list[Concept]:
        return list(self.lab.concepts.values())

    @property
    def concept_count(self) -> str:
        """As in a title: 1 concept, 10 concepts."""
        count = len(self.concepts)
        return f"{count} concept{'s' * (count != 1)}"

    def run(self, concept: Concept, data: str, defense: str = NOMINAL) -> Run:
        name = self.lab.model.name
        return Run(concept.name, data, defense, TEXTUAL_INVERSION, name, self.scope.seed)

    def each(self, what: str, units: Sequence[Unit]) -> Iterator[Unit]:
        """The units, with a progress bar."""
        yield from tqdm(units, desc=what, disable=not self.progress or len(units) < 2)

    def poisoned(self, concept: Concept, data: str) -> Concept:
        """The concept with the images of ``data``, poisoned when they are missing.

        Poisons have the keys and the folder of ``safezone claim``'s. Raises UserError when the
        poison's gradient breaks.
        """
        if data == CLEAN:
            return concept
        run = self.run(concept, data)
        artifact = job(self.lab, run).of["poison"]
        if not artifact.done:
            poison, seed = self.lab.poison_settings(run), self.lab.poison_seed(run)
            try:
                write_poisoned(self.model, concept, poison, seed, artifact, progress=False)
            except FloatingPointError as error:
                raise UserError(f"{error}; use another model or poison") from error
        return self.lab.load(artifact)

    def poison_all(self, concepts: Iterable[Concept], data: Iterable[str]) -> None:
        """Makes every poison that is missing, with progress."""
        wanted = [(c, d) for c in concepts for d in data if d != CLEAN]
        todo = []
        for concept, each in wanted:
            if not job(self.lab, self.run(concept, each)).of["poison"].done:
                todo.append((concept, each))
        for concept, each in self.each("poisoning", todo):
            self.poisoned(concept, each)

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
