"""An entry of the leaderboard: numbers and hashes in one JSON file, which may come from anyone."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError

from safezone.audit.outcome import plain_values
from safezone.audit.suites import ObjectSuite, object_suite
from safezone.errors import UserError
from safezone.fields import Closed
from safezone.reading import read_json, require_file
from safezone.results.statistics import ByConcept, mean_interval

Name: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9+@._>=<-]{0,63}$")]
Hash: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Similarity: TypeAlias = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
Words: TypeAlias = Annotated[str, Field(pattern=r"^[\x20-\x7e]*$", max_length=200)]
OverSeeds: TypeAlias = Annotated[tuple[Similarity, ...], Field(min_length=1, max_length=20)]
"""Over seeds, in their order."""
ByTraining: TypeAlias = Annotated[Mapping[Name, OverSeeds], Field(min_length=1, max_length=40)]

CLEAN_IMAGES: Final = "clean"
"""The training on the originals, without care."""
ATTACK: Final = "attack"
"""The training with an attack that somebody contributes."""
ENTRY_SEED: Final = 0
"""Of every entry: whoever could choose it would hand in the best of many."""
LARGEST_ENTRY: Final = 200_000


@dataclass(frozen=True)
class Code(Closed):
    """Of a poison or an attack. ``key``: a hash of its settings and its code's version.

    ``file``: the SHA-256 of the Python file that it comes from; None: it is a row of ours.
    """

    name: Name
    key: Hash
    file: Hash | None = None


@dataclass(frozen=True)
class Hashes(Closed):
    """What the numbers rest on; ``networks``: those of purifiers, ``images``: by concept."""

    model: Hash
    encoder: Hash
    networks: Hash
    settings: Hash
    images: Annotated[Mapping[Name, Hash], Field(min_length=1, max_length=40)]


@dataclass(frozen=True)
class Estimate(Closed):
    """A mean over concepts with its interval, which one concept does not have."""

    training: Name
    mean: Similarity
    low: Annotated[float, Field(allow_inf_nan=False)] | None
    high: Annotated[float, Field(allow_inf_nan=False)] | None

    @property
    def text(self) -> str:
        """``0.55 [0.41, 0.70]``."""
        spread = "" if self.low is None else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.mean:.2f}{spread}"


@dataclass(frozen=True)
class Change(Closed):
    """Of the poisoned images of a concept: the largest change in levels of 255, PSNR in dB."""

    largest: Annotated[int, Field(ge=0, le=255)]
    psnr: Annotated[float, Field(ge=0, le=200, allow_inf_nan=False)]


@dataclass(frozen=True)
class Claimed(Closed):
    """The two numbers as somebody claims them elsewhere, and where."""

    plain: Similarity | None = None
    worst: Similarity | None = None
    source: Words = ""


@dataclass(frozen=True, kw_only=True)
class BoardEntry(Closed):
    """One protection, or one attack on a protection, measured with a suite of objects.

    ``measured``: similarity to the originals by concept and training. ``plain`` and ``worst``
    follow from it: what training without care learns, and the training that learns most.
    """

    form: Literal["protection", "attack"]
    suite: Name
    model: Name
    seed: Annotated[int, Field(ge=0, le=1_000_000)]
    poison: Code
    attack: Code | None = None
    plain: Estimate
    worst: Estimate
    clean: Estimate
    claimed: Claimed = field(default_factory=Claimed)
    measured: Annotated[Mapping[Name, ByTraining], Field(min_length=1, max_length=40)]
    changes: Annotated[Mapping[Name, Change], Field(min_length=1, max_length=40)]
    hashes: Hashes
    versions: Annotated[Mapping[Name, Words], Field(max_length=20)]

    @property
    def of(self) -> ObjectSuite:
        """The suite; UserError where this version does not have it."""
        return object_suite(self.suite)

    @property
    def subject(self) -> str:
        """``adm+``, or ``szt on adm+`` for an attack."""
        return f"{self.attack_name} on {self.poison.name}" if self.attack else self.poison.name

    @property
    def attack_name(self) -> str:
        return "" if self.attack is None else self.attack.name

    def headlines(self) -> list[tuple[str, Estimate]]:
        """What is told first: a title and its number."""
        worst = "with the attack" if self.form == "attack" else "worst case"
        if self.worst.training == "plain" and self.form == "attack":
            worst = "the attack learned no more than plain training"
        return [("clean images", self.clean), ("plain training", self.plain), (worst, self.worst)]

    def values(self, training: str) -> ByConcept:
        """{concept: {seed: value}} of one training."""
        return values_of(self.measured, training)


def values_of(measured: Mapping[str, Mapping[str, OverSeeds]], training: str) -> ByConcept:
    """{concept: {seed: value}} of one training, seeds from 0."""
    return {concept: dict(enumerate(values[training])) for concept, values in measured.items()}


def training_names(suite: ObjectSuite, form: str) -> list[str]:
    """The trainings of an entry: on the originals, then the attackers, plain training first."""
    if form == "attack":
        return [CLEAN_IMAGES, suite.attackers.plain.name, ATTACK]
    return [CLEAN_IMAGES, *(each.name for each in suite.attackers.attackers)]


def estimated(training: str, values: ByConcept) -> Estimate:
    """The training's mean over concepts with its interval."""
    return Estimate(training, **plain_values(mean_interval(values)))


