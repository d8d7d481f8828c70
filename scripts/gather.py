"""One result of rows that were measured in parts: on other days, on other machines.

    python scripts/gather.py PART ... --out FOLDER --title TITLE

Every PART is a folder of results, such as a claim or a grid wrote, or its copy without pictures.
Model, training, sampling and encoders must be the same, and rows that parts have in common equal to
the bit; what is not is said, and nothing is written. Poisons may have settings of their own: every
part's settings are kept beside the result. Tables, comparisons, summary and the page (without
pictures) are those of all rows together.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safezone.errors import UserError
from safezone.files import write_text
from safezone.lab.presets import read_settings, settings_yaml
from safezone.lab.settings import Cells, Poisoning, Settings
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
    rows: dict[tuple[object, ...], Row] = {}
    for part in parts:
        told.append(read_settings(part / SETTINGS, None))
        if compared(told[-1]) != compared(told[0]):
            raise UserError(f"{part} was measured with other settings than {parts[0]}")
        for row in read_rows(part / "rows.csv"):
            cell = (row.concept, row.poison, row.defense, row.method, row.model, row.seed)
            if rows.setdefault((*cell, row.metric), row) != row:
                raise UserError(f"{part} has another {row.metric} of {' '.join(map(str, cell))}")
    return told, list(rows.values())


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the gathered result; exits with a sentence where the parts do not fit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--title", required=True)
    options = parser.parse_args(arguments)
    try:
        told, rows = gather(options.parts)
    except UserError as error:
        sys.exit(f"{error}.")
    names = [str(part) for part in options.parts]
    command = ["python", "scripts/gather.py", *names, "--out", str(options.out)]
    options.out.mkdir(parents=True, exist_ok=True)
    for number, settings in enumerate(told, 1):
        write_text(options.out / f"settings-{number}.yaml", settings_yaml(settings))
    index = {"title": options.title, "command": shlex.join(command), "settings": {}}
    page = write_results(options.out, index, rows)
    print(f"{len(rows)} rows: {page}")


if __name__ == "__main__":
    main()
