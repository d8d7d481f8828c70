"""Evaluates poisons, and attacks on them, with a suite of objects; several share their passes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from safezone.audit.audit import missing_part
from safezone.audit.cases import Case
from safezone.audit.entry import (
    ATTACK,
    CLEAN_IMAGES,
    BoardEntry,
    Change,
    Claimed,
    Code,
    Hashes,
    headline_numbers,
    training_names,
)
from safezone.audit.suites import Attacker, ObjectSuite, picture_key
from safezone.defenses import Defense, defense, fingerprints, own_defenses
from safezone.errors import UserError
from safezone.files import digest
from safezone.lab.lab import Lab, Note
from safezone.lab.run import TEXTUAL_INVERSION, Grid, Run, content_key
from safezone.lab.schedule import make, run_grid
from safezone.lab.stage import job, of_runs
from safezone.models import BUILTIN
from safezone.poisons import Poison, imperceptibility, own_poisons, poison_fingerprints
from safezone.results.meaning import versions
from safezone.results.tables import SIMILARITY
from safezone.scores.rows import CLEAN, NOMINAL, summarise


@dataclass(frozen=True, eq=False)
class Subject:
    """What is evaluated: a poison, and the attack that somebody contributes.

    ``poison_file`` and ``attack_file``: the SHA-256 of the Python file that each comes from.
    """

    poison: Poison
    attack: Defense | None = None
    poison_file: str | None = None
    attack_file: str | None = None

    @property
    def form(self) -> Literal["protection", "attack"]:
        return "protection" if self.attack is None else "attack"

    @property
    def labels(self) -> tuple[str, str]:
        """The poison's and the attack's names in the lab; a file's with its hash, since files may
        share a name."""
        attack = "" if self.attack is None else self.attack.name
        pairs = ((self.poison.name, self.poison_file), (attack, self.attack_file))
        poison, attack = (name if file is None else f"{name}-{file[:12]}" for name, file in pairs)
        return poison, attack


def read_subject(suite: ObjectSuite, poison: str | Path, attack: str | Path | None) -> Subject:
    """From names of ours or Python files, which are run: give only those that you trust.

    Raises UserError for names and files that do not give one poison, or one attack.
    """
    settings, name, row = suite.poisoning, poison, None

    def only(rows: Mapping[str, Any], file: Path, noun: str) -> Any:
        if len(rows) != 1:
            raise UserError(f"{file} has {len(rows)} {noun}s; leave one in it")
        return next(iter(rows.values()))

    if isinstance(poison, Path):
        settings = replace(settings, files=(str(poison),))
        name = only(own_poisons([poison]), poison, "poison").name
    if isinstance(attack, Path):
        row = only(own_defenses([attack]), attack, "defense")
    elif attack is not None:
        row = defense(attack)
    hashes = [digest(f.read_bytes()) if isinstance(f, Path) else None for f in (poison, attack)]
    return Subject(settings.poison(str(name)), row, *hashes)


@dataclass(frozen=True, eq=False)
class Trial:
    """Subjects on concepts of a suite, in one lab. ``seed``: of the poison, the first of training.

    ``lab``: with the suite's settings and concepts. ``wanted``: the concepts of each subject.
    """

    lab: Lab
    suite: ObjectSuite
    wanted: Mapping[Subject, Sequence[str]]
    seed: int = 0

    @property
    def builtin(self) -> bool:
        return self.lab.model.name in BUILTIN

    def run(self, concept: str, poison: str, training: str, index: int = 0) -> Run:
        model = self.lab.model.name
        return Run(concept, poison, training, TEXTUAL_INVERSION, model, self.seed + index)

    def cells(self, subject: Subject) -> dict[str, tuple[str, str]]:
        """(poison, defense) of each training of the subject."""
        cells = {CLEAN_IMAGES: (CLEAN, NOMINAL), ATTACK: subject.labels}
        for each in self.suite.attackers.attackers:
            cells[each.name] = (each.poison_name(subject.labels[0]), each.defense_for(self.builtin))
        return {name: cells[name] for name in training_names(self.suite, subject.form)}


@dataclass(frozen=True)
class Found:
    """What was measured of one subject: similarities by concept and training, and the changes."""

    measured: Mapping[str, Mapping[str, tuple[float, ...]]]
    changes: Mapping[str, Change]


def evaluate(
    trial: Trial, *, progress: bool = False, note: Note = lambda text: None
) -> dict[Subject, Found]:
    """Makes what is missing and returns what was measured of each subject.

    Raises UserError when an attacker cannot run here or a run fails: an entry has no gaps.
    """
    for attacker in trial.suite.attackers.attackers:
        reason = missing_part(trial.lab, attacker)
        if reason is not None:
            raise UserError(f"{trial.suite.name} needs its attacker {attacker.name}: {reason}")
    for subject in trial.wanted:
        if subject.attack is not None:
            fingerprints(subject.attack.preprocess, trial.lab.purifying)
    poisoned = [
        trial.run(concept, subject.labels[0], NOMINAL)
        for subject, concepts in trial.wanted.items()
        for concept in concepts
    ]
    poisons = {each.labels[0]: each.poison for each in trial.wanted}
    attacks = {each.labels[1]: each.attack for each in trial.wanted if each.attack}
    lab = replace(trial.lab, poisons=poisons, defenses=attacks)
    posted = [each for each in trial.suite.attackers.attackers if each.posting is not None]
    if posted:
        wanted = Grid.of("poisons", poisoned)
        _require_none(make(lab, wanted, last="poison", progress=progress, note=note))
        lab = replace(lab, given=_postings(lab, poisoned, posted))
    runs = [
        trial.run(concept, *cell, index)
        for subject, concepts in trial.wanted.items()
        for concept in concepts
        for cell in trial.cells(subject).values()
        for index in range(trial.suite.seeds)
    ]
    results = run_grid(lab, Grid.of("evaluate", runs), progress=progress, note=note)
    _require_none(results.failed)
    values = summarise(results.rows, SIMILARITY)
    found = {}
    for subject, concepts in trial.wanted.items():
        cells = trial.cells(subject)
        measured = {
            c: {name: tuple(values[at][c].values()) for name, at in cells.items()} for c in concepts
        }
        changes = {concept: _change(trial, lab, subject, concept) for concept in concepts}
        found[subject] = Found(measured, changes)
    return found


def _require_none(failed: Mapping[Run, str]) -> None:
    for run, reason in failed.items():
        raise UserError(f"the run {run.label} failed, so there are no numbers: {reason}")


def _postings(
    lab: Lab, poisoned: Iterable[Run], attackers: Iterable[Attacker]
) -> dict[tuple[str, str], Any]:
    """What a platform gives back of the poisoned files, under the names that ``cells`` uses."""
    images = {}
    for run in poisoned:
        artifact = job(lab, run).of["poison"]
        case = Case(artifact.place, lab.load(artifact), None, {})
        for each in attackers:
            images[run.concept, each.poison_name(run.poison)] = case.posted(str(each.posting))
    return images


def _change(trial: Trial, lab: Lab, subject: Subject, concept: str) -> Change:
    run = trial.run(concept, subject.labels[0], NOMINAL)
    poisoned = lab.load(job(lab, run).of["poison"]).images
    seen = imperceptibility(lab.concepts[concept].images, poisoned)
    psnr = seen["psnr"].clamp(max=100.0)  # equal images have none
    return Change(round(255 * float(seen["linf"].max())), round(float(psnr.mean()), 3))


def code_of(trial: Trial, subject: Subject) -> tuple[Code, Code | None]:
    """The poison's and the attack's names and hashes: rows, their networks, stages' versions."""
    made = [[stage.name, stage.version] for stage in of_runs()]
    lab, row, attack = trial.lab, subject.poison, subject.attack
    key = content_key("poison", row, poison_fingerprints(row, lab.poisoning), made)
    poison = Code(row.name, key, subject.poison_file)
    if attack is None:
        return poison, None
    networks = fingerprints(attack.preprocess, lab.purifying)
    key = content_key("attack", *attack.parts, networks, made)
    return poison, Code(attack.name, key, subject.attack_file)


def hashes_of(trial: Trial) -> Hashes:
    """Of what every entry of this suite, model and version of the code rests on."""
    lab, suite = trial.lab, trial.suite
    rows = [defense(each.defense_for(trial.builtin)) for each in suite.attackers.attackers]
    networks = [fingerprints(row.preprocess, lab.purifying) for row in rows]
    return Hashes(
        model=lab.model_key,
        encoder=lab.encoders.key,
        networks=content_key("networks", networks),
        settings=content_key("settings", *suite.parts()),
        images={name: picture_key(lab.concepts[name]) for name in suite.concepts},
    )


def entry_of(trial: Trial, subject: Subject, found: Found, claimed: Claimed) -> BoardEntry:
    """The entry of what was measured on all concepts of the suite."""
    poison, attack = code_of(trial, subject)
    numbers = headline_numbers(found.measured, training_names(trial.suite, subject.form))
    return BoardEntry(
        form=subject.form,
        suite=trial.suite.name,
        model=trial.lab.model.name,
        seed=trial.seed,
        poison=poison,
        attack=attack,
        **numbers,
        claimed=claimed,
        measured=found.measured,
        changes=found.changes,
        hashes=hashes_of(trial),
        versions=versions(),
    )
