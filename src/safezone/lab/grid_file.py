"""A user's own grid: a YAML file of axes, includes and excludes, told with the line that is wrong.

    name: two-poisons
    axes:
      poisons: [clean, adm+, ea]
      defenses: [nominal, jpeg, szt]
      seeds: [0, 1]
    include:
      - {poison: ea, defense: lm}
    exclude:
      - {poison: clean, defense: jpeg}

``concepts``, ``methods`` and ``seeds`` may be left out: all concepts of the data, textual
inversion, the seeds of the command line.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import yaml
from pydantic import TypeAdapter, ValidationError

from safezone.defenses import defense
from safezone.errors import UserError
from safezone.fields import FileName, reason
from safezone.lab.run import TEXTUAL_INVERSION, Grid, Run, Scope
from safezone.lab.settings import Settings
from safezone.lab.variants import training_of
from safezone.reading import parse_yaml, read_text
from safezone.scores.rows import CLEAN
from safezone.scores.table import METRICS

_FORBID: Any = {"extra": "forbid"}
Location: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True)
class Axes:
    """Whose product the grid is."""

    __pydantic_config__: ClassVar[Any] = _FORBID

    poisons: tuple[str, ...]
    defenses: tuple[str, ...]
    methods: tuple[str, ...] = (TEXTUAL_INVERSION,)
    concepts: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None


@dataclass(frozen=True)
class CellFilter:
    """Some cells: those that agree with all that is given."""

    __pydantic_config__: ClassVar[Any] = _FORBID

    poison: str | None = None
    defense: str | None = None
    method: str | None = None
    concept: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class GridFile:
    """What the file says."""

    __pydantic_config__: ClassVar[Any] = _FORBID

    name: FileName
    axes: Axes
    metric: str = "instance_similarity"
    include: tuple[CellFilter, ...] = ()
    exclude: tuple[CellFilter, ...] = ()
    path: Path = field(default=Path())
    lines: Mapping[Location, int] = field(default_factory=dict)

    def at(self, location: Location) -> str:
        """``FILE, line N``, of the nearest thing around the location that is in the file."""
        return f"{self.path}, line {_line(self.lines, location)}"


def _line(lines: Mapping[Location, int], location: Location) -> int:
    while location and location not in lines:
        location = location[:-1]
    return lines.get(location, 1)


def _mark(node: yaml.Node, place: Location, lines: dict[Location, int]) -> None:
    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            lines[(*place, key.value)] = key.start_mark.line + 1
            _mark(value, (*place, key.value), lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _mark(value, (*place, index), lines)


def read_grid_file(path: Path) -> GridFile:
    """The file, its form checked; UserError with its line for what is unknown or wrong."""
    text = read_text(path, "a YAML file")
    tree, node = parse_yaml(text, path), yaml.compose(text, yaml.SafeLoader)
    lines: dict[Location, int] = {}
    if node is not None:
        _mark(node, (), lines)
    try:
        if not tree or {"path", "lines"} & tree.keys():
            raise UserError(f"{path}, line 1: give name, axes and, if needed, include and exclude")
        read = TypeAdapter(GridFile).validate_python(tree)
    except ValidationError as error:
        faults = error.errors()  # a misspelt key is also a missing one: the former says more
        first = min(faults, key=lambda each: each["type"] != "unexpected_keyword_argument")
        location = tuple(first["loc"])
        where = f"{path}, line {_line(lines, location)}"
        raise UserError(f"{where}: {'.'.join(map(str, location))} {reason(first)}") from error
    return GridFile(read.name, read.axes, read.metric, read.include, read.exclude, path, lines)


def _filled(cells: CellFilter, axes: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    wanted = (cells.concept, cells.poison, cells.defense, cells.method, cells.seed)
    return list(product(*([v] if v is not None else a for v, a in zip(wanted, axes, strict=True))))


def _matches(cells: CellFilter, cell: tuple[Any, ...]) -> bool:
    wanted = (cells.concept, cells.poison, cells.defense, cells.method, cells.seed)
    return all(v is None or v == w for v, w in zip(wanted, cell, strict=True))


def file_grid(file: GridFile, scope: Scope, settings: Settings) -> Grid:
    """The grid at the scope; UserError with its line for names that are not known.

    An exclude that takes nothing away and a grid without runs are errors as well.
    """
    axes = file.axes
    concepts = scope.concepts if axes.concepts is None else axes.concepts
    seeds = scope.seeds if axes.seeds is None else axes.seeds
    _check(file, scope, settings)
    if file.metric not in METRICS:
        known = ", ".join(METRICS)
        raise UserError(
            f"{file.at(('metric',))}: there is no metric {file.metric!r}; choose from {known}"
        )
    sides: list[Sequence[Any]] = [concepts, axes.poisons, axes.defenses, axes.methods, seeds]
    cells = dict.fromkeys(product(*sides))
    for include in file.include:
        cells |= dict.fromkeys(_filled(include, sides))
    for index, exclude in enumerate(file.exclude):
        matches = [cell for cell in cells if _matches(exclude, cell)]
        if not matches:
            raise UserError(f"{file.at(('exclude', index))}: this takes nothing away; remove it")
        for cell in matches:
            del cells[cell]
    if not cells:
        raise UserError(f"{file.at(('exclude',))}: no run is left; exclude less")
    runs = tuple(Run(c, p, d, m, scope.model, s) for c, p, d, m, s in cells)
    return Grid(file.name, runs, file.metric)


def _check(file: GridFile, scope: Scope, settings: Settings) -> None:
    def concept(name: str) -> None:
        if name not in scope.concepts:
            known = ", ".join(scope.concepts)
            raise UserError(f"There is no concept {name!r}; choose from {known}.")

    def poison(name: str) -> None:
        if name != CLEAN:
            settings.poisoning.poison(name)

    checks: Mapping[str, Any] = {
        "poison": poison,
        "defense": defense,
        "method": lambda name: training_of(settings.training, name, settings.model),
        "concept": concept,
    }
    for key, check in checks.items():
        places: list[tuple[Location, str]] = [
            (("axes", f"{key}s", index), value)
            for index, value in enumerate(getattr(file.axes, f"{key}s") or ())
        ]
        for part in ("include", "exclude"):
            for index, cells in enumerate(getattr(file, part)):
                if (value := getattr(cells, key)) is not None:
                    places.append(((part, index, key), value))
        for location, value in places:
            try:
                check(value)
            except UserError as error:
                raise UserError(f"{file.at(location)}: {error}") from error
