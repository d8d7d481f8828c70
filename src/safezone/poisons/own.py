"""Poisons of a Python file of the user's: rows that have a name like those of the table."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from safezone.poisons.row import Poison
from safezone.poisons.table import POISONS
from safezone.reading import own_rows


def own_poisons(files: Iterable[Path]) -> Mapping[str, Poison]:
    """The rows of all files, by name; see ``reading.own_rows``."""
    return own_rows(files, Poison, POISONS)
