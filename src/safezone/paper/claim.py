"""The paper's claim, measured: poisons break nominal training, Safe-Zone Training gives it back.

    safezone claim --model mini --concepts 10 --seeds 3 --out runs/claim

By default each poison is made once for all seeds of a concept on the built-in model
(``poison_seed: 0``), which saves two thirds of the poisoning; with ``poison_seed: null`` every
seed has its own poison, and the intervals hold the poison's chance too.
"""

import shlex
from collections.abc import Callable
from pathlib import Path

from safezone.concepts.datasets import miniworld_concepts
from safezone.errors import UserError
from safezone.lab.executors import Executor
from safezone.lab.lab import Lab
from safezone.lab.run import Grid
from safezone.lab.settings import Settings
from safezone.lab.store import WORK
from safezone.models.base import Model
from safezone.results.folder import SETTINGS, Measured, measure
from safezone.scores import CLEAN, Encoders


def claim_grid(lab: Lab) -> Grid:
    """Concepts x {clean, poisons} x defenses x seeds."""
    cells = lab.settings.cells
    return Grid.product(
        "claim",
        concepts=list(lab.concepts),
        poisons=list(dict.fromkeys([CLEAN, *map(str.lower, cells.poisons)])),
        defenses=list(dict.fromkeys(map(str.lower, cells.defenses))),
        seeds=range(cells.seeds),
        model=lab.model.name,
        methods=[lab.settings.training.personalization().name],
    )


def claim_lab(folder: Path, model: Model, encoders: Encoders, settings: Settings) -> Lab:
    """The lab of the first ``settings.cells.concepts`` novel concepts, in ``folder``/work.

    Raises UserError for more concepts than there are, and for a defense that the model cannot have.
    """
    from safezone.defenses import defense, fingerprints

    available = miniworld_concepts(model.image_size)
    cells = settings.cells
    if cells.concepts > len(available):
        raise UserError(
            f"There are {len(available)} built-in concepts and {cells.concepts} were asked for; "
            f"give concepts as 1 to {len(available)}."
        )
    for name in cells.defenses:
        fingerprints(defense(name).preprocess, model)
    concepts = {concept.name: concept for concept in available[: cells.concepts]}
    return Lab(folder / WORK, model, encoders, settings, concepts)


def claim(
    lab: Lab,
    folder: Path,
    *,
    title: str,
    executor: Executor | None,
    progress: bool,
    note: Callable[[str], None],
) -> Measured:
    """Runs what is missing of the grid and writes rows, tables, summary and page to ``folder``.

    Raises UserError when another process works there or the folder cannot be written.
    """
    command = shlex.join(
        ["safezone", "claim", "--config", str(folder / SETTINGS), "--out", str(folder)]
    )
    return measure(
        lab,
        claim_grid(lab),
        folder,
        folder,
        title=title,
        command=command,
        kind="claim",
        executor=executor,
        progress=progress,
        note=note,
    )
