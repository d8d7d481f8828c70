"""How arguments become a command's options: the preset of the model, a YAML file over it, arguments
over that."""

import argparse
import contextlib
import inspect
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar, get_type_hints

import tyro

from safezone.commands.command import Command, Entries, Folders
from safezone.errors import UserError
from safezone.fields import FieldError, require_fields
from safezone.lab.presets import read_settings
from safezone.lab.settings import Settings

_PATHS: Final = tyro.constructors.ConstructorRegistry()
"""How words become paths: an empty one, as of a shell's unset variable, is not this folder."""


def _given(word: str) -> Path:
    if not word:
        raise ValueError(_EMPTY)
    return Path(word)


@_PATHS.primitive_rule
def _path(
    kind: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[Path] | None:
    if kind.type is not Path:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: _given(words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    )


AnyCommand = TypeVar("AnyCommand", bound=Command)


def parse(command: type[AnyCommand], arguments: Sequence[str], name: str = "") -> AnyCommand:
    """A command with its options; ``name``: its words on the command line.

    Lists that options make replace the file's. Raises UserError for what cannot be read;
    SystemExit(0) after ``--help``.
    """
    defaults = _defaults(command, _settings(arguments, command.own_preset(arguments)))
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), _PATHS:
            read = tyro.cli(
                tyro.conf.FlagCreatePairsOff[command],  # type: ignore[misc, valid-type]
                args=list(arguments),
                prog=f"safezone {name}",
                description=inspect.getdoc(command),
                default=_without_lists(defaults),
            )
        options: AnyCommand = _with_lists(read, defaults)
        require_fields(options)
    except FieldError as error:
        what = _places(command).get(error.field)
        if error.value == () and what is not None:
            raise UserError(f"give at least one {what}; see `safezone {name} --help`") from error
        raise UserError(f"{_option(error, arguments)} {error.reason}") from error
    except SystemExit as error:
        if error.code in (0, None):
            raise
        raise UserError(f"{_sentence(errors.getvalue())}; see `safezone {name} --help`") from error
    return options


_PLACES: Final = ((Folders, "folder (FOLDER)"), (Entries, "entry (ENTRY.json)"))


def _places(kind: type[Any]) -> dict[str, str]:
    """The fields that are given without an option's name, as many as one likes: what each holds."""
    return {
        each.name: what for each in fields(kind) for type_, what in _PLACES if each.type == type_
    }


