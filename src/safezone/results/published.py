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
from types import MappingProxyType
from typing import Final

from safezone.errors import UserError

AVERAGE: Final = "psn avg"
"""The paper's row of means over the poisons, and ours."""

_CORRECTED: Final[Mapping[str, str]] = MappingProxyType(
    {"SDS+": "EA", "SDS-": "SDS+", "EA": "SDS-"}
)
"""Printed label to that of the results, in tables 12 to 14."""
_MISLABELLED: Final = (12, 13, 14)

_METRICS: Final[Mapping[str, str]] = MappingProxyType(
    {"dinov2": "instance_similarity", "clip_score": "clip_score", "fid": "frechet"}
)
"""The paper's metric to ours. Our Fréchet distance is of other features than FID's."""


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
    if name.startswith(("tanh=", "power=")):
        return name.replace("=", "")
    return name


def _note(number: int) -> str:
    if number not in _MISLABELLED:
        return ""
    return (
        f"Table {number} of the paper prints the labels SDS+, SDS- and EA on the results of EA, "
        "SDS+ and SDS-; its numbers stand here under the corrected labels, with which they agree "
        "with tables 17 and 18."
    )


@lru_cache(maxsize=1)
def _tables() -> Mapping[str, dict[str, object]]:
    text = files("safezone.results").joinpath("paper.json").read_text(encoding="utf-8")
    tables: dict[str, dict[str, object]] = json.loads(text)
    return MappingProxyType(tables)


def published(number: int) -> Published:
    """The paper's table of that number; UserError for 3 (no numbers) and for what is not there."""
    table = _tables().get(str(number))
    if table is None:
        raise UserError(f"the paper has no table {number} with scores; give 1, 2 or 4 to 40")
    settings, printed = table["settings"], table["values"]
    assert isinstance(settings, list)
    assert isinstance(printed, dict)
    columns = tuple(column(setting) for setting in settings)
    relabel = _CORRECTED if number in _MISLABELLED else {}
    lines = {relabel.get(name, name).lower(): numbers for name, numbers in printed.items()}
    order = [name.lower() for name in printed]
    values = {
        (poison, name): float(value)
        for poison in order
        for name, value in zip(columns, lines[poison], strict=True)
    }
    metric = str(table["metric"])
    return Published(
        number,
        str(table["dataset"]),
        str(table["model"]),
        str(table["method"]).replace("_", " "),
        _METRICS[metric],
        {"dinov2": "DINOv2 similarity", "fid": "FID", "clip_score": "CLIP score"}[metric],
        columns,
        tuple(order),
        MappingProxyType(values),
        _note(number),
    )


def same_runs(number: int) -> dict[str, Published]:
    """{metric: table} of the paper's tables of the same runs, whose number that of ``number`` is.

    Of textual inversion on NovelConcepts10 these are 17, 18 and 19: similarity, FID, CLIP score.
    """
    own = published(number)

    def kind(table: Published) -> tuple[object, ...]:
        return table.dataset, table.model, table.method, table.columns, table.poisons

    others = [published(int(name)) for name in _tables()]
    return {own.metric: own} | {
        other.metric: other
        for other in others
        if kind(other) == kind(own) and other.metric != own.metric
    }
