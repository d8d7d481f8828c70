"""``safezone analyze``: one analysis of the user's own folders."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final

from safezone.commands.console import Answer
from safezone.errors import UserError

ANALYSES: Final[Mapping[str, tuple[str, str]]] = {
    "histogram": (
        "analyze_folders",
        "changes of pixels, before and after JPEG, and whether bimodal",
    ),
    "spectrum": ("analyze_folders", "radial power spectra of pixels, or of latents with --vae"),
    "timesteps": ("analyze_timesteps", "loss, prediction and gradient by timestep"),
    "sensitivity": ("analyze_sensitivity", "where in the image a word of the prompt acts"),
}
"""The module of each analysis and what it shows."""

OVERVIEW: Final = """\
usage: safezone analyze ANALYSIS [OPTIONS]

Looks at folders of images, clean and poisoned, of any size; writes a figure as SVG and PNG and its
numbers as JSON. More in docs/analyses.md.

Example:
    safezone analyze histogram my-toy my-toy-poisoned --out analysis
    safezone analyze spectrum my-toy my-toy-poisoned --vae mini --out analysis
    safezone analyze timesteps my-toy my-toy-poisoned --prompt "a photo of a toy" --out analysis
    safezone analyze sensitivity my-toy --prompt "a photo of a toy" --word toy --out analysis

Analyses, each with --help:
"""


def read(arguments: Sequence[str]) -> Any:
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, ANALYSES))
        print(OVERVIEW + "\n".join(f"    {k:<{width}}  {v}" for k, (_, v) in ANALYSES.items()))
        raise SystemExit(0)
    name = arguments[0]
    if name not in ANALYSES:
        raise UserError(f"there is no analysis {name!r}; choose one of {', '.join(ANALYSES)}")
    module = import_module(f"safezone.commands.{ANALYSES[name][0]}")
    return module.read(name, arguments[1:])


def run(options: Any) -> Answer:
    module = import_module(type(options).__module__)
    answer: Answer = module.run(options)
    return answer
