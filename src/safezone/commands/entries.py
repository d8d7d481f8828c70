"""``safezone evaluate``, ``verify`` and ``leaderboard``: entries are made, checked and shown."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import tyro

from safezone.commands.command import (
    Answer,
    Command,
    Entries,
    Processor,
    command_line,
    note,
    progress,
)
from safezone.errors import UserError
from safezone.fields import Count, Natural
from safezone.files import write_json

if TYPE_CHECKING:
    from safezone.audit.entry import BoardEntry, Code
    from safezone.audit.evaluate import Subject, Trial
    from safezone.audit.suites import ObjectSuite


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand(Processor, Command):
    """Measures a poison, or an attack on one, with a fixed suite of objects, and writes an entry.

    Two numbers with intervals over concepts: the similarity that plain training still learns from
    protected images, and the worst case over the suite's attackers. The entry holds numbers and
    hashes only; others verify it, and the leaderboard shows it. POISON and --attack are names
    of `safezone list`, or Python files, which are run. Kill it and start it again, and it goes on.

    Example:
        safezone evaluate adm+ --out adm.json
        safezone evaluate my_poison.py --claimed-plain 0.2 --claimed-source "my paper" \\
            --out mine.json
        safezone evaluate adm+ --attack my_defense.py --out lower.json

    Next:
        safezone verify adm.json
        safezone leaderboard leaderboard --out leaderboard.html
    """

    poison: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="POISON")]]
    """A poison's name, or a Python file with one."""
    out: Annotated[Path, tyro.conf.arg(metavar="ENTRY.json")]
    """The entry."""
    suite: str = "objects-1"
    """objects-1; or objects-quick-1, three objects in about a minute."""
    model: str = "mini"
    """mini, mini-v or mini-rf."""
    attack: Annotated[str | None, tyro.conf.arg(metavar="DEFENSE")] = None
    """Measure this training, not the suite's: a defense's name, or a Python file with one."""
    claimed_plain: Annotated[float | None, tyro.conf.arg(metavar="NUMBER")] = None
    """What is claimed elsewhere for plain training, to stand beside what is measured."""
    claimed_worst: Annotated[float | None, tyro.conf.arg(metavar="NUMBER")] = None
    """Likewise for the worst case."""
    claimed_source: Annotated[str, tyro.conf.arg(metavar="TEXT")] = ""
    """Where it is claimed."""
    work: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs/evaluate")
    """Folder of what is made on the way."""

    def run(self) -> Answer:
        from safezone.audit.entry import Claimed, require_claimed
        from safezone.audit.evaluate import entry_of, evaluate
        from safezone.commands.opening import machine_and_sharers, require_out_folder
        from safezone.lab.executors import helping

        claimed = Claimed(self.claimed_plain, self.claimed_worst, self.claimed_source)
        require_claimed(claimed)
        require_out_folder(self.out.absolute().parent)
        if self.out.suffix != ".json" or self.out.is_dir():
            raise UserError(f"--out {self.out} is no file that ends in .json; give one")
        machine, sharers = machine_and_sharers(self.model, self)
        trial = _evaluated(machine, sharers)
        (subject,) = trial.wanted
        with helping(partial(_help_to_evaluate, machine, sharers), sharers - 1):
            outcome = evaluate(trial, progress=progress(), note=note)[subject]
        entry = entry_of(trial, subject, outcome, claimed)
        write_json(self.out, asdict(entry))
        lines = [f"{entry.subject} on {entry.model}, {entry.suite}:"]
        lines += [
            f"    {title}: {each.text} ({each.training})" for title, each in entry.headlines()
        ]
        lines.append(f"entry: {self.out}")
        return Answer({**asdict(entry), "out": str(self.out)}, "\n".join(lines))


