"""Writes DIR/report.html: pictures side by side, scores with intervals, and what they mean.

DIR is what `safezone generate`, `safezone claim` or `safezone demo` wrote, or the --out of
`safezone grid run`: then all its tables stand on one page. The page needs no network and no other
file. The numbers of one result are also written as rows.csv, table.csv, table.md and summary.json.

Example:
    safezone report runs/my-toy

Next:
    open runs/my-toy/report.html
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from safezone.commands.console import Answer, Command, Flat, Folder, OnModel, note
from safezone.commands.recorded import preset_of_images
from safezone.errors import UserError
from safezone.fields import Natural
from safezone.lab.settings import Scoring

if TYPE_CHECKING:
    from safezone.scores import Row


@dataclass(frozen=True, kw_only=True)
class Options(OnModel):
    """The options."""

    folder: Folder
    """Folder of results."""
    title: str | None = None
    """The page's heading."""
    pictures: Annotated[Natural | None, tyro.conf.arg(metavar="N")] = None
    """About how many generated images a page of grids holds, 2 kB each; by default 4000."""
    model: str = "mini"
    """Whose preset of encoders is used; by default of the model that made the images."""
    scoring: Flat[Scoring] = field(default_factory=Scoring)


def run(options: Options) -> Answer:
    """Writes the page from what is there; scores what has not been scored."""
    from safezone.files import read_json
    from safezone.lab.config import flat
    from safezone.lab.store import IMAGES_RECORD, ROWS
    from safezone.results.grid_page import PICTURES
    from safezone.results.grid_results import grids_in, write_workspace_page
    from safezone.results.measurement import write_page
    from safezone.results.outputs import INDEX, image_folders, write_results
    from safezone.scores import read_rows

    folder = options.folder
    pictures = PICTURES if options.pictures is None else options.pictures
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder of `safezone generate`")
    if (folder / INDEX).is_file():
        rows = read_rows(folder / ROWS)
        page = write_page(folder, options.title, pictures)
        return Answer({"page": str(page), "rows": len(rows)}, f"report: {page}")
    if grids := grids_in(folder):
        page = write_workspace_page(
            folder, options.title or "The paper's tables, measured", pictures
        )
        return Answer({"page": str(page), "grids": [g.name for g in grids]}, f"report: {page}")
    folders = image_folders(folder)
    if not folders:
        raise UserError(f"{folder} holds no generated images; make them with `safezone generate`")
    rows = _rows(options, folders)
    records = [read_json(each / IMAGES_RECORD) for each in folders]
    photographs = any(record.get("photographs") for record in records)
    if photographs:
        from safezone.results.outputs import MINI_LIMITS

        note(f"note: {MINI_LIMITS}.")
    page = write_results(
        folder,
        rows,
        title=options.title or f"What was learned in {folder.resolve().name}",
        folders=folders,
        settings=flat({"sampling": records[0].get("settings", {})}),
        photographs=photographs,
    )
    return Answer({"page": str(page), "rows": len(rows)}, f"report: {page}")


COMMAND = Command(__doc__, Options, run, preset_of_images)


def _rows(options: Options, folders: Sequence[Path]) -> "list[Row]":
    """Scores of the folders whose clean images are known; none where no encoder can be opened."""
    from safezone.commands.opening import open_encoders, set_threads
    from safezone.lab.makers import score_rows
    from safezone.results.outputs import read_made

    set_threads(options.machine.threads)
    try:
        encoders = open_encoders(options.scoring, options.machine)
    except UserError as error:
        note(f"note: nothing is scored, since {error}")
        return []
    rows: list[Row] = []
    for folder in folders:
        made = read_made(folder)
        clean = made.clean_concept()
        if clean is None:
            note(f"note: {folder} is not scored, since its clean images are not known")
            continue
        rows += score_rows(encoders, clean, made.images, made.prompts, made.run)
    return rows
