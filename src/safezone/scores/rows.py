"""Rows: one number of one run, and their files."""

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safezone.errors import UserError
from safezone.files import write_bytes, write_text
from safezone.reading import parse_json, read_text

CLEAN = "clean"
"""The poison name of rows measured on unpoisoned training images."""
NOMINAL = "nominal"
"""The defense name of rows trained without a defense."""


@dataclass(frozen=True)
class Row:
    """One metric of one run (concept x poison x defense x method x model x seed).

    ``poison`` is ``"clean"`` for unpoisoned data, ``defense`` is ``"nominal"`` for none.
    ``n_generated`` and ``n_reference``: how many images the value rests on (0: not used).
    """

    concept: str
    poison: str
    defense: str
    method: str
    model: str
    seed: int
    metric: str
    value: float
    n_generated: int
    n_reference: int
    reason: str = ""
    """Why the run failed; its value is then NaN."""
    poison_model: str = ""
    """What the poison was made on, where that is another model than ``model``."""


_COLUMNS = tuple(field.name for field in fields(Row))
_COUNTS = ("seed", "n_generated", "n_reference")
_LATER = {"reason": "", "poison_model": ""}
"""Columns that files of older versions lack; the last one is written where a row has it."""


def _portable(value: Any) -> Any:
    """Non-finite numbers as words: JSON has none, and ``float`` reads them back."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _records(rows: Iterable[Row]) -> list[dict[str, Any]]:
    every = [asdict(row) for row in rows]
    left_out = () if any(row["poison_model"] for row in every) else ("poison_model",)
    return [{k: _portable(v) for k, v in row.items() if k not in left_out} for row in every]


def csv_text(rows: Iterable[Row]) -> str:
    """Rows as CSV with a header."""
    records, buffer = _records(rows), io.StringIO()
    columns = records[0] if records else [name for name in _COLUMNS if name != "poison_model"]
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes rows, atomically, as JSON Lines (``.jsonl``) or CSV (``.csv``).

    Raises UserError for another suffix.
    """
    if path.suffix == ".jsonl":
        write_text(path, "".join(json.dumps(record) + "\n" for record in _records(rows)))
    elif path.suffix == ".csv":
        write_bytes(path, csv_text(rows).encode("utf-8", "replace"))  # names may hold any bytes
    else:
        raise UserError(f"{path}: rows are written as .jsonl or .csv, choose one of these suffixes")


def _row(record: Any, place: str) -> Row:
    if isinstance(record, dict):
        record = {**_LATER, **record}
    if not isinstance(record, dict) or set(record) != set(_COLUMNS) or None in record.values():
        raise UserError(f"{place}: a row needs exactly the columns {', '.join(_COLUMNS)}")
    try:
        row = Row(**{field.name: field.type(record[field.name]) for field in fields(Row)})  # type: ignore[operator]
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{place}: {error}; correct or remove that row") from error
    for name in _COUNTS:
        if isinstance(record[name], float) and getattr(row, name) != record[name]:
            raise UserError(f"{place}: {name} is {record[name]}; give a whole number")
    return row


def read_rows(path: Path) -> list[Row]:
    """Reads what ``write_rows`` wrote.

    Raises UserError for a missing file, another suffix or a row that is not one.
    """
    if path.suffix not in (".jsonl", ".csv"):
        raise UserError(f"{path}: rows are read from .jsonl or .csv files, give one of these")
    text = read_text(path, "a file of rows")
    if path.suffix == ".csv":
        try:
            records: list[Any] = list(csv.DictReader(io.StringIO(text, newline="")))
        except csv.Error as error:
            raise UserError(f"{path} is not CSV ({error}); make it again") from error
        return [_row(record, f"{path}, row {n}") for n, record in enumerate(records, 1)]
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}); remove it") from error
        rows.append(_row(record, f"{path}, line {number}"))
    return rows


def summarise(
    rows: Iterable[Row], metric: str, by: Sequence[str] = ("poison", "defense")
) -> dict[tuple[str, ...], dict[str, dict[int, float]]]:
    """{values of ``by``: {concept: {seed: value}}, in order of the seed} for one metric.

    Groups and concepts keep the order of their first row. Values that are not finite (failed
    runs) are left out. Averages nothing: statistics take it from here. Raises UserError for two
    values of one seed.
    """
    groups: dict[tuple[str, ...], dict[str, dict[int, float]]] = {}
    for row in rows:
        if row.metric != metric or not math.isfinite(row.value):
            continue
        key = tuple(str(getattr(row, name)) for name in by)
        seeds = groups.setdefault(key, {}).setdefault(row.concept, {})
        if row.seed in seeds:
            cell = ", ".join([row.concept, *key, f"seed {row.seed}"])
            raise UserError(f"two rows hold {metric} of {cell}; keep one of them")
        seeds[row.seed] = row.value
    return {
        key: {concept: dict(sorted(seeds.items())) for concept, seeds in concepts.items()}
        for key, concepts in groups.items()
    }
