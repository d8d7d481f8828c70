"""The command line: finds the command, runs it, and says in one sentence what went wrong."""

import difflib
import io
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from types import ModuleType
from typing import Any, Final

from safezone import __version__
from safezone.errors import Notice, UserError
from safezone.reading import own_fault

COMMANDS: Final[Mapping[str, str]] = {
    "demo": "six concepts, clean and poisoned, with and without defense: one page in minutes",
    "poison": "protect the images of a folder",
    "mask": "check the masks of a folder's images, or make them",
    "personalize": "learn the objects of folders, with any defenses, in one pass",
    "export": "write what was learned for ComfyUI, AUTOMATIC1111, kohya's scripts or diffusers",
    "generate": "make images of what was learned",
    "score": "compare generated images with the clean ones",
    "audit": "does my protection hold? careful trainings on my pictures, one verdict, one page",
    "serve": "a page to do so with the mouse, on this machine only",
    "evaluate": "two numbers of a poison, or of an attack on it, on fixed objects: an entry",
    "verify": "measure entries again and say whether their numbers hold",
    "leaderboard": "one page of all entries, by their worst case",
    "inspect": "is there poison in these images? a score for each, without the originals",
    "report": "one page with pictures, scores and what they mean",
    "claim": "measure the paper's claim: ten concepts, three seeds, every defense",
    "analyze": "look at folders: histogram, spectrum, timesteps, sensitivity",
    "figure": "draw a figure of the paper, 1 to 21, on a model",
    "grid": "the paper's tables, or your own: list, show, run, status, gc, export",
    "list": "every name that an option takes: poisons, defenses, methods, models and more",
    "concepts": "the ten built-in concepts: list, show, export",
    "models": "the built-in models and encoders: list, path, convert",
    "prompts": "the prompt lists",
}

_MODULES: Final = {
    "serve": "audit",
    "inspect": "poison",
    **dict.fromkeys(("claim", "demo", "figure"), "paper"),
    "export": "generate",
    "score": "report",
    "grid run": "grid_run",
    **dict.fromkeys(("analyze timesteps", "analyze sensitivity"), "analyze_model"),
    **dict.fromkeys(("evaluate", "verify", "leaderboard"), "entries"),
    **dict.fromkeys(("list", "concepts", "models", "prompts"), "lists"),
}
"""In ``safezone.commands``, of the commands whose module is not called as their first word is."""

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
Exit status: 0 when all went well, 1 when some runs failed and others did not, 2 when the input is
wrong (one sentence says what), 130 when stopped; give a stopped command again and it goes on.
"""


def _near(kind: str, name: str, known: Sequence[str]) -> UserError:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
    return UserError(f"there is no {kind} {name!r}; {hint}")


def module_of(words: str) -> ModuleType:
    """The module of a command; where it takes a verb, a table ``VERBS`` there has them."""
    return import_module(f"safezone.commands.{_MODULES.get(words, words.split()[0])}")


def _find(arguments: Sequence[str]) -> tuple[type[Any], str, Sequence[str]]:
    """The command, its words and the rest of the arguments; SystemExit after a list of verbs.

    The class is called after the words: GridRunCommand.
    """
    words, *rest = arguments
    if words not in COMMANDS:
        raise _near("command", words, tuple(COMMANDS))
    module = module_of(words)
    verbs: Mapping[str, str] | None = getattr(module, "VERBS", None)
    if verbs is not None:
        if not rest or rest[0] in ("-h", "--help", "help"):
            print(f"{module.__doc__}{_lines(verbs)}", end="")
            raise SystemExit(0)
        verb, *rest = rest
        if verb not in verbs:
            raise _near("verb", verb, tuple(verbs))
        words = f"{words} {verb}"
    return getattr(module_of(words), f"{words.title().replace(' ', '')}Command"), words, rest


def _lines(texts: Mapping[str, str]) -> str:
    width = max(map(len, texts))
    return "".join(f"    {name:<{width}}  {text}\n" for name, text in texts.items())


@contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Our own warnings, each once, as a line on standard error; those of libraries not at all."""

    shown: set[str] = set()  # Python forgets what it has shown when a library changes filters

    def show(message: Warning | str, *_: object, **__: object) -> None:
        if str(message) not in shown:
            print(f"note: {message}", file=sys.stderr)
        shown.add(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("once", category=Notice)
        warnings.showwarning = show
        yield


_SPARING = (
    ("precision", "--precision bfloat16"),
    ("checkpointing", "--checkpointing"),
    ("runs_per_pass", "--runs-per-pass 1"),
    ("batch_size", "--batch-size 1"),
    ("images_per_prompt", "fewer images a prompt"),
    ("device", "--device cpu"),
)
"""What takes less memory, where a command has that option."""


def _out_of_memory(error: Exception, options: Any) -> str | None:
    """What to lower where memory ran out, of the device or the computer; None for other errors."""
    from safezone.lab.memory import OutOfMemory, is_out_of_memory
    from safezone.lab.presets import flat

    if not isinstance(error, OutOfMemory) and not is_out_of_memory(error):
        return None
    names = {name.rpartition(".")[2] for name in flat(asdict(options))}
    hints = [hint for name, hint in _SPARING if name in names]
    return (
        f"memory ran out; give {', '.join(hints) or 'smaller images'}, a smaller model, or end "
        "other programs"
    )


def _run(arguments: Sequence[str]) -> int:
    command, words, rest = _find(arguments)
    from safezone.commands.arguments import parse

    options = parse(command, rest, words)
    try:
        answer = options.run()
    except (MemoryError, RuntimeError) as error:
        sentence = _out_of_memory(error, options)
        if sentence is None:
            raise
        raise UserError(sentence) from error
    if options.json:
        utf = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
        print(json.dumps(answer.data, ensure_ascii=not utf))
    elif answer.text:
        print(answer.text)
    return int(answer.status)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status; never ends the process itself."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # escapes for names that it has no letters for
            stream.reconfigure(errors="backslashreplace")
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(INTRODUCTION + _lines(COMMANDS) + CLOSING, end="")
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"safezone {__version__}")
        return 0
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    try:
        with _warnings_as_notes():
            return _run(arguments)
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
    except Exception as error:
        if (reason := own_fault(error)) is None:
            raise
        print(f"safezone: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\nsafezone: stopped; give the same command again to go on from here", file=sys.stderr
        )
        return 130
    except SystemExit as error:  # --help of a command
        return error.code if isinstance(error.code, int) else 0
