"""Parts of a grid: with or without some of its concepts, poisons, defenses and methods."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from safezone.errors import UserError
from safezone.lab.run import Grid

_AXES: Final = ("concept", "poison", "defense", "method")


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
