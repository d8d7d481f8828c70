"""``safezone grid``: one module for each of its verbs that does more than look."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

from safezone.errors import UserError

VERBS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "list": "the paper's tables and figures that can be run",
        "show": "what a grid is made of, what it costs, what the paper found",
        "run": "run a grid, or go on with it; --dry-run tells what there is to do",
        "status": "how far the grids of a folder are",
        "gc": "remove what no grid of a folder needs",
        "export": "tables and rows of a folder's grids as CSV, Markdown and LaTeX",
    }
)

INTRODUCTION: Final = """\
The paper's tables and figures and your own grids: every run, killed and resumed without loss.

usage: safezone grid VERB [OPTIONS]

    safezone grid show table17
    safezone grid run table17 --model mini --concepts 10 --seeds 3 --dry-run
    safezone grid run table17 --model mini --concepts 10 --seeds 3
    safezone grid run table17 --model sd15 --data NovelConcepts10
    safezone grid run figure8 --model mini --seeds 1
    safezone grid run my-grid.yaml
    safezone grid status

Verbs, each with --help:
"""


@dataclass(frozen=True)
class Given:
    """A verb with its options, already read."""

    options: Any
    answer: Callable[[Any], Any]

    @property
    def json(self) -> bool:
        """Whether one JSON object is wanted."""
        return bool(getattr(self.options, "machine", self.options).json)


def read(arguments: Sequence[str]) -> Given:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        width = max(map(len, VERBS))
        print(INTRODUCTION + "\n".join(f"    {v:<{width}}  {s}" for v, s in VERBS.items()))
        raise SystemExit(0)
    verb, *rest = arguments
    if verb not in VERBS:
        raise UserError(f"there is no verb {verb!r}; choose from {', '.join(VERBS)}")
    module = import_module("safezone.commands.grid_run" if verb == "run" else f"{__name__}_look")
    return Given(module.read(verb, rest), getattr(module, f"run_{verb}"))


def run(given: Given) -> Any:
    return given.answer(given.options)
