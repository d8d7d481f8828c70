"""Lab: everything that the keys of a grid's runs depend on; Job: one run with its artifacts."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from safezone.concepts import Concept, load_concept
from safezone.defenses import Defense, defense, fingerprints
from safezone.errors import UserError
from safezone.lab.memory import ItemBytes
from safezone.lab.run import Run
from safezone.lab.settings import Settings
from safezone.lab.store import Artifact
from safezone.lab.training import Training
from safezone.lab.variants import training_of
from safezone.models.base import Model
from safezone.poisons import Poison
from safezone.scores import Encoders

Note: TypeAlias = Callable[[str], None]
Value = TypeVar("Value")
Failures: TypeAlias = dict[Run, str]
"""Why runs failed."""

TRAINING_FOLDER: Final = "training"
"""The folder of checkpoints in a workspace."""

UNSCORED: Final = Encoders({}, "none")
"""For a lab that scores nothing."""


@dataclass(frozen=True)
class Job:
    """A run and its artifacts by stage, those of earlier stages among them.

    Where a stage leaves the data as they are (no poison, no preprocess) its artifact is that of
    the stage before.
    """

    run: Run
    of: Mapping[str, Artifact]


class Make(Protocol):
    """Makes what is missing of some jobs; returns why runs failed, of shared work the first run.

    ``among``: all jobs of the grid that rest on different artifacts, of which these can begin.
    ``wait``: for what other processes are at; otherwise it is left to them.
    """

    def __call__(
        self,
        lab: "Lab",
        jobs: Sequence[Job],
        among: Sequence[Job],
        *,
        wait: bool,
        progress: bool,
        note: Note,
    ) -> Failures: ...


@dataclass(frozen=True, eq=False)
class Lab:
    """Everything that the keys of a grid's stages depend on.

    ``folder``: the workspace. ``concepts``: the clean concepts by name, at the model's size.
    ``unreadable``: why other concepts of the data set could not be read; their runs fail with that
    reason. ``sources``: by concept, the key of the stage that made its images, where they are not
    clean photographs. ``reuse``: folders of artifacts by key, which are copied instead of made
    again. ``poisoners``: the models that poisons are made on, ``originals``: the clean concepts at
    their size, and ``purifier``: what purifiers denoise with, where these are not the model that is
    personalized. ``given``: images that somebody has protected already, by concept and the name
    that stands for the poison. ``poisons`` and ``defenses``: rows that the settings and the table
    do not make, by name. ``sharers``: processes that work in the folder at a time and take equal
    shares of what is made together. Random streams: a poison's seed is the run's, or
    ``settings.cells.poison_seed`` for all seeds; training and generation have the run's. Raises
    UserError for prompts that do not name what was learned.
    """

    folder: Path
    model: Model
    encoders: Encoders
    settings: Settings
    concepts: Mapping[str, Concept]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    reuse: Mapping[str, Path] = field(default_factory=dict)
    poisoners: tuple[Model, ...] = ()
    originals: Mapping[str, Concept] = field(default_factory=dict)
    purifier: Model | None = None
    given: Mapping[tuple[str, str], Concept] = field(default_factory=dict)
    poisons: Mapping[str, Poison] = field(default_factory=dict)
    defenses: Mapping[str, Defense] = field(default_factory=dict)
    sharers: int = 1
    _known: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)
    """What takes reading or hashing and is asked for often."""

    def __post_init__(self) -> None:
        self.settings.sampling.templates()

    @property
    def model_key(self) -> str:
        return self.remember("model", self.model.fingerprint)

    def remember(self, name: Any, compute: Callable[[], Value]) -> Value:
        """The value of this name, computed the first time."""
        if name not in self._known:
            self._known[name] = compute()
        value: Value = self._known[name]
        return value

    def item_bytes(self, model: Model) -> ItemBytes:
        """What one item of a pass through the model takes."""
        return self.remember((ItemBytes, model), lambda: ItemBytes.of(model))

    def refused(self, run: Run) -> str | None:
        """Why the run cannot begin: its concept, or a network of its defense, cannot be read."""
        preprocess = self.defense(run).preprocess

        def unopened() -> str | None:
            try:
                fingerprints(preprocess, self.purifying)
            except UserError as error:
                return str(error)
            return None

        return self.unreadable.get(run.concept) or self.remember(
            ("networks", run.defense), unopened
        )

    @property
    def poisoning(self) -> tuple[Model, ...]:
        return self.poisoners or (self.model,)

    @property
    def purifying(self) -> Model:
        return self.purifier or self.model

    def original(self, name: str) -> Concept:
        """The clean concept as it is poisoned."""
        return self.originals.get(name) or self.concepts[name]

    def concept_key(self, name: str) -> str:
        """Of a concept's images as they were given: how they were made, else their content."""
        return self.sources.get(name) or self.remember(
            ("concept", name), self.concepts[name].content_key
        )

    def defense(self, run: Run) -> Defense:
        return self.defenses.get(run.defense) or defense(run.defense)

    def poison_settings(self, run: Run) -> Poison:
        if run.poison in self.poisons:
            return self.poisons[run.poison]
        return self.remember(
            ("poison", run.poison), lambda: self.settings.poisoning.poison(run.poison)
        )

    def poison_seed(self, run: Run) -> int:
        fixed = self.settings.cells.poison_seed
        return run.seed if fixed is None else fixed

    def training(self, run: Run) -> Training:
        """The settings, with those that the method's name carries."""
        return training_of(self.settings.training, run.method, self.settings.model)

    def load(self, artifact: Artifact) -> Concept:
        """The images of a concept's artifact, at the model's size; what there is to warn of was
        said when the concept was read first."""
        with warnings.catch_warnings(action="ignore"):
            return load_concept(artifact.place, self.model.image_size)
