"""The paper's claim, measured: poisons break nominal training, Safe-Zone Training gives it back.

    safezone claim --model mini --concepts 10 --seeds 3 --out runs/claim

By default each poison is made once for all seeds of a concept on the built-in model
(``poison_seed: 0``), which saves two thirds of the poisoning; with ``poison_seed: null`` every
seed has its own poison, and the intervals hold the poison's chance too.
"""

import os
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safezone.concepts import Concept
from safezone.datasets import miniworld_concepts
from safezone.errors import UserError
from safezone.experiments.config import settings_yaml
from safezone.experiments.lab import Lab, plan, run_grid
from safezone.experiments.outputs import INDEX, PROMPTS_SHOWN, write_results
from safezone.experiments.run import Grid
from safezone.experiments.settings import Settings
from safezone.experiments.stages import Encoders
from safezone.experiments.workspace import (
    cannot_write,
    locked,
    network_keys,
    weights_key,
    write_json,
)
from safezone.models.base import Model
from safezone.scores import CLEAN, Row
from safezone.scores.rows import write_text

WORK = "work"
"""The folder of all artifacts, beside the results."""
SETTINGS = "settings.yaml"
"""With ``safezone claim --config`` it repeats the measurement."""


@dataclass(frozen=True, eq=False)
class Claim:
    """What was measured. ``failed``: reasons by run; ``page``: the HTML report."""

    rows: list[Row]
    failed: dict[str, str]
    page: Path


def claim_grid(settings: Settings, concepts: Sequence[Concept], model_name: str) -> Grid:
    """Concepts x {clean, poisons} x defenses x seeds."""
    cells = settings.cells
    return Grid.product(
        "claim",
        concepts=[concept.name for concept in concepts],
        poisons=list(dict.fromkeys([CLEAN, *cells.poisons])),
        defenses=list(dict.fromkeys(cells.defenses)),
        seeds=range(cells.seeds),
        model=model_name,
        method=settings.training.personalization().name,
    )


def claim_lab(folder: Path, model: Model, encoders: Encoders, settings: Settings) -> Lab:
    """The lab of the first ``settings.cells.concepts`` novel concepts, in ``folder``/work.

    Raises UserError for settings that cannot be: unknown names, more concepts than there are.
    """
    from safezone.defenses import defense

    available = miniworld_concepts(model.image_size)
    cells = settings.cells
    if cells.concepts > len(available):
        raise UserError(
            f"There are {len(available)} built-in concepts and {cells.concepts} were asked for; "
            f"give concepts as 1 to {len(available)}."
        )
    for name in cells.defenses:
        network_keys(defense(name).preprocess, model)
    for name in cells.poisons:
        if name != CLEAN:
            settings.poisoning.poison(name)
    settings.training.personalization(), settings.sampling.texts()
    concepts = {concept.name: concept for concept in available[: cells.concepts]}
    return Lab(folder / WORK, model, weights_key(model), encoders, settings, concepts)


def claim_plan(lab: Lab) -> dict[str, tuple[int, int]]:
    """(done, all) of every stage; writes nothing."""
    return plan(lab, claim_grid(lab.settings, list(lab.concepts.values()), lab.model.name))


def claim(
    lab: Lab,
    folder: Path,
    *,
    title: str,
    progress: bool = True,
    note: Callable[[str], None] = lambda text: None,
) -> Claim:
    """Runs what is missing of the grid and writes rows, tables, summary and page to ``folder``.

    A run that fails is left out of the rows and told in ``failed``; the others go on. Raises
    UserError when another process works there or the folder cannot be written.
    """
    started = time.monotonic()
    grid = claim_grid(lab.settings, list(lab.concepts.values()), lab.model.name)
    with locked(folder):
        _write_settings(lab.settings, folder)
        whole = not any(finished for finished, _ in plan(lab, grid).values())
        results = run_grid(lab, grid, progress=progress, note=note)
        failed = {run.label: reason for run, reason in results.failed.items()}
        well = [run for run in grid if run not in results.failed]
        first = [run for run in well if run.seed == 0]
        most = None if len(lab.concepts) <= 3 else PROMPTS_SHOWN
        command = shlex.join(
            ["safezone", "claim", "--config", str(folder / SETTINGS), "--out", str(folder)]
        )
        about: dict[str, Any] = {
            "title": title,
            "command": command,
            "settings": asdict(lab.settings),
            "failed": failed,
            "most_prompts": most,
        }
        folders = [lab.images(run).place for run in first]
        write_json(
            folder / INDEX, {**about, "images": [os.path.relpath(f, folder) for f in folders]}
        )
        page = write_results(
            folder,
            results.rows,
            title=title,
            folders=folders,
            settings=flat(asdict(lab.settings)),
            command=command,
            failed=failed,
            duration=time.monotonic() - started if whole else None,
            most_prompts=most,
        )
    return Claim(results.rows, failed, page)


def _write_settings(settings: Settings, folder: Path) -> None:
    try:
        write_text(folder / SETTINGS, settings_yaml(settings))
    except OSError as error:
        raise cannot_write(folder, error) from error


def flat(settings: dict[str, Any]) -> dict[str, object]:
    """{"training": {"steps": 400}} to {"training.steps": 400}, for a table of settings."""
    result: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            result |= {f"{key}.{inner}": v for inner, v in value.items()}
        else:
            result[key] = value
    return result
