"""A stage is a value, and ``STAGES`` is the one table of them, in the order of the data.

Planning, running, estimating, listing and collecting garbage are loops over the table. A new stage
is a row: what it is called, what enters its key, how it is made, how long that takes and how large
it is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from safezone.defenses import Identity, fingerprints
from safezone.files import clipped
from safezone.lab import cost, makers, poisonings, trainings
from safezone.lab.cost import Passes
from safezone.lab.lab import Job, Lab, Make
from safezone.lab.run import Run, content_key
from safezone.lab.settings import Sampling
from safezone.lab.store import IMAGES_RECORD, KEY_FILE, MANIFEST, RUN_RECORD, Artifact
from safezone.poisons import poison_fingerprints
from safezone.scores import CLEAN


@dataclass(frozen=True)
class Stage:
    """One arrow of the way of the data: from the keys of its inputs to a folder.

    ``version``: raised when the same inputs no longer give the same artifact. ``record``: the file
    that carries the key. ``inputs``: stages whose keys enter the key. ``settings``: what else
    does, of a run; a text where the key is known without inputs, None where the run leaves its
    first input as it is. A stage without ``settings`` is not of runs: figures measure with it, by
    keys of their own. ``label``: the beginning of a folder's name. ``operations``: floating-point
    operations of one artifact. ``size``: its bytes. ``about``: what the record says of the run,
    beside what the key covers.
    """

    name: str
    version: int
    record: str
    inputs: tuple[str, ...] = ()
    settings: Callable[[Lab, Run], Sequence[Any] | str | None] | None = None
    make: Make | None = None
    label: Callable[[Lab, Run], str] = lambda lab, run: run.label
    operations: Callable[[Lab, Run, Passes], float] = lambda lab, run, passes: 0.0
    size: Callable[[Lab, Run], float] = lambda lab, run: 4e3
    about: Callable[[Lab, Job], Mapping[str, Any]] = lambda lab, job: {}

    def seconds(self, lab: Lab, runs: Iterable[Run], passes: Passes) -> float:
        """How long the artifacts of these runs take to make."""
        return sum(self.operations(lab, run, passes) for run in runs) / passes.per_second

    def artifact(self, work: Path, label: str, *parts: Any) -> Artifact:
        """What the stage makes of these parts, in a work folder; see ``content_key``."""
        return self.known(work, label, content_key(self.name, self.version, *parts))

    def known(self, work: Path, label: str, key: str) -> Artifact:
        return Artifact(
            self.name, key, work / self.name / f"{clipped(label)}-{key[:16]}", self.record
        )


def _poison(lab: Lab, run: Run) -> Sequence[Any] | None:
    if run.poison == CLEAN:
        return None
    if (run.concept, run.poison) in lab.given:
        return [lab.given[run.concept, run.poison].content_key()]
    row = lab.poison_settings(run)
    original = lab.originals.get(run.concept)
    size = [] if original is None else [original.content_key()]
    return [poison_fingerprints(row, lab.poisoning), row, lab.poison_seed(run), *size]


def _preprocess(lab: Lab, run: Run) -> Sequence[Any] | None:
    preprocess = lab.defense(run).preprocess
    if preprocess == Identity():
        return None
    return [preprocess, run.seed, fingerprints(preprocess, lab.purifying)]


def _personalize(lab: Lab, run: Run) -> Sequence[Any]:
    row, method = lab.defense(run), lab.training(run).personalization()
    learned = [method.name, method.content()]
    words = [row.words] if row.words else []
    return [lab.model_key, row.name, row.timesteps, row.loss_mask, *words, run.seed, *learned]


def drawn(model_key: str, sampling: Sampling, concept: str, seed: int) -> Sequence[Any]:
    """What enters the key of an adapter's images beside the adapter's own."""
    return [model_key, {**asdict(sampling), "prompts": sampling.texts()}, concept, seed]


STAGES: Final[tuple[Stage, ...]] = (
    Stage(
        "clean",
        version=1,
        record="concept.json",
        settings=lambda lab, run: lab.concept_key(run.concept),
        make=partial(makers.one_by_one, "clean", makers.clean),
        label=lambda lab, run: run.concept,
        size=cost.concept_size,
    ),
    Stage(
        "poison",
        version=3,
        record=MANIFEST,
        inputs=("clean",),
        settings=_poison,
        make=partial(makers.in_groups, "poison", poisonings.groups, poisonings.make_poisons),
        label=lambda lab, run: f"{run.concept},{run.poison},{lab.poison_seed(run)}",
        operations=cost.poison_operations,
        size=lambda lab, run: 2 * cost.concept_size(lab, run),
    ),
    Stage(
        "preprocess",
        version=3,
        record=MANIFEST,
        inputs=("poison",),
        settings=_preprocess,
        make=partial(makers.one_by_one, "preprocess", makers.preprocess),
        label=lambda lab, run: f"{run.concept},{run.poison},{run.seed}",
        size=cost.concept_size,
    ),
    Stage(
        "personalize",
        version=4,
        record=RUN_RECORD,
        inputs=("preprocess",),
        settings=_personalize,
        make=trainings.personalize,
        operations=cost.training_operations,
        size=lambda lab, run: 50e3,
        about=trainings.about,
    ),
    Stage(
        "generate",
        version=3,
        record=IMAGES_RECORD,
        inputs=("personalize",),
        settings=lambda lab, run: drawn(
            lab.model_key, lab.settings.sampling, run.concept, run.seed
        ),
        make=partial(makers.in_groups, "generate", makers.drawing_groups, makers.make_images),
        operations=cost.image_operations,
        size=cost.image_size,
        about=makers.about_images,
    ),
    Stage(
        "score",
        version=2,
        record=KEY_FILE,
        inputs=("generate", "clean"),
        settings=lambda lab, run: [lab.encoders.key],
        make=partial(makers.one_by_one, "score", makers.score),
    ),
    Stage("measure", version=3, record=KEY_FILE),
)
"""Every stage; those with inputs come after them."""


def named(name: str) -> Stage:
    """The stage of this name."""
    return next(stage for stage in STAGES if stage.name == name)


def job(lab: Lab, run: Run, stages: Sequence[Stage] = STAGES) -> Job:
    """The run with the artifacts of all stages."""

    def of() -> Mapping[str, Artifact]:
        made: dict[str, Artifact] = {}
        for stage in stages:
            if stage.settings is None:
                continue
            parts, label = stage.settings(lab, run), stage.label(lab, run)
            if parts is None:
                made[stage.name] = made[stage.inputs[0]]
            elif isinstance(parts, str):
                made[stage.name] = stage.known(lab.folder, label, parts)
            else:
                keys = [made[name].key for name in stage.inputs]
                made[stage.name] = stage.artifact(lab.folder, label, *keys, *parts)
        return made

    return Job(run, lab.remember((run, stages), of))


def jobs(lab: Lab, runs: Iterable[Run], stages: Sequence[Stage] = STAGES) -> list[Job]:
    """Those of the runs that can begin."""
    return [job(lab, run, stages) for run in runs if lab.refused(run) is None]


def own(stage: Stage, made: Iterable[Job]) -> dict[Artifact, Job]:
    """The stage's artifacts, each with the first of the jobs that rest on it."""
    found: dict[Artifact, Job] = {}
    for each in made:
        if each.of[stage.name].stage == stage.name:
            found.setdefault(each.of[stage.name], each)
    return found


def of_runs(stages: Sequence[Stage] = STAGES) -> Iterator[Stage]:
    """The stages that runs go through."""
    return (stage for stage in stages if stage.settings is not None)


def planned(
    lab: Lab, runs: Iterable[Run], stages: Sequence[Stage] = STAGES
) -> Iterator[tuple[Stage, dict[Artifact, Job]]]:
    """Every stage of runs with all artifacts that these rest on, made or not."""
    able = jobs(lab, runs, stages)
    return ((stage, own(stage, able)) for stage in of_runs(stages))
