"""Defenses of a Python file of the user's: rows that have a name like those of the table."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from safezone.defenses.defense import Defense
from safezone.defenses.table import DEFENSES
from safezone.reading import own_rows


def own_defenses(files: Iterable[Path]) -> Mapping[str, Defense]:
    """The rows of all files, by name; see ``reading.own_rows``."""
    return own_rows(files, Defense, DEFENSES)
