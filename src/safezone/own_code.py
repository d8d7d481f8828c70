"""Python files of the user's, whose objects get names beside those of the tables."""

import importlib.util
import re
import sys
from collections.abc import Container, Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Final, Protocol, TypeVar

from safezone.errors import UserError
from safezone.files import digest
from safezone.reading import require_file

OWN_MODULE: Final = "safezone_own_"
"""Begins the name of such a file's module; the hash of its content follows, which so becomes part
of the keys of all that rests on it."""


def load_own(file: Path) -> ModuleType:
    """The file as a module: it is run, once for each content.

    Raises UserError for a file that is missing, is no Python file or fails.
    """
    require_file(file, "a Python file")
    return _module(file, OWN_MODULE + digest(file.read_bytes())[:16])


@cache
def _module(file: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"{file} is no Python file; give one whose name ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for their module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        del sys.modules[name]
        raise UserError(f"{file} fails with {type(error).__name__}: {error}; correct it") from error
    return module


class _Named(Protocol):
    @property
    def name(self) -> str: ...


OwnRow = TypeVar("OwnRow", bound=_Named)

_NAME: Final = re.compile(r"[a-z][a-z0-9+@.-]*")


def own_rows(
    files: Iterable[Path], kind: type[OwnRow], taken: Container[str]
) -> Mapping[str, OwnRow]:
    """The values of a kind in all files, by name. The files are run: give only those you trust.

    ``taken``: names that the table has. Raises UserError for a file that is missing, fails or has
    no such value, and for a name that is taken.
    """
    rows_by_name: dict[str, OwnRow] = {}
    noun = kind.__name__.lower()
    for file in files:
        rows = [value for value in vars(load_own(file)).values() if isinstance(value, kind)]
        if not rows:
            raise UserError(
                f"{file} has no {noun}; assign a safezone.{noun}s.{kind.__name__} to a name"
            )
        for row in rows:
            if not _NAME.fullmatch(row.name):
                raise UserError(
                    f"{file} names a {noun} {row.name!r}; use small letters, digits, +, @, . and -"
                )
            if row.name in taken or row.name in rows_by_name:
                raise UserError(f"{file} has the {noun} {row.name!r}, a name that is taken")
            rows_by_name[row.name] = row
    return rows_by_name
