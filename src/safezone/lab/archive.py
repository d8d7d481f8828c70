"""What lies in a workspace: its index and what no result needs any more."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from safezone.errors import UserError
from safezone.files import write_json
from safezone.lab.lab import TRAINING_FOLDER
from safezone.lab.stage import STAGES, Stage, of_runs
from safezone.lab.store import NEEDS, WORK
from safezone.reading import read_json

CATALOGUE: Final = "catalogue.json"
"""In the work folder: every finished artifact. It can be rebuilt from them at any time."""


@dataclass(frozen=True)
class Entry:
    """One finished artifact. ``place``: relative to the work folder. ``size``: in bytes."""

    stage: str
    place: str
    key: str
    size: int


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _folders(work: Path, stages: Sequence[Stage]) -> Iterator[tuple[Stage, Path]]:
    for stage in stages:
        for folder in sorted((work / stage.name).glob("*")):
            if folder.is_dir():
                yield stage, folder


def require_workspace(workspace: Path) -> Path:
    """The work folder; UserError for a folder in which no grid was run."""
    work = workspace / WORK
    if not work.is_dir():
        raise UserError(f"{workspace} is no folder of `safezone grid run`; give its --out")
    return work


def catalogue(workspace: Path, stages: Sequence[Stage] = STAGES) -> list[Entry]:
    """Every finished artifact, from the index where it is right, else from the artifacts.

    The index is written anew when it was missing, damaged or older than what is there.
    """
    work = require_workspace(workspace)
    places = {str(folder.relative_to(work)): stage for stage, folder in _folders(work, stages)}
    known: dict[str, Entry] = {}
    try:
        known = {e["place"]: Entry(**e) for e in read_json(work / CATALOGUE)["artifacts"]}
    except (UserError, KeyError, TypeError):
        known = {}
    entries = []
    for place, stage in places.items():
        record = work / place / stage.record
        if not record.is_file():
            continue
        entry = known.get(place)
        if entry is None:
            key = str(read_json(record).get("key", ""))
            entry = Entry(stage.name, place, key, _bytes(work / place))
        entries.append(entry)
    if entries != list(known.values()):
        write_json(work / CATALOGUE, {"artifacts": [asdict(entry) for entry in entries]})
    return entries


def by_stage(entries: list[Entry], stages: Sequence[Stage] = STAGES) -> dict[str, tuple[int, int]]:
    """(artifacts, bytes) of every stage, in the order of the data."""
    counts = {}
    for stage in stages:
        ours = [entry for entry in entries if entry.stage == stage.name]
        counts[stage.name] = (len(ours), sum(entry.size for entry in ours))
    return counts


def results(workspace: Path) -> dict[str, dict[str, Any]]:
    """{grid: what its needs.json says} of all grids that were run here."""
    places = {}
    for file in sorted(workspace.glob(f"*/{NEEDS}")):
        places[file.parent.name] = read_json(file)
    return places


def garbage(workspace: Path, stages: Sequence[Stage] = STAGES) -> list[Path]:
    """Artifacts that no grid of the workspace rests on, and what killed processes left.

    What figures have measured is no grid's, and stays.
    Raises UserError when no grid says what it needs: then everything would be garbage.
    """
    work = require_workspace(workspace)
    grids = results(workspace)
    if not grids:
        raise UserError(f"{workspace} has no grid with a {NEEDS}; run one there before gc")
    needed = {place for grid in grids.values() for place in grid["artifacts"]}
    unneeded = [
        folder
        for _, folder in _folders(work, list(of_runs(stages)))
        if str(folder.relative_to(work)) not in needed
    ]
    left = [*work.glob("*/.partial-*"), *(work / TRAINING_FOLDER).glob("*")]
    return sorted({*unneeded, *left})


def collect(workspace: Path, folders: list[Path]) -> int:
    """Removes the folders and returns how many bytes that freed."""
    freed = 0
    for folder in folders:
        freed += _bytes(folder)
        shutil.rmtree(folder)
    catalogue(workspace)
    return freed


def unfinished(workspace: Path) -> dict[str, tuple[int, int]]:
    """{grid: (artifacts that are there, all that it needs)}."""
    there = {entry.place for entry in catalogue(workspace)}
    return {
        name: (sum(place in there for place in grid["artifacts"]), len(grid["artifacts"]))
        for name, grid in results(workspace).items()
    }
