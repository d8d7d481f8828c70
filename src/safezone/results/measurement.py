"""One grid, measured: what is missing is run, then rows, tables, summary and page are written."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from safezone.files import locked, write_json, write_text
from safezone.lab.config import settings_yaml
from safezone.lab.executors import Executor
from safezone.lab.lab import Lab
from safezone.lab.run import Grid, Run
from safezone.lab.schedule import plan, run_grid
from safezone.lab.stage import job, jobs
from safezone.lab.store import NEEDS
from safezone.results.artifacts import INDEX
from safezone.results.folder import write_results
from safezone.scores import Row

SETTINGS: Final = "settings.yaml"
"""With ``--config`` it repeats the measurement."""
PROMPTS_SHOWN: Final = 6
"""Of each run, on a page of more than three concepts."""
RESULT_LOCK: Final = ".results.lock"
"""In a result's folder, while a process makes it."""
_BEHIND: Final = ("generate", "personalize")


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured. ``rows``: with those of failed runs; ``failed``: reasons by run."""

    rows: list[Row]
    failed: dict[str, str]
    page: Path

    @property
    def scored(self) -> list[Row]:
        """The rows with a value."""
        return [row for row in self.rows if not row.reason]


def measure(
    lab: Lab,
    grid: Grid,
    workspace: Path,
    folder: Path,
    *,
    title: str,
    command: str,
    kind: Literal["grid", "claim"] = "grid",
    executor: Executor | None = None,
    progress: bool = True,
    note: Callable[[str], None] = lambda text: None,
) -> Measured:
    """Runs what is missing and writes the results to ``folder``, inside ``workspace`` or itself.

    A run that fails is a row with its reason; the others go on. Other processes may run other
    grids in the same workspace: what they have in common is made by one of them. Raises UserError
    when another process writes to ``folder`` or it cannot be written.
    """
    started = time.monotonic()
    with locked(workspace, shared=True), locked(folder, file=RESULT_LOCK):
        write_text(folder / SETTINGS, settings_yaml(lab.settings))
        _write_needs(lab, grid, folder)
        counts = plan(lab, grid).values()
        whole = not any(finished for finished, _ in counts)
        if all(finished == total for finished, total in counts):
            executor = None  # nothing is left for others to do
        results = run_grid(lab, grid, executor=executor, progress=progress, note=note)
        failed = {run.label: reason for run, reason in results.failed.items()}
        seeds = [run.seed for run in grid]
        first = [r for r in grid if r not in results.failed and r.seed == min(seeds)]
        places = [
            [os.path.relpath(job(lab, run).of[stage].place, folder) for stage in _BEHIND]
            for run in first
        ]
        index: dict[str, Any] = {
            "title": title,
            "command": command,
            "settings": {**asdict(lab.settings), "precision": lab.model.precision},
            "failed": failed,
            "most_prompts": None if len(lab.concepts) <= 3 else PROMPTS_SHOWN,
            "duration": time.monotonic() - started if whole else None,
            "grid": grid.name if kind == "grid" else None,
            "table": grid.table,
            "metric": grid.metric,
            "pooled": _pooled(lab, [run for run in grid if run not in results.failed]),
            "images": [images for images, _ in places],
            "adapters": {images: adapter for images, adapter in places},
        }
        write_json(folder / INDEX, index)
        page = write_results(folder, index, results.rows)
    return Measured(results.rows, failed, page)


def _pooled(lab: Lab, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The FID of each cell over all of its concepts and seeds, where Inception's features are.

    One value for each method, model, poison and defense, with the counts of images behind it.
    """
    from safetensors.torch import load_file

    from safezone.scores.inception import pooled_distance

    cells: dict[tuple[str, ...], list[tuple[str, Path]]] = {}
    for run in runs:
        file = job(lab, run).of["score"].place / "inception.safetensors"
        if file.is_file():
            cell = (run.method, run.model, run.poison, run.defense)
            cells.setdefault(cell, []).append((run.concept, file))
    values = []
    for names, files in cells.items():
        distance = pooled_distance((concept, load_file(file)) for concept, file in files)
        if distance is not None:
            columns = ("method", "model", "poison", "defense")
            values.append(dict(zip(columns, names, strict=True)) | asdict(distance))
    return values


def _write_needs(lab: Lab, grid: Grid, folder: Path) -> None:
    """Records which artifacts the grid rests on, relative to the workspace's work folder."""
    places = {each.place for each_job in jobs(lab, grid) for each in each_job.of.values()}
    names = sorted(str(place.relative_to(lab.folder)) for place in places)
    write_json(folder / NEEDS, {"grid": grid.name, "runs": len(grid), "artifacts": names})
