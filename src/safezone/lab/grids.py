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
inversion, the seeds of the command line. Of any grid: parts of it, and whether this version has
every poison, defense and method that it names.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from safezone.defenses import defense
from safezone.errors import UserError
from safezone.fields import AT_LEAST_ONE, Closed, FileName, Natural, reason
from safezone.lab.presets import kind_of, training_preset
from safezone.lab.run import TEXTUAL_INVERSION, Grid, Run, Scope
from safezone.lab.settings import Settings, joined
from safezone.lab.variants import METHOD_NAMES, spelled, split_method, training_of
from safezone.reading import parse_yaml, read_text
from safezone.scores.rows import CLEAN, Row
from safezone.scores.table import METRICS, SLOTS, Encoders

Location: TypeAlias = tuple[str | int, ...]
GridName: TypeAlias = Annotated[str, StringConstraints(strip_whitespace=True, to_lower=True)]
"""Of a poison or defense, in any case."""
MethodName: TypeAlias = Annotated[GridName, AfterValidator(spelled)]
YAML: Final = (".yaml", ".yml")
"""How the name of a grid's file ends."""
_AXES: Final = ("concept", "poison", "defense", "method")


@dataclass(frozen=True)
class Axes(Closed):
    """Whose product the grid is."""

    poisons: Annotated[tuple[GridName, ...], AT_LEAST_ONE]
    defenses: Annotated[tuple[GridName, ...], BeforeValidator(joined), AT_LEAST_ONE]
    methods: Annotated[tuple[MethodName, ...], AT_LEAST_ONE] = (TEXTUAL_INVERSION,)
    concepts: Annotated[tuple[str, ...], AT_LEAST_ONE] | None = None
    seeds: Annotated[tuple[Natural, ...], AT_LEAST_ONE] | None = None


@dataclass(frozen=True)
class CellFilter(Closed):
    """Some cells: those that agree with all that is given; in the order of a run's axes."""

    concept: str | None = None
    poison: GridName | None = None
    defense: GridName | None = None
    method: MethodName | None = None
    seed: Natural | None = None


@dataclass(frozen=True)
class GridFile(Closed):
    """What the file says."""

    name: FileName
    axes: Axes
    metric: str = "instance_similarity"
    include: tuple[CellFilter, ...] = ()
    exclude: tuple[CellFilter, ...] = ()


def _lines(node: yaml.Node, place: Location = (), line: int | None = None) -> dict[Location, int]:
    """The line of everything in the file: of a value its key's, of the file its first one."""
    lines = {place: node.start_mark.line + 1 if line is None else line}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            lines |= _lines(value, (*place, key.value), key.start_mark.line + 1)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines |= _lines(value, (*place, index))
    return lines


_KEYS: Final = "name, axes and, if needed, include and exclude"


@dataclass(frozen=True)
class ReadGrid:
    """What a file says. ``lines``: where each thing stands in it."""

    path: Path
    file: GridFile
    lines: Mapping[Location, int]

    def wrong(self, location: Location, reason: object) -> UserError:
        return UserError(f"{_at(self.path, self.lines, location)}: {reason}")

    def check(self, kind: str, check: Callable[[str], object]) -> None:
        """Raises UserError with the line of the first name of the kind that ``check`` refuses."""
        for location, name in _names(self.file, kind):
            try:
                check(name)
            except UserError as error:
                raise self.wrong(location, error) from error

    def at_scope(self, scope: Scope) -> Grid:
        """The grid at the scope; UserError with the line of a concept that the scope does not have,
        and of an exclude that takes nothing away, or everything."""

        def known(name: str) -> None:
            if name not in scope.concepts:
                raise UserError(
                    f"There is no concept {name!r}; choose from {', '.join(scope.concepts)}."
                )

        self.check("concept", known)
        axes = self.file.axes
        concepts = scope.concepts if axes.concepts is None else axes.concepts
        seeds = scope.seeds if axes.seeds is None else axes.seeds
        sides: list[Sequence[Any]] = [concepts, axes.poisons, axes.defenses, axes.methods, seeds]
        cells = dict.fromkeys(product(*sides))
        for include in self.file.include:
            pairs = zip(astuple(include), sides, strict=True)
            cells |= dict.fromkeys(product(*([v] if v is not None else side for v, side in pairs)))
        for index, exclude in enumerate(self.file.exclude):
            wanted = astuple(exclude)
            matches = [
                cell
                for cell in cells
                if all(v is None or v == w for v, w in zip(wanted, cell, strict=True))
            ]
            if not matches:
                raise self.wrong(("exclude", index), "this takes nothing away; remove it")
            for cell in matches:
                del cells[cell]
        if not cells:
            raise self.wrong(("exclude",), "no run is left; exclude less")
        runs = tuple(Run(c, p, d, m, scope.model, s) for c, p, d, m, s in cells)
        return Grid(self.file.name, runs, self.file.metric)


def _at(path: Path, lines: Mapping[Location, int], location: Location) -> str:
    """The line of the nearest thing around the location that is in the file."""
    while location not in lines:
        location = location[:-1]
    return f"{path}, line {lines[location]}"


