"""Reading the files of others, with one sentence for whatever is wrong: text, JSON, YAML, and
Python files, whose objects get names beside those of the tables."""

import importlib.util
import json
import re
import sys
import traceback
from collections.abc import Container, Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol, TypeVar

from safezone.errors import UserError
from safezone.files import digest

OWN_MODULE: Final = "safezone_own_"
"""Begins the name of the module of a user's Python file; the hash of its content follows, which so
becomes part of the keys of all that rests on it."""


def read_text(path: Path, what: str = "a text file") -> str:
    """The text of a UTF-8 file, without the mark that some programs put at its beginning.

    ``what``: what the file should be, for the message. Raises UserError when it is missing, not a
    file (a folder, a pipe: none is waited for), or not UTF-8.
    """
    try:
        require_file(path, what)
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); allow reading it") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; save it as {what} in UTF-8") from error


def require_file(path: Path, what: str) -> None:
    """Raises UserError when the path is missing or not a file, such as a folder or a pipe."""
    if path.is_file():
        return
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path} is a link to nothing; give {what}")
    if not path.exists():
        raise UserError(f"{path} does not exist; check the spelling, or give {what}")
    raise UserError(f"{path} is {'a folder' if path.is_dir() else 'no file'}; give {what}")


def unique_keys(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """A dict of the pairs; ValueError when a key comes twice, of which only one would count."""
    result: dict[Any, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"{key} is there twice, remove one")
        result[key] = value
    return result


def parse_json(text: str | bytes, **how: Any) -> Any:
    """``json.loads``; ValueError also where others have nested it deeper than Python reads."""
    try:
        return json.loads(text, **how)
    except RecursionError as error:
        raise ValueError(str(error)) from error


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; UserError when it is missing or something else."""
    try:
        value = parse_json(read_text(path, "JSON"), object_pairs_hook=unique_keys)
    except UserError as error:
        raise UserError(f"{error}, or make it again") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); make it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object; make it again")
    return value


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """Reads a YAML file of ``key: value`` lines; empty for an empty file.

    ``what``: what the file should be, for the message. Raises UserError when it is missing, not
    YAML or something else, and when a key is there twice: of the two only one would count.
    """
    return parse_yaml(read_text(path, what), path)


def parse_yaml(text: str, path: Path) -> dict[str, Any]:
    """``read_yaml`` of what was read from ``path``."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses repeated keys; merged ones (``<<``) may be overridden."""

        def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
            node = super().compose_mapping_node(anchor)  # merging is done later
            own = [(key.tag, key.value) for key, _ in node.value]
            if repeated := [key for key in own if own.count(key) > 1]:
                raise yaml.composer.ComposerError(
                    None, None, f"{repeated[0][1]} is there twice, remove one", node.start_mark
                )
            return node

    try:
        content = yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        problem = " ".join((getattr(error, "problem", None) or str(error)).split())
        raise UserError(f"{path} is not valid YAML{where}: {problem}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path} is not a list of settings; write lines such as model: mini")
    return content


def load_own(file: Path) -> ModuleType:
    """The file as a module: it is run, once for each content.

    Raises UserError for a file that is missing, is no Python file or fails.
    """
    require_file(file, "a Python file")
    return _module(file, file.read_bytes())


@cache
def _module(file: Path, content: bytes) -> ModuleType:
    name = OWN_MODULE + digest(content)[:16]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"{file} is no Python file; give one whose name ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for their module
    try:  # of no bytecode that Python keeps: an edit within a second would not count
        exec(compile(content, file, "exec"), vars(module))
    except UserError as error:  # of our own classes, which say what to give
        del sys.modules[name]
        raise UserError(f"{file}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        del sys.modules[name]
        raise UserError(f"{file} fails with {type(error).__name__}: {error}; correct it") from error
    return module


def own_fault(error: Exception) -> str | None:
    """Which line of a user's own file raised the error, or called what did; None for any other."""
    lines = [
        f"{frame.f_code.co_filename}, line {line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).startswith(OWN_MODULE)
    ]
    return f"{lines[-1]}: {type(error).__name__}: {error}; correct it" if lines else None


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
        values = {id(value): value for value in vars(load_own(file)).values()}  # each once
        rows = [value for value in values.values() if isinstance(value, kind)]
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