@dataclass(frozen=True, kw_only=True)
class VerifyCommand(Processor, Command):
    """Measures entries of the leaderboard again, on some of their concepts, and says "within" or
    not.

    Hashes are checked first: other weights, code, images or settings are named, and nothing is
    measured. Then the concepts that are drawn are poisoned, learned and scored again. Entries that
    are given together share their passes through the model.

    Example:
        safezone verify entry.json
        safezone verify leaderboard/*.json --concepts 2 --seed 7
        safezone verify mine.json --code my_poison.py --noise 1

    Exit status: 0 when all are within, 1 when one is not, 2 when the input is wrong.
    """

    entries: Entries
    """Files that `safezone evaluate` wrote."""
    concepts: Count = 1
    """How many concepts of each are measured again."""
    seed: Annotated[Natural | None, tyro.conf.arg(metavar="SEED")] = None
    """Of the draw of concepts; by default another each time."""
    noise: Annotated[Natural | None, tyro.conf.arg(metavar="SEED")] = None
    """Seed of poison and training; by default the entry's own."""
    code: Annotated[
        tuple[Path, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FILE.py")
    ] = ()
    """Python file that an entry rests on, which is run; may be given repeatedly."""
    work: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs/verify")
    """Folder of what is made on the way; what an evaluation made there is not read."""

    def run(self) -> Answer:
        from safezone.audit.entry import read_entry
        from safezone.audit.verify import Verdict, drawn_concepts, verify
        from safezone.commands.opening import machine_and_sharers
        from safezone.lab.executors import helping
        from safezone.reading import require_file

        for file in self.code:
            require_file(file, "a Python file")
        entries = {path: read_entry(path) for path in dict.fromkeys(self.entries)}
        subjects = _subjects(self, entries)
        seed = secrets.randbelow(10**6) if self.seed is None else self.seed
        verdicts: dict[Path, Verdict] = {}
        groups: dict[tuple[str, str, int], dict[Path, BoardEntry]] = {}
        for path, entry in entries.items():
            noise = entry.seed if self.noise is None else self.noise
            groups.setdefault((entry.suite, entry.model, noise), {})[path] = entry
        for (_, model, noise), group in groups.items():
            suite = next(iter(group.values())).of
            names = drawn_concepts(suite, self.concepts, seed)
            note(f"{suite.name} on {model}: {', '.join(names)} (--seed {seed})")
            machine, sharers = machine_and_sharers(model, self)
            helper = partial(_help_to_verify, machine, group, noise, names, sharers)
            with helping(helper, sharers - 1):
                trial = _open_trial(machine, suite, model, noise, {}, sharers)
                own = {path: subjects[path] for path in group}
                verdicts |= verify(trial, own, names, progress=progress(), note=note)
        lines = [
            f"{path}: {sentence}"
            for path, each in verdicts.items()
            for sentence in each.sentences()
        ]
        data = {"seed": seed, "entries": {str(path): v.as_json() for path, v in verdicts.items()}}
        within = all(verdict.within for verdict in verdicts.values())
        return Answer(data, "\n".join(lines), status=0 if within else 1)


@dataclass(frozen=True, kw_only=True)
class LeaderboardCommand(Command):
    """One page from a folder of entries: protections by their worst case, and what attacks lowered.

    Nothing is measured and nothing is fetched; the page is one file that asks nobody for anything.

    Example:
        safezone leaderboard leaderboard --out leaderboard.html

    Next:
        xdg-open leaderboard.html
    """

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FOLDER")]] = Path(
        "leaderboard"
    )
    """Folder of entries."""
    out: Annotated[Path, tyro.conf.arg(metavar="PAGE.html")]
    """The page."""

    def run(self) -> Answer:
        from safezone.audit.leaderboard import boards, leaderboard_page, read_entries
        from safezone.results.folder import write_page

        if self.out.suffix.lower() not in (".html", ".htm") or self.out.is_dir():
            raise UserError(f"--out {self.out} is no file that ends in .html; give one")
        lines, of_suites = [], boards(read_entries(self.folder))
        write_page(leaderboard_page(of_suites, command_line()), self.out)
        for board in of_suites:
            lines.append(f"{board.title}:")
            lines += [
                f"    {place}{' =' if each.tied else ''}  {each.entry.poison.name}: worst case "
                f"{each.worst.text}, {each.by}; plain training {each.entry.plain.text}"
                for place, each in enumerate(board.standings, 1)
            ]
        data = {
            "page": str(self.out),
            "boards": [
                {
                    "suite": board.suite,
                    "model": board.model,
                    "hashes": asdict(board.hashes),
                    "protections": [
                        {"file": each.file, "worst_case": each.worst.mean, "by": each.by}
                        for each in board.standings
                    ],
                }
                for board in of_suites
            ],
        }
        return Answer(data, "\n".join([*lines, f"page: {self.out}"]))


