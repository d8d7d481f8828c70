"""What all commands share: their common options, reading the command line, answering."""

import argparse
import contextlib
import io
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import tyro

from safezone.errors import UserError
from safezone.lab.config import read_settings
from safezone.lab.settings import Settings

Options = TypeVar("Options")
Group = TypeVar("Group")

Flat: TypeAlias = Annotated[Group, tyro.conf.OmitArgPrefixes]
"""A group of settings whose options do not carry the group's name."""


Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Machine:
    """Where and how it runs."""

    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """cpu, cuda, ...; by default CUDA where there is one."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """CPU threads; by default as many as there are idle cores, or OMP_NUM_THREADS."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE.yaml")] = None
    """YAML file with settings; options given here win over it."""
    json: bool = False
    """Print one JSON object on standard output."""


@dataclass(frozen=True)
class Answer:
    """What a command has to say: as one JSON object, as text, and by its exit status."""

    data: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    status: int = 0


def note(text: str) -> None:
    """One line for the person who waits, on standard error."""
    print(text, file=sys.stderr, flush=True)


def progress() -> bool:
    """Whether progress bars are of use: somebody looks at standard error."""
    return sys.stderr.isatty()


def parse(
    kind: type[Options],
    arguments: Sequence[str],
    *,
    name: str,
    description: str,
    base: Callable[[], Settings] | None = None,
) -> Options:
    """The options: the preset of the model, the YAML file over it, the arguments over that.

    Lists that options make replace the file's. Raises UserError for what cannot be read;
    SystemExit(0) after ``--help``.
    """
    settings = _settings(arguments, None if base is None else base())
    defaults = _defaults(kind, settings)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            given = tyro.cli(
                tyro.conf.FlagCreatePairsOff[kind],  # type: ignore[valid-type, misc]
                args=list(arguments),
                prog=f"safezone {name}",
                description=description,
                default=_without_lists(defaults),
            )
    except SystemExit as error:
        if error.code in (0, None):
            raise
        raise UserError(_sentence(errors.getvalue(), name)) from error
    result: Options = _with_lists(given, defaults)
    return result


def _settings(arguments: Sequence[str], base: Settings | None) -> Settings:
    """What stands before the options: needed first, since the defaults depend on the model."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--config", type=Path)
    early.add_argument("--model")
    early.add_argument("--method")
    try:
        told, _ = early.parse_known_args(list(arguments))
    except (argparse.ArgumentError, SystemExit):
        return read_settings(None, None, base)  # the real parser tells what is wrong
    return read_settings(told.config, told.model, base, told.method)


def _defaults(kind: type[Any], settings: Settings) -> Any:
    """An instance with the settings' groups; what has no default is marked as missing."""
    values: dict[str, Any] = {}
    for each in fields(kind):
        if hasattr(settings, each.name):
            values[each.name] = getattr(settings, each.name)
        elif each.default is each.default_factory:  # both are dataclasses.MISSING
            values[each.name] = tyro.MISSING
    return kind(**values)


def _is_list(value: Any) -> bool:
    return isinstance(value, tuple)


def _without_lists(defaults: Any) -> Any:
    """Options that append start from nothing, or a default could never be replaced."""
    return replace(
        defaults,
        **{
            each.name: _without_lists(value) if is_dataclass(value) else ()
            for each in fields(defaults)
            if _is_list(value := getattr(defaults, each.name)) or _is_group(value)
        },
    )


def _with_lists(given: Any, defaults: Any) -> Any:
    """The defaults of lists that were not given."""
    return replace(
        given,
        **{
            each.name: _with_lists(value, before) if _is_group(value) else (value or before)
            for each in fields(given)
            if _is_list(value := getattr(given, each.name)) or _is_group(value)
            if (before := getattr(defaults, each.name)) is not tyro.MISSING
        },
    )


def _is_group(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _sentence(box: str, name: str) -> str:
    """The parser's framed message as one sentence."""
    lines = [re.sub(r"[╭╮╰╯│─]", "", line).strip() for line in box.splitlines()]
    text, title, rest = "", lines[0] if lines else "", lines[1:]
    if title == "Required options":
        missing = [match[0] for line in rest if (match := re.match(r"--\S+|[A-Z]+$", line))]
        text = f"{' and '.join(missing)} must be given"
    else:
        message = []
        for line in rest:
            if not line:
                break
            message.append(line)
        text = " ".join(message)
        near = re.search(r"Perhaps you meant:\s*(--\S+)", " ".join(rest))
        if near:
            text += f", did you mean {near[1]}?"
    text = (text or "the options cannot be read").rstrip(".")
    start = text[0] if text.startswith("--") else text[0].lower()
    return f"{start}{text[1:]}; see `safezone {name} --help`"


def set_threads(threads: int | None) -> None:
    """As many CPU threads as asked for, else as OMP_NUM_THREADS says, else one an idle core.

    More threads than idle cores make everything several times slower, not faster.
    """
    import torch

    if threads is not None:
        if threads < 1:
            raise UserError(f"threads is {threads}; give at least 1.")
        torch.set_num_threads(threads)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, round(idle_cores())))


def idle_cores(seconds: float = 0.3) -> float:
    """How many of the cores that we may use were idle while we looked; all where nobody tells.

    The load average would still count an installation that ended a minute ago.
    """

    def ticks() -> tuple[int, int]:
        lines = Path("/proc/stat").read_text().splitlines()
        rows = [list(map(int, line.split()[1:])) for line in lines if re.match(r"cpu\d", line)]
        return sum(row[3] + row[4] for row in rows), sum(map(sum, rows))

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        idle, every = ticks()
        time.sleep(seconds)
        idle_after, every_after = ticks()
    except OSError:
        return float(cores or 1)
    return (cores or 1) * (idle_after - idle) / max(1, every_after - every)


def require(given: Sequence[Any], what: str, command: str) -> None:
    """Raises UserError when a list of positional arguments is empty."""
    if not given:
        raise UserError(f"no {what} is given; see `safezone {command} --help`")


def require_not_negative(option: str, value: int | None) -> None:
    """UserError for a number below 0; None is an option that was not given."""
    if value is not None and value < 0:
        raise UserError(f"{option} is {value}; give 0 or more")
