"""``safezone claim``, and ``safezone demo``, the same with fewer cells."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from safezone.commands.console import Answer, Experiment, Flat, Machine, note, progress
from safezone.lab.settings import DEMO, Cells, Settings, settings_told

if TYPE_CHECKING:
    from safezone.lab.lab import Lab


@dataclass(frozen=True, kw_only=True)
class ClaimCommand(Experiment):
    """Measures the paper's claim on the built-in concepts.

    Every concept, clean and poisoned, is learned with every defense and seed, drawn and scored.
    Writes OUT/report.html, table.md, table.csv, rows.csv and summary.json; everything made on the
    way is in OUT/work. Kill it and start it again, and it goes on.

    Example:
        safezone claim --concepts 10 --seeds 3 --out runs/claim
        safezone claim --concepts 10 --seeds 3 --out runs/claim --dry-run

    Next:
        open runs/claim/report.html
    """

    out: Path
    """Folder for the results."""
    dry_run: bool = False
    """Say what is done and what is to do, and write nothing."""
    cells: Flat[Cells] = field(default_factory=Cells)

    def run(self) -> Answer:
        where = "the built-in model" if self.model == "mini" else self.model
        return _measure(self, f"Do the protections hold on {where}?", dry_run=self.dry_run)


@dataclass(frozen=True, kw_only=True)
class DemoCommand(Experiment):
    """Six built-in concepts, clean and poisoned with ADM+: one page in minutes.

    They are learned plainly and with Safe-Zone Training, drawn with six prompts and scored: about
    five minutes of two cores.

    Example:
        safezone demo --out demo-output

    Next:
        open demo-output/report.html
        safezone claim --concepts 10 --seeds 3 --out runs/claim
    """

    out: Path = Path("demo-output")
    """Folder for the results."""
    cells: Flat[Cells] = field(default_factory=Cells)

    def run(self) -> Answer:
        return _measure(self, "Does the protection of six objects hold?")

    @classmethod
    def own_preset(cls, arguments: Sequence[str]) -> Settings:
        return DEMO


def _open_claim(out: Path, settings: Settings, machine: Machine, sharers: int) -> "Lab":
    """The lab of the claim; processes that help call it as well. ``sharers``: they and this one."""
    from safezone.commands.opening import open_encoders, open_model, with_models
    from safezone.concepts.datasets import miniworld_concepts
    from safezone.paper.claim import claim_lab

    model = open_model(settings.model, machine, settings)
    lab = claim_lab(out, model, open_encoders(settings.scoring, machine), settings)
    return replace(with_models(lab, machine, miniworld_concepts), sharers=sharers)


def _measure(command: ClaimCommand | DemoCommand, title: str, *, dry_run: bool = False) -> Answer:
    from safezone.commands.opening import helped, machine_and_sharers, require_out_folder
    from safezone.paper.claim import claim, claim_plan
    from safezone.results.meaning import meaning_sentences
    from safezone.results.summary import summary_json, summary_markdown

    started = time.monotonic()
    require_out_folder(command.out)
    machine, sharers = machine_and_sharers(command.model, command.machine, alone=dry_run)
    settings = settings_told(command, command.cells)
    open_lab = partial(_open_claim, command.out, settings, machine, sharers)
    lab = open_lab()
    stages = claim_plan(lab)
    lines = [f"{name}: {made} of {total} done" for name, (made, total) in stages.items()]
    if dry_run:
        counts = {name: {"done": made, "all": total} for name, (made, total) in stages.items()}
        return Answer({"dry_run": True, "stages": counts}, "\n".join(lines))
    note("; ".join(lines))
    made = claim(
        lab,
        command.out,
        title=title,
        executor=helped(lab, open_lab),
        progress=progress(),
        note=note,
    )
    minutes = (time.monotonic() - started) / 60
    parts = [summary_markdown(made.scored) if made.scored else "no run went well"]
    parts += meaning_sentences(made.scored) if made.scored else []
    parts += [f"failed: {name}: {reason}" for name, reason in made.failed.items()]
    parts.append(f"\nreport: {made.page} (after {minutes:.1f} min)")
    data = {
        "page": str(made.page),
        "results": summary_json(made.scored) if made.scored else [],
        "failed": made.failed,
    }
    return Answer(data, "\n".join(parts), status=1 if made.failed else 0)