def read_grid(path: Path, settings: Settings) -> ReadGrid:
    """The file; UserError with its line for what is wrong, and for unknown names but concepts'."""
    text = read_text(path, "a YAML file")
    tree, node = parse_yaml(text, path), yaml.compose(text, yaml.SafeLoader)
    lines: dict[Location, int] = {(): 1} if node is None else _lines(node)
    if not tree:
        raise UserError(f"{_at(path, lines, ())}: give {_KEYS}")
    try:
        file = TypeAdapter(GridFile).validate_python(tree)
    except ValidationError as error:
        faults = error.errors()  # a misspelt key is also a missing one: the former says more
        first = min(faults, key=lambda each: each["type"] != "unexpected_keyword_argument")
        location = tuple(first["loc"])
        misspelt = first["type"] == "unexpected_keyword_argument" and len(location) == 1
        keys = f"; a grid has {_KEYS}" if misspelt else ""
        key = ".".join(map(str, location))
        raise UserError(f"{_at(path, lines, location)}: {key} {reason(first)}{keys}") from error
    read = ReadGrid(path, file, lines)
    for kind, check in _checks(settings).items():
        read.check(kind, check)
    if file.metric not in METRICS:
        known = ", ".join(METRICS)
        raise read.wrong(("metric",), f"there is no metric {file.metric!r}; choose from {known}")
    return read


def _checks(settings: Settings) -> dict[str, Callable[[str], object]]:
    """{kind: what raises UserError for a name that this version does not have}.

    Raises UserError for settings that no poison takes.
    """
    settings.poisoning.poison("adm+")
    return {
        "poison": lambda name: name == CLEAN or settings.poisoning.poison(name),
        "defense": defense,
        "method": lambda name: training_of(settings.training, name, settings.model),
    }


def _names(file: GridFile, kind: str) -> Iterator[tuple[Location, str]]:
    """Every name of the kind in the file, and where it stands."""
    for index, name in enumerate(getattr(file.axes, f"{kind}s") or ()):
        yield ("axes", f"{kind}s", index), name
    for part in ("include", "exclude"):
        for index, cells in enumerate(getattr(file, part)):
            if (name := getattr(cells, kind)) is not None:
                yield (part, index, kind), name


def without(grid: Grid, names: Sequence[str]) -> Grid:
    """The grid without the runs of these poisons, defenses, parts of defenses, or methods."""
    runs = grid.runs
    for name in names:
        key = name.lower()
        rest = tuple(
            run
            for run in runs
            if key not in (run.poison, run.defense, run.method, *run.defense.split("+"))
        )
        if len(rest) == len(runs):
            raise UserError(f"{grid.name} has no run of {name!r}; take that --without away")
        runs = rest
    if not runs:
        raise UserError(f"no run of {grid.name} is left; give --without less often")
    return replace(grid, runs=runs)


def names_in(grid: Grid, name: str) -> set[str]:
    """Which axes of the grid have something of this name."""
    return {a for a in _AXES for run in grid if getattr(run, a).lower() == name.lower()}


def run_of(row: Row) -> Run:
    """The run that the row is of."""
    return Run(row.concept, row.poison, row.defense, row.method, row.model, row.seed)


def only(grid: Grid, names: Sequence[str]) -> Grid:
    """The grid's runs of these concepts, poisons, defenses and methods; names of one axis add up.

    Raises UserError for a name that no run has, and where no run is left.
    """
    chosen: dict[str, set[str]] = {}
    for name in names:
        axes = names_in(grid, name)
        if not axes:
            raise UserError(f"{grid.name} has no run of {name!r}; take that --only away")
        for axis in axes:
            chosen.setdefault(axis, set()).add(name.lower())
    runs = [r for r in grid if all(getattr(r, a).lower() in v for a, v in chosen.items())]
    if not runs:
        raise UserError(f"no run of {grid.name} is of all of {', '.join(names)}; give --only less")
    return replace(grid, runs=tuple(runs))


def require_metric(grid: Grid, encoders: Encoders) -> None:
    """Raises UserError where no encoder measures what the grid's table shows."""
    for slot in SLOTS.values():
        if grid.metric in [each.name for each in slot.metrics] and slot.name not in encoders:
            option = f"--{slot.setting.replace('_', '-')}"
            raise UserError(
                f"the table of {grid.name} shows {grid.metric}, which {option} measures; it is none"
            )


def require_method(grid: Grid, settings: Settings) -> None:
    """Raises UserError where the options are of a method that no run of the grid has, and say
    anything of it: each run of another method has its preset. So where they say a schedule, and
    every run's method says its own."""
    told, methods = settings.training, dict.fromkeys(split_method(run.method)[0] for run in grid)
    usual = training_preset(kind_of(settings.model), "ti").on_machine_of(told)
    if told != usual and told.method not in [METHOD_NAMES[name] for name in methods]:
        raise UserError(
            f"{grid.name} trains {' and '.join(methods)}, and --method is {told.method}, whose "
            f"settings would be passed over; give --method {METHOD_NAMES[next(iter(methods))]}, or "
            "a grid of that method"
        )
    usual = training_preset(kind_of(settings.model), told.method)
    scheduled = all("schedule" in split_method(run.method)[1] for run in grid)
    if scheduled and told.schedule != usual.schedule:
        raise UserError(
            f"every method of {grid.name} names its schedule, and --schedule {told.schedule} would "
            "be passed over; leave it out"
        )


def missing_names(grid: Grid, settings: Settings) -> Mapping[str, list[str]]:
    """{kind: names} of what the grid asks for and this version does not have."""
    missing: dict[str, list[str]] = {}
    for kind, check in _checks(settings).items():
        for name in dict.fromkeys(getattr(run, kind) for run in grid):
            try:
                check(name)
            except UserError:
                missing.setdefault(kind, []).append(split_method(name)[0])
    return {kind: list(dict.fromkeys(names)) for kind, names in missing.items()}


def require_names(grid: Grid, settings: Settings) -> None:
    """Raises one UserError that names all that is missing."""
    missing = missing_names(grid, settings)
    if missing:
        parts = [
            f"the {k}{'s' * (len(names) > 1)} {', '.join(names)}" for k, names in missing.items()
        ]
        raise UserError(
            f"{grid.name} needs {' and '.join(parts)}, which this version does not have; leave "
            "them out with --without, or take another grid"
        )
