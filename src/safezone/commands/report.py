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
from safezone.commands.recorded import learned_tokens, preset_of_images
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
    """About how many generated images the page holds, 2 kB each in grids; by default 4000."""
    model: str = "mini"
    """Whose preset of encoders is used, and what --token-encoder compares with; by default the
    model that made the images."""
    scoring: Flat[Scoring] = field(default_factory=Scoring)


def run(options: Options) -> Answer:
    """Writes the page from what is there; scores what has not been scored."""
    from safezone.lab.store import ROWS_FILE
    from safezone.results.artifacts import INDEX, PICTURES, image_folders
    from safezone.results.folder import (
        grids_in,
        rewrite_results,
        write_results,
        write_workspace_page,
    )
    from safezone.scores import read_rows

    folder = options.folder
    pictures = PICTURES if options.pictures is None else options.pictures
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder of `safezone generate`")
    if (folder / INDEX).is_file():
        page = rewrite_results(folder, options.title, pictures)
        return _answer(page, rows=len(read_rows(folder / ROWS_FILE)))
    if grids := grids_in(folder):
        title = options.title or "The paper's tables, measured"
        page = write_workspace_page(folder, title, pictures)
        return _answer(page, grids=[grid.name for grid in grids])
    folders = image_folders(folder)
    if not folders:
        raise UserError(f"{folder} holds no generated images; make them with `safezone generate`")
    rows = _rows(options, folders)
    index = {
        "title": options.title or f"What was learned in {folder.resolve().name}",
        **_recorded(folders),
        "images": [str(place.relative_to(folder)) for place in folders],
    }
    return _answer(write_results(folder, index, rows, pictures), rows=len(rows))


def _answer(page: Path, **more: object) -> Answer:
    return Answer({"page": str(page), **more}, f"report: {page}")


def _recorded(folders: Sequence[Path]) -> dict[str, object]:
    """How the images were sampled, and whether photographs were learned from."""
    from safezone.lab.store import IMAGES_RECORD
    from safezone.reading import read_json
    from safezone.results.notes import MINI_LIMITS

    records = [read_json(each / IMAGES_RECORD) for each in folders]
    photographs = any(record.get("photographs") for record in records)
    if photographs:
        note(f"note: {MINI_LIMITS}.")
    settings = {"sampling": records[0].get("settings", {})}
    return {"settings": settings, "photographs": photographs}


def _rows(options: Options, folders: Sequence[Path]) -> "list[Row]":
    """Scores of the folders whose clean images are known; none where no encoder can be opened."""
    from safezone.commands.opening import open_encoders, open_model, set_threads
    from safezone.lab.makers import score_rows
    from safezone.results.artifacts import read_run_images
    from safezone.scores import Pictures

    set_threads(options.machine.threads)
    try:
        encoders = open_encoders(options.scoring, options.machine)
    except UserError as error:
        note(f"note: nothing is scored, since {error}")
        return []
    model = None
    if "token" in encoders:
        model = open_model(options.model, options.machine, options)
    rows: list[Row] = []
    for folder in folders:
        drawn = read_run_images(folder)
        clean = drawn.clean_concept()
        if clean is None:
            note(f"note: {folder} is not scored, since its clean images are not known")
            continue
        word = clean.class_word
        tokens = {} if model is None else learned_tokens(drawn, model, word)
        pictures = Pictures(
            drawn.images, drawn.prompts, clean.images, word, drawn.placeholder, **tokens
        )
        rows += score_rows(encoders, pictures, drawn.run, drawn.poison_model())
    return rows


COMMAND = Command(__doc__, Options, run, preset_of_images)
