"""One result of rows that were measured in parts: on other days, on other machines.

    python scripts/gather.py PART ... --out FOLDER --title TITLE
    python scripts/gather.py PART ... --out FOLDER --title TITLE --grid table17 --concepts 10
    python scripts/gather.py PART ... --out FOLDER --title TITLE --grid grids/methods.yaml

Every PART is a folder of results, such as a claim or a grid wrote, or its copy without pictures.
Model, training, sampling and encoders must be the same, and rows that parts have in common equal to
the bit; what is not is said, and nothing is written. Poisons may have settings of their own: every
part's settings are kept beside the result. Tables, comparisons, summary and the page (without
pictures) are those of all rows together; with --grid of those that a table of the paper, with its
numbers beside them, or a grid of one's own asks for, and how many of its runs no part has is said.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safezone.errors import UserError
from safezone.files import write_text
from safezone.lab.grids import YAML, read_grid, run_of
from safezone.lab.presets import read_settings, settings_yaml
from safezone.lab.run import Grid, Run, Scope
from safezone.lab.settings import Cells, Poisoning, Settings
from safezone.paper.named import paper_grid
from safezone.results.folder import SETTINGS, write_results
from safezone.scores import Row, read_rows


def compared(settings: Settings) -> Settings:
    """What parts must have in common."""
    training = replace(settings.training, runs_per_pass=None, captured=False, checkpoint_every=1)
    return replace(settings, cells=Cells(), poisoning=Poisoning(), training=training)


def gather(parts: Sequence[Path]) -> tuple[list[Settings], list[Row]]:
    """The settings of every part, and every row once, in the order of the parts.

    Raises UserError where the parts do not belong together.
    """
    told: list[Settings] = []
    rows: dict[tuple[Run, str], Row] = {}
    for part in parts:
        told.append(read_settings(part / SETTINGS, None))
        if compared(told[-1]) != compared(told[0]):
            raise UserError(f"{part} was measured with other settings than {parts[0]}")
        for row in read_rows(part / "rows.csv"):
            run = run_of(row)
            known = rows.setdefault((run, row.metric), row)
            if repr(known) != repr(row):  # a failed run's NaN does not equal itself
                raise UserError(f"{part} has another {row.metric} of {run.label}")
    if not rows:
        raise UserError(f"{', '.join(map(str, parts))} hold no rows; measure some first")
    return told, list(rows.values())


def grid_of(name: str, concepts: int, settings: Settings, rows: Sequence[Row]) -> Grid:
    """The paper's table, or a YAML file's grid, on the model and the first concepts and seed of the
    rows."""
    named = tuple(dict.fromkeys(row.concept for row in rows))[:concepts]
    scope = Scope(rows[0].model, named, (rows[0].seed,))
    if name.endswith(YAML):
        return read_grid(Path(name), settings).at_scope(scope)
    return paper_grid(name).build(scope)


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the gathered result; exits with a sentence where the parts do not fit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--title", required=True)
    parser.add_argument("--grid", help="a table of the paper, or a YAML file")
    parser.add_argument("--concepts", type=int, default=10, help="the first ones, of --grid")
    options = parser.parse_args(arguments)
    index: dict[str, Any] = {"title": options.title, "settings": {}}
    try:
        if options.out.resolve() in map(Path.resolve, options.parts):
            raise UserError(f"--out {options.out} is a part and would be lost; give another folder")
        told, rows = gather(options.parts)
        if options.grid is not None:
            grid = grid_of(options.grid, options.concepts, told[0], rows)
            place = {run: index for index, run in enumerate(grid)}
            rows = [row for row in rows if run_of(row) in place]
            rows.sort(key=lambda row: place[run_of(row)])  # columns stand as the paper has them
            there = {*map(run_of, rows)}
            print(f"{len(there)} of {len(grid)} runs of {grid.name} are there")
            index |= {"grid": grid.name, "table": grid.table, "metric": grid.metric}
        index["command"] = shlex.join(["python", "scripts/gather.py", *(arguments or sys.argv[1:])])
        for old in options.out.glob("settings-*.yaml"):
            old.unlink()
        for number, settings in enumerate(told, 1):
            write_text(options.out / f"settings-{number}.yaml", settings_yaml(settings))
        page = write_results(options.out, index, rows)
    except UserError as error:
        parser.exit(2, f"{error}.\n")
    print(f"{len(rows)} rows: {page}")


if __name__ == "__main__":
    main()