def _evaluated(options: EvaluateCommand, sharers: int) -> "Trial":
    """What is evaluated, opened; processes that help call it as well."""
    from safezone.audit.entry import ENTRY_SEED
    from safezone.audit.evaluate import read_subject
    from safezone.audit.suites import object_suite

    suite = object_suite(options.suite)
    attack = None if options.attack is None else _name_or_file(options.attack)
    subject = read_subject(suite, _name_or_file(options.poison), attack)
    return _open_trial(
        options, suite, options.model, ENTRY_SEED, {subject: suite.concepts}, sharers
    )


def _help_to_evaluate(options: EvaluateCommand, sharers: int) -> None:
    from safezone.audit.evaluate import evaluate

    evaluate(_evaluated(options, sharers))


def _subjects(
    options: VerifyCommand, entries: "Mapping[Path, BoardEntry]"
) -> "dict[Path, tuple[Subject, BoardEntry]]":
    """Each entry with what it is of; UserError where a file that it rests on was not given."""
    from safezone.audit.evaluate import read_subject
    from safezone.files import digest

    files = {digest(file.read_bytes()): file for file in options.code}
    subjects = {}
    for path, entry in entries.items():
        attack = None if entry.attack is None else _source(path, entry.attack, files)
        subject = read_subject(entry.of, _source(path, entry.poison, files), attack)
        subjects[path] = subject, entry
    return subjects


def _help_to_verify(
    options: VerifyCommand,
    entries: "Mapping[Path, BoardEntry]",
    noise: int,
    concepts: Sequence[str],
    sharers: int,
) -> None:
    from safezone.audit.verify import verify

    first = next(iter(entries.values()))
    trial = _open_trial(options, first.of, first.model, noise, {}, sharers)
    verify(trial, _subjects(options, entries), concepts)


def _open_trial(
    options: EvaluateCommand | VerifyCommand,
    suite: "ObjectSuite",
    model_name: str,
    seed: int,
    wanted: "Mapping[Subject, Sequence[str]]",
    sharers: int,
) -> "Trial":
    """The suite's lab with the model; UserError for a model that suites are not made for."""
    from safezone.audit.evaluate import Trial
    from safezone.commands.opening import open_encoders, open_model, require_out_folder
    from safezone.concepts.datasets import BuiltinSet, miniworld_concepts
    from safezone.lab.lab import Lab
    from safezone.lab.store import WORK
    from safezone.models import BUILTIN

    if model_name not in BUILTIN:
        raise UserError(
            f"{suite.name} is made for the built-in models, not {ascii(model_name)[:80]}; give one "
            f"of {', '.join(BUILTIN)}, or audit images of your own on any model with safezone audit"
        )
    require_out_folder(options.work, "--work")
    settings = suite.settings(model_name, seed)
    model = open_model(model_name, options, settings)
    encoders = open_encoders(settings.scoring, options)
    sets = (miniworld_concepts(model.image_size, which) for which in get_args(BuiltinSet))
    concepts = suite.chosen(chain.from_iterable(sets))
    # Apart, or a verification would read the files of the evaluation that it is to repeat.
    work = options.work.absolute() / (WORK if isinstance(options, EvaluateCommand) else "verified")
    lab = Lab(work, model, encoders, settings, concepts, sharers=sharers)
    return Trial(lab, suite, wanted, seed)


def _name_or_file(text: str) -> str | Path:
    return Path(text) if text.endswith(".py") else text


def _source(entry: Path, code: "Code", files: Mapping[str, Path]) -> str | Path:
    """Where the code is: a name of ours, or the file of that hash, or the only one given."""
    if code.file is None:
        return code.name
    if not files:
        raise UserError(
            f"{entry} rests on a Python file, SHA-256 {code.file[:12]}; look at it, and give it "
            "with --code"
        )
    if code.file not in files and len(files) > 1:
        raise UserError(
            f"{entry} rests on a Python file, SHA-256 {code.file[:12]}, and none of those that are "
            "given with --code is that; give it"
        )
    return files.get(code.file) or next(iter(files.values()))
