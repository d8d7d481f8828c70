"""Measures entries of the leaderboard again, on some of their concepts, and says "within" or not.

Hashes are checked first: other weights, code, images or settings are named, and nothing is
measured. Then the concepts that are drawn are poisoned, learned and scored again. Entries that are
given together share their passes through the model.

Example:
    safezone verify entry.json
    safezone verify leaderboard/*.json --concepts 2 --seed 7
    safezone verify mine.json --code my_poison.py --noise 1

Exit status: 0 when all are within, 1 when one is not, 2 when the input is wrong.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from safezone.commands.console import Answer, Command, Entries, note, progress
from safezone.commands.evaluate import OnSuite, open_trial
from safezone.errors import UserError
from safezone.fields import Count, Natural

if TYPE_CHECKING:
    from safezone.audit.entry import Code


@dataclass(frozen=True, kw_only=True)
class Options(OnSuite):
    """The options."""

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
    """Folder of what is made on the way; never that of the evaluation."""


def _source(entry: Path, code: "Code", files: Mapping[str, Path]) -> str | Path:
    """Where the code is: a name of ours, or the file of that hash, or any other that was given."""
    if code.file is None:
        return code.name
    if not files:
        raise UserError(
            f"{entry} rests on a Python file, SHA-256 {code.file[:12]}; look at it, and give it "
            "with --code"
        )
    return files.get(code.file) or next(iter(files.values()))


def run(options: Options) -> Answer:
    """Verifies each entry."""
    from safezone.audit.entry import read_entry
    from safezone.audit.evaluate import read_subject
    from safezone.audit.verify import Verdict, drawn_concepts, verify
    from safezone.files import digest
    from safezone.reading import require_file

    for file in options.code:
        require_file(file, "a Python file")
    files = {digest(file.read_bytes()): file for file in options.code}
    entries = {path: read_entry(path) for path in dict.fromkeys(options.entries)}
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    subjects = {}
    for path, entry in entries.items():
        attack = None if entry.attack is None else _source(path, entry.attack, files)
        subjects[path] = read_subject(entry.of, _source(path, entry.poison, files), attack)
    verdicts: dict[Path, Verdict] = {}
    groups: dict[tuple[str, str, int], list[Path]] = {}
    for path, entry in entries.items():
        noise = entry.seed if options.noise is None else options.noise
        groups.setdefault((entry.suite, entry.model, noise), []).append(path)
    for (_, model, noise), paths in groups.items():
        suite = entries[paths[0]].of
        drawn = drawn_concepts(suite, options.concepts, seed)
        note(f"{suite.name} on {model}: {', '.join(drawn)} (--seed {seed})")
        trial = open_trial(suite, model, noise, {}, options.work, options)
        of_paths = {path: (subjects[path], entries[path]) for path in paths}
        verdicts |= verify(trial, of_paths, drawn, progress=progress(), note=note)
    lines = [
        f"{path}: {sentence}" for path, each in verdicts.items() for sentence in each.sentences()
    ]
    data = {"seed": seed, "entries": {str(path): v.as_json() for path, v in verdicts.items()}}
    return Answer(
        data, "\n".join(lines), status=0 if all(v.within for v in verdicts.values()) else 1
    )


COMMAND = Command(__doc__, Options, run)
