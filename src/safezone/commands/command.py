"""What a command is, and the options that commands share."""

import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import tyro

from safezone.fields import AT_LEAST_ONE, Checked, Count
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