def _option(error: FieldError, arguments: Sequence[str]) -> str:
    """The option as the arguments have it, or else the field's name.

    Options of two groups may end alike: then it is the one with the value.
    """
    ending = error.field.replace("_", "-")
    fitting = {}
    for word, after in zip(arguments, [*arguments[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if name.startswith("--") and re.split(r"[.]|--", name)[-1].replace("_", "-") == ending:
            fitting[value if equals else after] = name
    return fitting.get(str(error.value), next(iter(fitting.values()), error.field))


def early(arguments: Sequence[str]) -> argparse.Namespace:
    """--config, --model, --method and --attacker, before all can be read: the defaults of others
    rest on them.

    None where they are not given, or where the real parser will say what is wrong.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", type=_given)
    parser.add_argument("--model")
    parser.add_argument("--method")
    parser.add_argument("--attacker")
    with contextlib.suppress(argparse.ArgumentError, SystemExit):
        return parser.parse_known_args(list(arguments))[0]
    return parser.parse_args([])


def positionals(command: type[Any], arguments: Sequence[str]) -> list[str]:
    """The arguments that are given without an option's name."""
    flags, found, value = {*_flags(command)}, [], False
    for word in arguments:
        option = word.startswith("--")
        if not option and not value:
            found.append(word)
        name = word.removeprefix("--").removeprefix("no-").rpartition(".")[2].replace("-", "_")
        value = option and "=" not in word and name not in flags
    return found


def _flags(kind: type[Any]) -> Iterator[str]:
    """The fields, of its groups too, whose options have no value."""
    for name, hint in get_type_hints(kind).items():
        if hint is bool:
            yield name
        elif is_dataclass(hint) and isinstance(hint, type):
            yield from _flags(hint)


def _settings(arguments: Sequence[str], base: Settings | None) -> Settings:
    """What stands before the options, whose defaults depend on the model and the method."""
    if {"-h", "--help"} & {*arguments}:
        return read_settings(None, None, base)
    options = early(arguments)
    return read_settings(options.config, options.model, base, options.method)


def _defaults(kind: type[Any], settings: Settings) -> Any:
    """An instance with the settings' groups; what has no default is marked as missing."""
    values: dict[str, Any] = {}
    for each in fields(kind):
        if hasattr(settings, each.name):
            values[each.name] = getattr(settings, each.name)
        elif each.default is each.default_factory:  # both are dataclasses.MISSING
            values[each.name] = tyro.MISSING
    return kind(**values)


def _without_lists(defaults: Any) -> Any:
    """Options that append start from nothing, or a default could never be replaced."""
    changes: dict[str, Any] = {}
    for each in fields(defaults):
        value = getattr(defaults, each.name)
        if isinstance(value, tuple):
            changes[each.name] = ()
        elif _is_group(value):
            changes[each.name] = _without_lists(value)
    return replace(defaults, **changes)


def _with_lists(options: Any, defaults: Any) -> Any:
    """The defaults of lists that the arguments do not name."""
    changes: dict[str, Any] = {}
    for each in fields(options):
        value, before = getattr(options, each.name), getattr(defaults, each.name)
        if value == () and before is not tyro.MISSING:
            changes[each.name] = before
        elif _is_group(value):
            changes[each.name] = _with_lists(value, before)
    return replace(options, **changes)


def _is_group(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


_EMPTY: Final = "give a file or folder"
_MESSAGES: Final = (
    (rf"Error parsing (\S+?): .*{_EMPTY}.*", rf"\1 is empty; {_EMPTY}"),
    (
        r"Error parsing (\S+?): Could not find valid parse for arguments: \[(?:.*, )?''(?:, .*)?\]",
        rf"one \1 is empty; {_EMPTY}",
    ),
    (r"Error parsing (\S+): .*invalid literal for int.*?: (.+)", r"\1 is \2; give a whole number"),
    (r"Error parsing (\S+): .*could not convert string to float: (.+)", r"\1 is \2; give a number"),
    (r"Error parsing (\S+?): (.+)", r"\1: \2"),
    (r"Missing value for argument '\('(\S+)',\)'.*", r"\1 has no value; give one"),
    (r"Unrecognized options: (--\S+?)(?:,.*|\. Perhaps.*)?", r"there is no option \1"),
    (r"Unrecognized options: (.+)", r"\1 is more than this command takes; leave it out"),
)
"""What the parser says, as a pattern, and what we say."""


def _sentence(box: str) -> str:
    """The parser's framed message as one sentence."""
    lines = [re.sub(r"[╭╮╰╯│]", "", line).strip(" ─") for line in box.splitlines()]
    lines = [line for line in lines if line]
    every = " ".join(lines[1:]).partition("Argument helptext:")[0].partition("For full help")[0]
    near = re.search(r"Perhaps you meant:\s*(--\S+)", " ".join(lines))
    hint = f", did you mean {near[1]}?" if near else ""
    unknown = re.search(r"Unrecognized options:\s*(--[^\s,]+)", every)
    if unknown:
        return f"there is no option {unknown[1]}{hint}"
    if lines and lines[0] == "Required options":
        names = [match[0] for line in lines[1:] if (match := re.match(r"--\S+|[A-Z]+$", line))]
        return f"{' and '.join(names)} must be given"
    choice = re.match(r"invalid choice (.+) for argument '(\S+)'\. Expected one of \((.+)\)", every)
    if choice:
        known = [each for each in re.findall(r"'([^']+)'", choice[3]) if each != "None"]
        return f"{choice[2]} is {choice[1]}; give one of {', '.join(sorted(known))}"
    every = every.strip().rstrip(".")
    for pattern, text in _MESSAGES:
        if match := re.fullmatch(pattern, every):
            return match.expand(text) + hint
    return every or "the options cannot be read"
