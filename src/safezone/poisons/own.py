"""Poisons of a Python file of the user's: rows that have a name like those of the table."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from safezone.errors import UserError
from safezone.own_code import load_own
from safezone.poisons.row import Poison
from safezone.poisons.table import POISONS

_NAME: Final = re.compile(r"[a-z][a-z0-9+@.-]*")


def own_poisons(files: Iterable[Path]) -> Mapping[str, Poison]:
    """The rows of all files, by name. The files are run: give only those that you trust.

    Raises UserError for a file that is missing, fails or has no row, and for a name that is taken.
    """
    rows_by_name: dict[str, Poison] = {}
    for file in files:
        rows = [value for value in vars(load_own(file)).values() if isinstance(value, Poison)]
        if not rows:
            raise UserError(f"{file} has no poison; assign a safezone.poisons.Poison to a name")
        for row in rows:
            if not _NAME.fullmatch(row.name):
                raise UserError(
                    f"{file} names a poison {row.name!r}; use small letters, digits, +, @, . and -"
                )
            if row.name in POISONS or row.name in rows_by_name:
                raise UserError(f"{file} has the poison {row.name!r}, a name that is taken")
            rows_by_name[row.name] = row
    return rows_by_name
