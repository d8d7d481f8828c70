"""Measures a poison, or an attack on one, with a fixed suite of objects, and writes an entry.

Two numbers with intervals over concepts: the similarity that plain training still learns from
protected images, and the worst case over the suite's attackers. The entry holds numbers and hashes
only; others verify it, and the leaderboard shows it. POISON and --attack are names of `safezone
list`, or Python files, which are run. Kill it and start it again, and it goes on.

Example:
    safezone evaluate adm+ --out adm.json
    safezone evaluate my_poison.py --claimed-plain 0.2 --claimed-source "my paper" --out mine.json
    safezone evaluate adm+ --attack my_defense.py --out lower.json

Next:
    safezone verify adm.json
    safezone leaderboard leaderboard --out leaderboard.html
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import tyro

from safezone.commands.console import Answer, Command, Common, Machine, note, progress
from safezone.errors import UserError
from safezone.fields import Count

if TYPE_CHECKING:
    from safezone.audit.evaluate import Subject, Trial
    from safezone.audit.objects import ObjectSuite


@dataclass(frozen=True, kw_only=True)
class OnSuite(Common):
    """Where and how a suite is measured; all else is the suite's."""

    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """cpu, cuda, ...; by default CUDA where there is one."""
    threads: Annotated[Count | None, tyro.conf.arg(metavar="N")] = None
    """CPU threads; by default as many as there are idle cores, or OMP_NUM_THREADS."""


@dataclass(frozen=True, kw_only=True)
class Options(OnSuite):
    """The options."""

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


def open_trial(
    suite: "ObjectSuite",
    model_name: str,
    seed: int,
    wanted: "Mapping[Subject, Sequence[str]]",
    work: Path,
    options: OnSuite,
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
    require_out_folder(work, "--work")
    settings, machine = suite.settings(model_name, seed), Machine(options.device, options.threads)
    model = open_model(model_name, machine, settings)
    encoders = open_encoders(settings.scoring, machine)
    sets = (miniworld_concepts(model.image_size, which) for which in get_args(BuiltinSet))
    concepts = suite.chosen(chain.from_iterable(sets))
    lab = Lab(work.absolute() / WORK, model, encoders, settings, concepts)
    return Trial(lab, suite, wanted, seed)


def name_or_file(text: str) -> str | Path:
    """A name of ours, or the path of a Python file."""
    return Path(text) if text.endswith(".py") else text


def run(options: Options) -> Answer:
    """Measures and writes the entry."""
    from safezone.audit.entry import Claimed, plain_entry, require_claimed, write_entry
    from safezone.audit.evaluate import entry_of, evaluate, read_subject
    from safezone.audit.objects import object_suite
    from safezone.commands.opening import require_out_folder

    suite = object_suite(options.suite)
    claimed = Claimed(options.claimed_plain, options.claimed_worst, options.claimed_source)
    require_claimed(claimed)
    require_out_folder(options.out.absolute().parent)
    if options.out.suffix != ".json" or options.out.is_dir():
        raise UserError(f"--out {options.out} is no file that ends in .json; give one")
    attack = None if options.attack is None else name_or_file(options.attack)
    subject = read_subject(suite, name_or_file(options.poison), attack)
    trial = open_trial(suite, options.model, 0, {subject: suite.concepts}, options.work, options)
    found = evaluate(trial, progress=progress(), note=note)[subject]
    entry = entry_of(trial, subject, found, claimed)
    write_entry(options.out, entry)
    lines = [f"{entry.subject} on {entry.model}, {entry.suite}:"]
    lines += [f"    {title}: {each.text} ({each.training})" for title, each in entry.headlines()]
    lines.append(f"entry: {options.out}")
    return Answer({**plain_entry(entry), "out": str(options.out)}, "\n".join(lines))


COMMAND = Command(__doc__, Options, run)
