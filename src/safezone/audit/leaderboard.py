"""The leaderboard: from a folder of entries to one page, the best worst case first."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from markupsafe import Markup

from safezone.audit.entry import (
    ATTACK,
    CLEAN_IMAGES,
    BoardEntry,
    Estimate,
    Hashes,
    contradictions,
    estimated,
    read_entry,
)
from safezone.audit.page import fill_template
from safezone.errors import UserError
from safezone.files import digest
from safezone.lab.run import TEXTUAL_INVERSION
from safezone.results.meaning import caveats, versions
from safezone.results.page import Page, Section
from safezone.results.statistics import ByConcept, tied_best
from safezone.results.tables import SIMILARITY
from safezone.scores.rows import CLEAN, NOMINAL, Row


@dataclass(frozen=True)
class Standing:
    """A protection's line. ``by``: what learned most; ``values``: of that, by concept.

    ``file``: of the entry. ``attacks``: files of contributed attacks with their numbers.
    ``lowered``: whether one of them learned more than the suite's attackers. ``tied``: whether it
    is not shown to be worse than the first.
    """

    file: str
    entry: BoardEntry
    worst: Estimate
    by: str
    values: ByConcept
    attacks: Sequence[tuple[str, BoardEntry]]
    lowered: bool
    tied: bool = False

    @property
    def psnr(self) -> float:
        return fmean(each.psnr for each in self.entry.changes.values())

    @property
    def largest(self) -> int:
        return max(each.largest for each in self.entry.changes.values())


@dataclass(frozen=True)
class Board:
    """Entries that can be compared: of one suite and model, with all ``hashes`` equal.

    ``attacks``: all that were contributed, each with its file and what it learned.
    """

    suite: str
    model: str
    hashes: Hashes
    standings: Sequence[Standing]
    attacks: Sequence[tuple[str, BoardEntry, Estimate]]

    @property
    def basis(self) -> str:
        """What the numbers rest on: ``weights 0123456789ab, encoder ...``."""
        parts = {
            "weights": self.hashes.model,
            "encoder": self.hashes.encoder,
            "purifiers": self.hashes.networks,
            "settings": self.hashes.settings,
            "images": digest(json.dumps(dict(self.hashes.images), sort_keys=True)),
        }
        return ", ".join(f"{name} {key[:12]}" for name, key in parts.items())

    @property
    def title(self) -> str:
        """Tells it from any other board."""
        return f"{self.suite} on {self.model}, {self.basis}"


def read_entries(folder: Path) -> dict[str, BoardEntry]:
    """The entries of a folder, by file name.

    Raises UserError where there is none, for a file that is none, and for one whose numbers
    contradict each other.
    """
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not paths:
        raise UserError(f"{folder} holds no entries; give a folder of files of safezone evaluate")
    entries = {path: read_entry(path) for path in paths}
    for path, entry in entries.items():
        for problem in contradictions(entry):
            raise UserError(f"{path}: {problem}; make it again with safezone evaluate")
    return {path.name: entry for path, entry in entries.items()}


def boards(entries: Mapping[str, BoardEntry]) -> list[Board]:
    """The entries in groups that can be compared, each with the lowest worst case first."""
    groups: dict[str, dict[str, BoardEntry]] = {}
    for file, entry in entries.items():
        key = json.dumps([entry.suite, entry.model, asdict(entry.hashes)], sort_keys=True)
        groups.setdefault(key, {})[file] = entry
    return [_board(group) for group in groups.values()]


def _board(group: Mapping[str, BoardEntry]) -> Board:
    first = next(iter(group.values()))
    attacks = [(file, entry) for file, entry in group.items() if entry.form == "attack"]
    lines = [
        _standing(file, entry, [each for each in attacks if each[1].poison == entry.poison])
        for file, entry in group.items()
        if entry.form == "protection"
    ]
    best = tied_best({each.file: each.values for each in lines}, higher_is_better=False)
    ranked = sorted(lines, key=lambda each: (each.worst.mean, each.file))
    return Board(
        first.suite,
        first.model,
        first.hashes,
        [replace(each, tied=each.file in best) for each in ranked],
        [(file, entry, estimated(ATTACK, entry.values(ATTACK))) for file, entry in attacks],
    )


def _standing(file: str, entry: BoardEntry, attacks: Sequence[tuple[str, BoardEntry]]) -> Standing:
    titles = {each.name: each.title for each in entry.of.attackers.attackers}
    last, by = entry, titles[entry.worst.training]
    for name, attack in attacks:
        if attack.worst.training == ATTACK and attack.worst.mean > last.worst.mean:
            last, by = attack, f"{attack.attack_name}, {name}"
    values = last.values(last.worst.training)
    return Standing(file, entry, last.worst, by, values, attacks, last is not entry)


def _rows(board: Board) -> list[Row]:
    """Every number of the board; of the clean images the first entry's."""
    rows: dict[Row, None] = {}
    names = [each.entry.poison.name for each in board.standings]
    for place, each in enumerate(board.standings):
        name = each.entry.poison.name
        poison = name if names.count(name) == 1 else f"{name} ({each.file})"
        for file, entry in ((each.file, each.entry), *each.attacks):
            own = file != each.file
            attack = _column(file, entry, each) if own else ""
            rows |= dict.fromkeys(
                _of_entry(entry, poison, clean=not place and not own, attack=attack)
            )
    return list(rows)


def _column(file: str, entry: BoardEntry, standing: Standing) -> str:
    """The attack's name, with its file where another attack on this protection has it too."""
    taken = [each.name for each in entry.of.attackers.attackers]
    taken += [other.attack_name for _, other in standing.attacks]
    name = entry.attack_name
    return name if taken.count(name) == 1 else f"{name} ({file})"


def _of_entry(entry: BoardEntry, poison: str, *, clean: bool, attack: str) -> list[Row]:
    """``attack``: the column of an attack's entry; of others empty."""
    suite = entry.of
    images = len(suite.sampling.texts()) * suite.sampling.images_per_prompt
    shown = {suite.attackers.plain.name: NOMINAL, CLEAN_IMAGES: NOMINAL, ATTACK: attack}
    return [
        Row(
            concept,
            CLEAN if training == CLEAN_IMAGES else poison,
            shown.get(training, training),
            TEXTUAL_INVERSION,
            entry.model,
            entry.seed + index,
            SIMILARITY,
            value,
            images,
            suite.images,
        )
        for concept, trainings in entry.measured.items()
        for training, values in trainings.items()
        if (training == ATTACK if attack else clean or training != CLEAN_IMAGES)
        for index, value in enumerate(values)
    ]


def leaderboard_page(every: Sequence[Board], command: str = "") -> Page:
    """The page: a table of standings, then every number of each board."""
    sections: list[Section] = []
    rows: list[Row] = []
    for place, board in enumerate(every, 1):
        own = _rows(board)
        rows += own
        if own:
            name = f"{board.suite}-{board.model}-{place}"
            notes = caveats(own, photographs=False)
            sections.append(Section(name, board.title, own, notes=notes, command=command))
    lead = Markup(fill_template("leaderboard.html.j2", boards=every))
    return Page("Which protections hold?", sections, rows, versions(), lead)
