"""Run and Grid: the cells of a table; content keys: what an artifact depends on, as a hash."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import product
from pathlib import Path
from typing import Any

from safezone.errors import UserError
from safezone.files import digest
from safezone.reading import OWN_MODULE

TEXTUAL_INVERSION = "textual inversion"
"""The name of the method in rows and provenance."""


@dataclass(frozen=True)
class Run:
    """One cell: concept x poison x defense x method x model x seed, each by its name.

    ``poison`` is ``"clean"`` for unpoisoned images. Raises UserError for a negative seed.
    """

    concept: str
    poison: str
    defense: str
    method: str
    model: str
    seed: int

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"The seed is {self.seed}; give 0 or a larger whole number.")

    @property
    def label(self) -> str:
        """A readable name, the same for every model; plain textual inversion is not named."""
        cell = f"{self.concept},{self.poison},{self.defense},{self.seed}"
        if self.method == TEXTUAL_INVERSION:
            return cell
        return f"{cell},{self.method.replace('; ', ',').replace(' ', '-')}"


@dataclass(frozen=True)
class Grid:
    """A named list of distinct runs: one table or figure, or the user's own.

    ``metric``: what its table shows first. ``table``: the paper's number of that table, if any.
    """

    name: str
    runs: tuple[Run, ...]
    metric: str = "instance_similarity"
    table: int | None = None

    def __post_init__(self) -> None:
        if len(set(self.runs)) != len(self.runs):
            raise ValueError(f"grid {self.name!r} names a run twice")

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    @staticmethod
    def of(name: str, runs: Iterable[Run]) -> "Grid":
        """The runs without repeats."""
        return Grid(name, tuple(dict.fromkeys(runs)))

    @staticmethod
    def product(
        name: str,
        *,
        concepts: Sequence[str],
        poisons: Sequence[str],
        defenses: Sequence[str],
        seeds: Sequence[int],
        model: str,
        methods: Sequence[str] = (TEXTUAL_INVERSION,),
        metric: str = "instance_similarity",
        table: int | None = None,
    ) -> "Grid":
        """All combinations; the concept changes slowest, the seed fastest."""
        axes = product(concepts, poisons, defenses, methods, seeds)
        runs = tuple(Run(c, p, d, m, model, s) for c, p, d, m, s in axes)
        return Grid(name, runs, metric, table)


@dataclass(frozen=True)
class Scope:
    """On what a table is run: the model's name, the concepts' names, the seeds."""

    model: str
    concepts: tuple[str, ...]
    seeds: tuple[int, ...]


def _plain(value: Any) -> Any:
    """What JSON cannot hold: dataclasses with their class, functions by name, files by content."""
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)  # without its module, which may move; of the user's own with its hash
        own = kind.__module__.startswith(OWN_MODULE)
        name = f"{kind.__module__}.{kind.__qualname__}" if own else kind.__qualname__
        return [name, {f.name: getattr(value, f.name) for f in fields(value)}]
    if isinstance(value, Path):
        return digest(value)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    raise UserError(
        f"a {type(value).__name__} cannot be part of a content key, for its settings are not told; "
        "write a function or a frozen dataclass in its place"
    )


def content_key(*parts: Any) -> str:
    """SHA-256, in hex, of the parts: other keys, settings (dataclasses), names, numbers.

    The first parts of a stage's key are its name and the version of its code; an input is given
    by its own key. Paths count by the content of their file. Raises UserError for other values.
    """
    text = json.dumps(parts, default=_plain, sort_keys=True, ensure_ascii=False)
    return digest(text)