def headline_numbers(
    measured: Mapping[str, Mapping[str, OverSeeds]], names: list[str]
) -> dict[str, Estimate]:
    """``clean``, ``plain`` and ``worst`` of what was measured; the worst case is the largest."""
    clean, plain, *_ = every = [estimated(name, values_of(measured, name)) for name in names]
    worst = max(every[1:], key=lambda each: each.mean)
    return {"clean": clean, "plain": plain, "worst": worst}


def require_claimed(claimed: Claimed) -> None:
    """Raises UserError for what an entry cannot hold as a claim, and a source of no number."""
    if claimed.source and claimed.plain is None and claimed.worst is None:
        raise UserError(
            "--claimed-source says where numbers are claimed; give --claimed-plain or "
            "--claimed-worst too"
        )
    try:
        TypeAdapter(Claimed).validate_python(asdict(claimed))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"--claimed-{first['loc'][0]} is wrong: {first['msg']}; give similarities from -1 to 1 "
            "and a source of at most 200 letters without accents"
        ) from error


def read_entry(path: Path) -> BoardEntry:
    """Reads an entry; UserError, one sentence, for whatever is none."""
    require_file(path, "an entry that `safezone evaluate` wrote")
    if path.stat().st_size > LARGEST_ENTRY:
        raise UserError(f"{path} is larger than any entry; give one that `safezone evaluate` wrote")
    content = json.dumps(read_json(path))
    try:
        entry = TypeAdapter(BoardEntry).validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors()[0]  # of which a line holds no more of a stranger's text than this
        place = ascii(".".join(map(str, first["loc"])))[1:-1][:60] or "the file"
        message = ascii(first["msg"].replace("\n", " "))[1:-1][:120]
        again = "make it again with `safezone evaluate`"
        raise UserError(f"{path} is no entry: {place}: {message}; {again}") from error
    try:
        object_suite(entry.suite)
    except UserError as error:
        raise UserError(f"{path} cannot be used: {error}") from error
    if (entry.form == "attack") != (entry.attack is not None):
        raise UserError(f"{path} is no entry: an attack is named if, and only if, it is the form")
    return entry


def contradictions(entry: BoardEntry) -> list[str]:
    """What the entry says that its own numbers or its suite do not give, a sentence each."""
    suite, found = entry.of, []
    names = training_names(suite, entry.form)
    for concepts, what in (
        (entry.measured, "measured"),
        (entry.changes, "changes"),
        (entry.hashes.images, "hashes.images"),
    ):
        if set(concepts) != set(suite.concepts):
            found.append(f"{what} does not hold the concepts of {suite.name}")
    for concept, values in entry.measured.items():
        if set(values) != set(names):
            found.append(f"measured.{concept} does not hold the trainings of {suite.name}")
        elif any(len(each) != suite.seeds for each in values.values()):
            found.append(f"measured.{concept} does not hold a value for each of the seeds")
    if entry.seed != ENTRY_SEED:
        found.append(
            f"the seed is {entry.seed} and has to be {ENTRY_SEED}, as safezone evaluate has it"
        )
    if found:
        return found

    def equal(ours: Any, theirs: Any) -> bool:
        both = isinstance(ours, float) and isinstance(theirs, float)
        return abs(ours - theirs) < 1e-6 if both else bool(ours == theirs)

    return [
        f"{name} does not follow from the measured values"
        for name, ours in headline_numbers(entry.measured, names).items()
        if not all(map(equal, vars(ours).values(), vars(getattr(entry, name)).values()))
    ]
