"""Six built-in concepts, clean and poisoned with ADM+: one page in minutes.

They are learned plainly and with Safe-Zone Training, drawn with six prompts and scored: about five
minutes of two cores.

Example:
    safezone demo --out demo-output

Next:
    open demo-output/report.html
    safezone claim --concepts 10 --seeds 3 --out runs/claim
"""

from dataclasses import dataclass, field
from pathlib import Path

from safezone.commands.claim import measure_claim
from safezone.commands.console import Answer, Command, Experiment, Flat
from safezone.lab.settings import DEMO, Cells, settings_told


@dataclass(frozen=True, kw_only=True)
class Options(Experiment):
    """The options."""

    out: Path = Path("demo-output")
    """Folder for the results."""
    cells: Flat[Cells] = field(default_factory=Cells)


def run(options: Options) -> Answer:
    """Measures the small grid and writes its page."""
    settings = settings_told(options, options.cells)
    return measure_claim(
        settings,
        options.out,
        options.machine,
        title="Does the protection of six objects hold?",
    )


COMMAND = Command(__doc__, Options, run, lambda _: DEMO)
