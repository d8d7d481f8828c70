"""What a command is, the options that commands share, and how arguments become options: the preset
of the model, a YAML file over it, arguments over that."""

import argparse
import contextlib
import inspect
import io
import re
import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, TypeVar, get_type_hints

import tyro

from safezone.errors import UserError
from safezone.fields import AT_LEAST_ONE, Checked, Count, FieldError, require_fields
from safezone.lab.presets import read_settings
from safezone.lab.settings import Names, Poisoning, Sampling, Scoring, Settings
from safezone.lab.training import Training
from safezone.models.known import LongPrompts, Precision

Group = TypeVar("Group")

Flat: TypeAlias = Annotated[Group, tyro.conf.OmitArgPrefixes]
"""A group of settings whose options do not carry the group's name."""
Folder: TypeAlias = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FOLDER")]]
"""One folder, without the name of an option before it."""
Folders: TypeAlias = Annotated[
    tyro.conf.Positional[tuple[Path, ...]], AT_LEAST_ONE, tyro.conf.arg(metavar="FOLDER")
]
"""One or more of them."""
Entries: TypeAlias = Annotated[
    tyro.conf.Positional[tuple[Path, ...]], AT_LEAST_ONE, tyro.conf.arg(metavar="ENTRY.json")
]
"""One or more files of ``safezone evaluate``."""


@dataclass(frozen=True)
class Answer:
    """What a command has to say: as one JSON object, as text, and by its exit status."""

    data: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    status: int = 0


@dataclass(frozen=True, kw_only=True)
class Command(ABC):
    """A command: its docstring is the text of ``--help``, its fields are the options."""

    json: bool = False
    """Print one JSON object on standard output."""

    @abstractmethod
    def run(self) -> Answer:
        """Does it; raises UserError for options that are wrong together."""

    @classmethod
    def own_preset(cls, arguments: Sequence[str]) -> Settings | None:
        """Settings that take the place of the preset of the model that the options name, if any."""
        return None


@dataclass(frozen=True)
class Processor:
    """What it runs on."""

    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """cpu, cuda, ...; by default CUDA where there is one."""
    threads: Annotated[Count | None, tyro.conf.arg(metavar="N")] = None
    """CPU threads; by default as many as there are idle cores, or OMP_NUM_THREADS."""


@dataclass(frozen=True)
class Machine(Processor, Checked):
    """Where and how it runs."""

    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE.yaml")] = None
    """YAML file with settings; options on the command line win over it."""


@dataclass(frozen=True, kw_only=True)
class OnModel(Command):
    """The options of every command that opens a model."""

    model: str = "mini"
    """Built-in model, diffusers folder, checkpoint file or hub name."""
    precision: Precision = "float32"
    """Of the models' weights; what is learned or poisoned stays float32. On a GPU float32
    multiplies in TF32, float32-exact does not."""
    long_prompts: LongPrompts = "cut"
    """Prompts longer than the text encoder lose their end; or are read in chunks of 75 tokens."""
    machine: Flat[Machine] = field(default_factory=Machine)


@dataclass(frozen=True, kw_only=True)
class Experiment(OnModel):
    """The options of every command that runs whole experiments."""

    poison_model: Annotated[Names, tyro.conf.arg(metavar="NAME")] = ()
    """What poisons are made on; may be given repeatedly, then their objectives are averaged. By
    default the model that is personalized (white box), for tables 23 to 31 SD 1.5 or mini."""
    purify_model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """What regen and impress denoise with; by default likewise."""
    training: Flat[Training] = field(default_factory=Training)
    poisoning: Poisoning = field(default_factory=Poisoning)
    sampling: Sampling = field(default_factory=Sampling)
    scoring: Flat[Scoring] = field(default_factory=Scoring)


def note(text: str) -> None:
    """One line for the person who waits, on standard error."""
    print(text, file=sys.stderr, flush=True)


def progress() -> bool:
    """Whether progress bars are of use: somebody looks at standard error."""
    return sys.stderr.isatty()


def command_line() -> str:
    """The words that started this process, for a page; nothing where a program did."""
    return shlex.join(["safezone", *sys.argv[1:]]) if len(sys.argv) > 1 else ""


def plural(count: int, noun: str) -> str:
    """``1 image``, ``3 images``."""
    return f"{count} {noun}{'s' * (count != 1)}"


AnyCommand = TypeVar("AnyCommand", bound=Command)


def parse(command: type[AnyCommand], arguments: Sequence[str], name: str = "") -> AnyCommand:
    """A command with its options; ``name``: its words on the command line.

    Lists that options make replace the file's. Raises UserError for what cannot be read;
    SystemExit(0) after ``--help``.
    """
    defaults = _defaults(command, _settings(arguments, command.own_preset(arguments)))
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
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
    parser.add_argument("--config", type=Path)
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


_MESSAGES: Final = (
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
