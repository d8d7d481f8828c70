"""Whether this version has every poison, defense and method that a grid names."""

from collections.abc import Callable, Iterable

from safezone.defenses import defense
from safezone.errors import UserError
from safezone.lab.run import Grid
from safezone.lab.settings import Settings
from safezone.lab.variants import split_method, training_of
from safezone.scores.rows import CLEAN


def _refused(names: Iterable[str], check: Callable[[str], object]) -> list[str]:
    refused = []
    for name in dict.fromkeys(names):
        try:
            check(name)
        except UserError:
            refused.append(name)
    return refused


def missing_names(grid: Grid, settings: Settings) -> dict[str, list[str]]:
    """{kind: names} of what the grid asks for and this version does not have."""
    poisons = (run.poison for run in grid if run.poison != CLEAN)
    methods = _refused(
        (run.method for run in grid),
        lambda name: training_of(settings.training, name, settings.model),
    )
    needs = {
        "poison": _refused(poisons, settings.poisoning.poison),
        "defense": _refused((run.defense for run in grid), defense),
        "method": list(dict.fromkeys(split_method(name)[0] for name in methods)),
    }
    return {kind: names for kind, names in needs.items() if names}


def require_names(grid: Grid, settings: Settings) -> None:
    """Raises one UserError that names all that is missing."""
    missing = missing_names(grid, settings)
    if not missing:
        return
    parts = [
        f"the {kind}{'s' * (len(names) > 1)} {', '.join(names)}" for kind, names in missing.items()
    ]
    raise UserError(
        f"{grid.name} needs {' and '.join(parts)}, which this version does not have; leave them "
        "out with --without, or take another grid"
    )
