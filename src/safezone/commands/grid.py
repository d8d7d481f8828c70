"""The paper's tables and figures and your own grids: every run, killed and resumed without loss.

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

from collections.abc import Mapping
from typing import Final

VERBS: Final[Mapping[str, tuple[str, str]]] = {
    "list": ("grid_look.LIST", "the paper's tables and figures that can be run"),
    "show": ("grid_look.SHOW", "what a grid is made of, what it costs, what the paper found"),
    "run": ("grid_run.COMMAND", "run a grid or go on with it; --dry-run says what is to be done"),
    "status": ("grid_look.STATUS", "how far the grids of a folder are"),
    "gc": ("grid_look.COLLECT", "remove what no grid of a folder needs"),
    "export": ("grid_look.EXPORT", "tables and rows of grids as CSV, Markdown and LaTeX"),
}
"""Where each verb's command is, as ``MODULE.NAME``, and one line for the overview."""
