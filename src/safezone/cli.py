"""The command line: finds the command, runs it, and tells what went wrong in one sentence."""

import difflib
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final

from safezone import __version__
from safezone.errors import UserError

COMMANDS: Final[Mapping[str, str]] = {
    "demo": "three concepts, clean and poisoned, with and without defense: one page in minutes",
    "poison": "protect the images of a folder",
    "mask": "check the masks of a folder's images, or make them",
    "personalize": "learn the objects of folders, with any defenses, in one pass",
    "export": "write what was learned for ComfyUI, AUTOMATIC1111, kohya's scripts or diffusers",
    "generate": "make images of what was learned",
    "score": "compare generated images with the clean ones",
    "report": "one page with pictures, scores and what they mean",
    "claim": "measure the paper's claim: ten concepts, three seeds, every defense",
    "analyze": "look at folders: histogram, spectrum, timesteps, sensitivity",
    "figure": "draw a figure of the paper, 1 to 21, on a model",
    "grid": "the paper's tables, or your own: list, show, run, status, gc, export",
    "concepts": "the ten built-in concepts: list, show, export",
    "models": "the built-in models and encoders: list, path",
    "prompts": "the prompt lists",
}

INTRODUCTION: Final = """\
Does an image protection (a poison) still hold when someone personalizes a diffusion model on the
protected images with care?

usage: safezone COMMAND [OPTIONS]

Start here:
    safezone demo --out demo-output

Your own images, 3 to 15 of one object in a folder:
    safezone poison my-toy --out my-toy-poisoned
    safezone mask my-toy
    safezone personalize my-toy my-toy-poisoned --defense nominal --defense szt --out runs/my-toy
    safezone generate runs/my-toy
    safezone report runs/my-toy

Commands, each with --help:
"""

CLOSING: Final = """
Exit status: 0 when all went well, 1 when some runs failed and others did not, 2 when something
given is wrong (one sentence says what), 130 when stopped; a stopped command given again goes on.
"""


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"    {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return INTRODUCTION + "\n".join(lines) + "\n" + CLOSING


def _command(name: str) -> Any:
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "see `safezone --help`"
        raise UserError(f"there is no command {name!r}; {hint}")
    return import_module(f"safezone.commands.{name}")


@contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Our own warnings, each once, as a line on standard error; those of libraries not at all."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        print(f"note: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("once", category=UserWarning, module=r"safezone\.")
        warnings.showwarning = show
        yield


def _run(name: str, arguments: Sequence[str]) -> int:
    command = _command(name)
    options = command.read(arguments)
    answer = command.run(options)
    if getattr(options, "machine", options).json:
        print(json.dumps(answer.data, ensure_ascii=False))
    elif answer.text:
        print(answer.text)
    return int(answer.status)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status; never ends the process itself."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview(), end="")
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"safezone {__version__}")
        return 0
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    try:
        with _warnings_as_notes():
            return _run(arguments[0], arguments[1:])
    except UserError as error:
        print(f"safezone: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has had enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        print(
            f"safezone: cannot use{where or ' the disk'} ({error.strerror or error}); check that "
            "the place exists, is writable and has free space",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print(
            "\nsafezone: stopped; give the same command again to go on from here", file=sys.stderr
        )
        return 130
    except SystemExit as error:  # --help of a command
        return error.code if isinstance(error.code, int) else 0
