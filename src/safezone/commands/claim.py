"""Measures the paper's claim on the built-in concepts.

Every concept, clean and poisoned, is learned with every defense and seed, drawn and scored. Writes
OUT/report.html, table.md, table.csv, rows.csv and summary.json; everything made on the way is in
OUT/work. Kill it and start it again, and it goes on.

Example:
    safezone claim --concepts 10 --seeds 3 --out runs/claim
    safezone claim --concepts 10 --seeds 3 --out runs/claim --dry-run

Next:
    open runs/claim/report.html
"""

import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from safezone.commands.console import Answer, Command, Experiment, Flat, Machine, note, progress
from safezone.lab.settings import Cells, Settings, settings_told

if TYPE_CHECKING:
    from safezone.lab.lab import Lab


@dataclass(frozen=True, kw_only=True)
class Options(Experiment):
    """The options."""

    out: Path
    """Folder for the results."""
    dry_run: bool = False
    """Say what is done and what is to do, and write nothing."""
    cells: Flat[Cells] = field(default_factory=Cells)


def run(options: Options) -> Answer:
    """Measures, or tells what there is to do."""
    settings = settings_told(options, options.cells)
    title = "Do the protections hold on the built-in model?"
    if options.model != "mini":
        title = f"Do the protections hold on {options.model}?"
    return measure_claim(
        settings,
        options.out,
        options.machine,
        title=title,
        dry_run=options.dry_run,
    )


COMMAND = Command(__doc__, Options, run)


def open_claim(out: Path, settings: Settings, machine: Machine, sharers: int) -> "Lab":
    """The lab of the claim; processes that help call it as well. ``sharers``: they and this one."""
    from safezone.commands.opening import open_encoders, open_model, with_models
    from safezone.concepts.datasets import miniworld_concepts
    from safezone.paper.claim import claim_lab

    model = open_model(settings.model, machine, settings)
    lab = claim_lab(out, model, open_encoders(settings.scoring, machine), settings)
    return replace(with_models(lab, machine, miniworld_concepts), sharers=sharers)


def measure_claim(
    settings: Settings,
    out: Path,
    machine: Machine,
    *,
    title: str,
    dry_run: bool = False,
) -> Answer:
    """Runs the claim with these settings; the demo is the same with fewer cells."""
    from safezone.commands.opening import helpers, require_out_folder
    from safezone.lab.executors import Helped
    from safezone.paper.claim import claim, claim_plan
    from safezone.results.meaning import meaning_sentences
    from safezone.results.summary import summary_json, summary_markdown

    started = time.monotonic()
    require_out_folder(out)
    helping = 0 if dry_run else helpers(settings.model, machine)
    if helping:
        machine = replace(machine, threads=1)
    opened = partial(open_claim, out, settings, machine, helping + 1)
    lab = opened()
    stages = claim_plan(lab)
    lines = [f"{name}: {made} of {total} done" for name, (made, total) in stages.items()]
    if dry_run:
        counts = {name: {"done": made, "all": total} for name, (made, total) in stages.items()}
        return Answer({"dry_run": True, "stages": counts}, "\n".join(lines))
    note("; ".join(lines))
    executor = Helped(lab, opened, helping, progress()) if helping else None
    made = claim(lab, out, title=title, executor=executor, progress=progress(), note=note)
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
