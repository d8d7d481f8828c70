"""The paper's numbers, to be shown beside ours: tables 1, 2 and 4 to 40, as printed.

Tables 12, 13 and 14 are the exception. Their rows printed as SDS+, SDS- and EA hold the results of
EA, SDS+ and SDS-: only so do their Nominal and LM columns agree with tables 17 and 18. They are
shown under the corrected labels, and ``Published.note`` says so.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final

from safezone.errors import UserError

AVERAGE: Final = "psn avg"
"""The paper's row of means over the poisons, and ours."""

_CORRECTED: Final = {"SDS+": "EA", "SDS-": "SDS+", "EA": "SDS-"}
"""Printed label to that of the results, in tables 12 to 14."""
_MISLABELLED: Final = (12, 13, 14)

_METRICS: Final[Mapping[str, tuple[str, str]]] = {
    "dinov2": ("instance_similarity", "DINOv2 similarity"),
    "clip_score": ("clip_score", "CLIP score"),
    "fid": ("frechet", "FID"),
}
"""The paper's metric to ours that is always measured, and as printed. Our Fréchet distance is of
other features than FID's; given their encoders, ``fid`` and ``clip_score_token`` are too."""


@dataclass(frozen=True)
class Published:
    """One table. ``values``: by (poison, column), both by our names; see ``column``."""

    number: int
    dataset: str
    model: str
    method: str
    metric: str
    printed_metric: str
    columns: tuple[str, ...]
    poisons: tuple[str, ...]
    values: Mapping[tuple[str, str], float]
    note: str


def column(setting: str) -> str:
    """Our name for a printed column: ``JPEG+T600`` is ``jpeg+t600``, ``high>=0.6`` is ``t600``."""
    name = setting.lower()
    for printed, ours in (("high>=", "t"), ("low<=", "below")):
        if name.startswith(printed):
            return f"{ours}{round(1000 * float(name.removeprefix(printed)))}"
    return name.replace("=", "") if name.startswith(("tanh=", "power=")) else name


def _table(number: int, record: dict[str, Any]) -> Published:
    columns, printed = tuple(map(column, record["settings"])), record["values"]
    labels, note = {}, ""
    if number in _MISLABELLED:
        labels = _CORRECTED
        note = (
            f"Table {number} of the paper prints the labels SDS+, SDS- and EA on the results of "
            "EA, SDS+ and SDS-; its numbers stand here under the corrected labels, with which they "
            "agree with tables 17 and 18."
        )
    values = {
        (labels.get(line, line).lower(), name): float(value)
        for line, values in printed.items()
        for name, value in zip(columns, values, strict=True)
    }
    poisons = tuple(name.lower() for name in printed)
    method = record["method"].replace("_", " ")
    return Published(
        *(number, record["dataset"], record["model"], method, *_METRICS[record["metric"]]),
        columns,
        poisons,
        {(poison, name): values[poison, name] for poison in poisons for name in columns},
        note,
    )


@lru_cache(maxsize=1)
def _tables() -> Mapping[int, Published]:
    text = files("safezone.results").joinpath("paper.json").read_text(encoding="utf-8")
    return {int(number): _table(int(number), each) for number, each in json.loads(text).items()}


def published(number: int) -> Published:
    """The paper's table of that number; UserError for 3 (no numbers) and for what is not there."""
    if number not in _tables():
        raise UserError(f"the paper has no table {number} with scores; give 1, 2 or 4 to 40")
    return _tables()[number]


def same_runs(number: int) -> dict[str, Published]:
    """{metric: table} of the paper's tables of the same runs, whose number that of ``number`` is.

    Of textual inversion on NovelConcepts10 these are 17, 18 and 19: similarity, FID, CLIP score.
    """
    own = published(number)

    def kind(table: Published) -> tuple[object, ...]:
        return table.dataset, table.model, table.method, table.columns, table.poisons

    others = [each for each in _tables().values() if kind(each) == kind(own)]
    tables = {own.metric: own} | {each.metric: each for each in others if each.metric != own.metric}
    also = {"frechet": "fid", "clip_score": "clip_score_token"}
    return tables | {also[metric]: table for metric, table in tables.items() if metric in also}
