"""``safezone demo``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from safezone.commands.claim import measure
from safezone.commands.console import Answer, Flat, Machine, parse
from safezone.lab.settings import (
    DEMO,
    Cells,
    Poisoning,
    Sampling,
    Scoring,
    settings_told,
)
from safezone.lab.training import Training

DESCRIPTION: Final = """\
Three built-in concepts, clean and poisoned with ADM+, learned plainly and with Safe-Zone Training,
drawn with six prompts and scored: one page, in at most five minutes on two slow cores.

Example:
    safezone demo --out demo-output

Next:
    open demo-output/report.html
    safezone claim --concepts 10 --seeds 3 --out runs/claim
"""


@dataclass(frozen=True)
class Options:
    """What ``safezone demo`` is told."""

    out: Path = Path("demo-output")
    """Folder for the results."""
    model: str = "mini"
    """Built-in model, diffusers folder or hub name."""
    cells: Flat[Cells] = field(default_factory=Cells)
    training: Flat[Training] = field(default_factory=Training)
    poisoning: Poisoning = field(default_factory=Poisoning)
    sampling: Sampling = field(default_factory=Sampling)
    scoring: Flat[Scoring] = field(default_factory=Scoring)
    machine: Flat[Machine] = field(default_factory=Machine)


def read(arguments: Sequence[str]) -> Options:
    return parse(Options, arguments, name="demo", description=DESCRIPTION, base=lambda: DEMO)


def run(options: Options) -> Answer:
    """Measures the small grid and writes its page."""
    settings = settings_told(options, options.cells)
    return measure(
        settings,
        options.out,
        options.machine,
        title="Does the protection of three objects hold?",
    )
