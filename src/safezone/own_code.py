"""Python files of the user's, whose objects get names beside those of the tables."""

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Final

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
