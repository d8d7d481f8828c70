"""A grid's runs with the keys and folders of all their stages, in one workspace."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from safezone.concepts import Concept, load_concept
from safezone.defenses import Defense, defense, fingerprints
from safezone.errors import UserError
from safezone.lab.run import Grid, Run
from safezone.lab.settings import Settings
from safezone.lab.stage import (
    IMAGES_RECORD,
    KEY_FILE,
    MANIFEST,
    RUN_RECORD,
    done,
    stage_key,
)
from safezone.lab.training import Training
from safezone.lab.variants import training_of
from safezone.models.base import Model
from safezone.poisons import Poison
from safezone.scores import CLEAN, Encoders


@dataclass(frozen=True)
class Artifact:
    """The key of one stage's result and the folder where it is or will be."""

    key: str
    place: Path


@lru_cache(maxsize=256)
def _unopened(name: str, model: Any) -> str | None:
    """Why the networks that the defense needs cannot be opened."""
    try:
        fingerprints(defense(name).preprocess, model)
    except UserError as error:
        return str(error)
    return None


@dataclass(frozen=True, eq=False)
class Lab:
    """Everything that the keys of a grid's stages depend on.

    ``folder``: the workspace. ``model_key``: the hash of the model's weights. ``concepts``: the
    clean concepts by name, at the model's size. ``unreadable``: why other concepts of the data set
    could not be read; their runs fail with that reason. Random streams: a poison's seed is the
    run's, or ``settings.cells.poison_seed`` for all seeds; training and generation have the run's.
    """

    folder: Path
    model: Model
    model_key: str
    encoders: Encoders
    settings: Settings
    concepts: Mapping[str, Concept]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    _known: dict[tuple[str, ...], Artifact] = field(default_factory=dict, init=False, repr=False)
    """Clean and poisoned concepts by name, whose keys need the images' bytes: asked for often."""

    def _place(self, stage: str, label: str, key: str) -> Artifact:
        return Artifact(key, self.folder / stage / f"{label}-{key[:16]}")

    def refused(self, run: Run) -> str | None:
        """Why the run cannot begin: its concept, or a network of its defense, cannot be read."""
        if run.concept in self.unreadable:
            return self.unreadable[run.concept]
        model: Any = self.model
        return _unopened(run.defense, model)

    def poison_settings(self, run: Run) -> Poison:
        return self.settings.poisoning.poison(run.poison)

    def poison_seed(self, run: Run) -> int:
        fixed = self.settings.cells.poison_seed
        return run.seed if fixed is None else fixed

    def training(self, run: Run) -> Training:
        """The settings, with those that the method's name carries."""
        return training_of(self.settings.training, run.method, self.settings.model)

    def clean(self, run: Run) -> Artifact:
        if (run.concept,) not in self._known:
            key = self.concepts[run.concept].content_key()
            self._known[(run.concept,)] = self._place("clean", run.concept, key)
        return self._known[(run.concept,)]

    def poisoned(self, run: Run) -> Artifact:
        """The images that the trainer is given; of a clean run the clean ones."""
        clean = self.clean(run)
        if run.poison == CLEAN:
            return clean
        seed = self.poison_seed(run)
        name = (run.concept, run.poison, str(seed))
        if name not in self._known:
            poison = self.poison_settings(run)
            key = stage_key("poison", self.model_key, clean.key, poison, seed)
            self._known[name] = self._place("poison", ",".join(name), key)
        return self._known[name]

    def preprocessed(self, run: Run) -> Artifact:
        """The images after the first part of the defense."""
        poisoned, row = self.poisoned(run), defense(run.defense)
        if row.preprocess == Defense("").preprocess:
            return poisoned
        keys = fingerprints(row.preprocess, self.model)
        key = stage_key("preprocess", poisoned.key, row.preprocess, run.seed, *keys)
        return self._place("preprocess", f"{run.concept},{run.poison},{run.seed}", key)

    def adapter(self, run: Run) -> Artifact:
        row, method = defense(run.defense), self.training(run).personalization()
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


STAGES = ("poison", "preprocess", "personalize", "generate", "score")
"""In the order in which data go through them."""


def artifacts(lab: Lab, grid: Grid) -> dict[str, tuple[set[Artifact], str]]:
    """What every stage of the grid makes, and the file that says that it is made."""
    runs = [run for run in grid if lab.refused(run) is None]
    changed = {a for r in runs if (a := lab.preprocessed(r)) != lab.poisoned(r)}
    return {
        "poison": ({lab.poisoned(r) for r in runs if r.poison != CLEAN}, MANIFEST),
        "preprocess": (changed, MANIFEST),
        "personalize": ({lab.adapter(r) for r in runs}, RUN_RECORD),
        "generate": ({lab.images(r) for r in runs}, IMAGES_RECORD),
        "score": ({lab.score(r) for r in runs}, KEY_FILE),
    }


def plan(lab: Lab, grid: Grid) -> dict[str, tuple[int, int]]:
    """(done, all) of every stage; nothing is made."""
    return {
        stage: (sum(done(a.place, record, a.key) for a in made), len(made))
        for stage, (made, record) in artifacts(lab, grid).items()
    }
