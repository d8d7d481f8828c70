"""``safezone claim``."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from safezone.commands.console import Answer, Flat, Machine, note, parse, progress
from safezone.lab.settings import (
    Cells,
    Poisoning,
    Sampling,
    Scoring,
    Settings,
    settings_told,
)
from safezone.lab.training import Training

DESCRIPTION: Final = """\
Measures the paper's claim on the built-in concepts: every concept clean and poisoned, learned with
every defense and seed, drawn and scored. Writes OUT/report.html, table.md, table.csv, rows.csv and
summary.json; what it made on the way is in OUT/work. Killed and started again, it goes on.

Example:
    safezone claim --concepts 10 --seeds 3 --out runs/claim
    safezone claim --concepts 10 --seeds 3 --out runs/claim --dry-run

Next:
    open runs/claim/report.html
"""


@dataclass(frozen=True)
class Options:
    """What ``safezone claim`` is told."""

    out: Path
    """Folder for the results."""
    model: str = "mini"
    """Built-in model, diffusers folder or hub name."""
    dry_run: bool = False
    """Say what is done and what is to do, and write nothing."""
    cells: Flat[Cells] = field(default_factory=Cells)
    training: Flat[Training] = field(default_factory=Training)
    poisoning: Poisoning = field(default_factory=Poisoning)
    sampling: Sampling = field(default_factory=Sampling)
    scoring: Flat[Scoring] = field(default_factory=Scoring)
    machine: Flat[Machine] = field(default_factory=Machine)


def read(arguments: Sequence[str]) -> Options:
    return parse(Options, arguments, name="claim", description=DESCRIPTION)


def run(options: Options) -> Answer:
    """Measures, or tells what there is to do."""
    settings = settings_told(options, options.cells)
    title = "Do the protections hold on the built-in model?"
    if options.model != "mini":
        title = f"Do the protections hold on {options.model}?"
    return measure(
        settings,
        options.out,
        options.machine,
        title=title,
        dry_run=options.dry_run,
    )


def measure(
    settings: Settings,
    out: Path,
    machine: Machine,
    *,
    title: str,
    dry_run: bool = False,
) -> Answer:
    """Runs the claim with these settings; the demo is the same with fewer cells."""
    from safezone.commands.opening import open_encoders, open_model, require_out_folder
    from safezone.paper.claim import claim, claim_lab, claim_plan
    from safezone.results import meaning_sentences
    from safezone.results.summary import summary_json, summary_markdown

    started = time.monotonic()
    require_out_folder(out)
    model = open_model(settings.model, machine)
    lab = claim_lab(out, model, open_encoders(settings.scoring, machine), settings)
    stages = claim_plan(lab)
    lines = [f"{name}: {made} of {total} done" for name, (made, total) in stages.items()]
    if dry_run:
        counts = {name: {"done": made, "all": total} for name, (made, total) in stages.items()}
        return Answer({"dry_run": True, "stages": counts}, "\n".join(lines))
    note("; ".join(lines))
    made = claim(lab, out, title=title, progress=progress(), note=note)
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
