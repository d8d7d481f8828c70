"""The command line in fresh processes, of any copy of the package, without waiting for imports.

They are forked off one that has imported the large libraries, and nothing of this package.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

_STREAMS = ("out", "error")


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it wrote."""

    status: int | None
    out: str
    error: str


def _enter(
    module: str,
    arguments: Sequence[str],
    package: Path | None,
    streams: Path,
    environment: Mapping[str, str],
) -> None:
    for number, name in enumerate(_STREAMS, 1):
        os.dup2(os.open(streams / name, os.O_WRONLY), number)
    os.environ.update({"COLUMNS": "200", **environment})
    if package is not None:
        sys.path.insert(0, str(package))
        os.environ["PYTHONPATH"] = str(package)  # for processes that it starts itself
    sys.exit(import_module(module).main([*arguments]))


def start(
    arguments: Sequence[str],
    streams: Path,
    package: Path | None = None,
    module: str = "safezone.cli",
    **environment: str,
) -> BaseProcess:
    """``module.main(arguments)``. ``streams``: a folder for the files ``out`` and ``error``."""
    from safezone.lab.executors import fresh  # not above: a fresh process imports this module

    for name in _STREAMS:
        (streams / name).write_text("")
    told = (module, arguments, package, streams, environment)
    process = fresh().Process(target=_enter, args=told)
    process.start()
    return process


def run(package: Path, *arguments: str, module: str = "safezone.cli", **environment: str) -> Done:
    """With the package that lies in ``package``."""
    with TemporaryDirectory() as folder:
        process = start(arguments, Path(folder), package, module, **environment)
        process.join()
        out, error = ((Path(folder) / name).read_text() for name in _STREAMS)
        return Done(process.exitcode, out, error)


def run_pytest(package: Path, *arguments: str, **environment: str) -> Done:
    """A library that is imported already cannot be rewritten, of which pytest warns."""
    quiet = ("-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
    return run(package, *quiet, *arguments, module="pytest", **environment)
