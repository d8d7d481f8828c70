"""What the paper's tables are made of: poisons, columns, methods, and the scope they are run at."""

from collections.abc import Sequence
from typing import Final

from safezone.lab.run import TEXTUAL_INVERSION, Grid, Scope
from safezone.lab.variants import hyperparameter_methods
from safezone.results.published import published
from safezone.scores.rows import CLEAN, NOMINAL

SEVEN: Final = (CLEAN, "adm+", "adm-", "sds+", "sds-", "ea", "da")
"""Clean images and the paper's six poisons."""
FOUR: Final = (CLEAN, "adm+", "adm-", "ea")
"""Those of the tables of hyperparameters and timesteps."""

DEFENSES: Final = (
    *(NOMINAL, "regen", "pdmpure", "advclean", "jpeg"),
    *("t600", "lm", "jpeg+t600", "jpeg+lm", "szt"),
)
TIMESTEPS: Final = (
    *(NOMINAL, "tanh1", "tanh3", "tanh5", "tanh10"),
    *("power0.25", "power0.5", "power1", "power2", "power4"),
    *("below100", "below200", "below300", "below400", "below500"),
    *("t500", "t600", "t700", "t800", "t900"),
)
MASKS: Final = (NOMINAL, "lm", "im", "lim", "zm")
DILATIONS: Final = (
    *(NOMINAL, "lm", "lm-d08", "lm-d16", "lm-d24", "jpeg+lm", "jpeg+lm-d16"),
    *("t500+lm", "t500+lm-d16", "t600+lm", "t600+lm-d16"),
)
JPEG_FIRST: Final = (
    *(NOMINAL, "regen", "pdmpure", "advclean", "jpeg"),
    *("jpeg+regen", "jpeg+pdmpure", "jpeg+advclean", "szt"),
)


def table(
    number: int,
    scope: Scope,
    defenses: Sequence[str],
    *,
    poisons: Sequence[str] = SEVEN,
    methods: Sequence[str] = (TEXTUAL_INVERSION,),
    method: str | None = None,
    name: str | None = None,
) -> Grid:
    """The grid of the paper's table: concepts x poisons x defenses x methods x seeds.

    ``name``: of a figure that is made of the same runs.
    """
    paper = published(number)
    return Grid.product(
        f"table{number}" if name is None else name,
        concepts=scope.concepts,
        poisons=poisons,
        defenses=defenses,
        seeds=scope.seeds,
        model=scope.model,
        methods=methods if method is None else (method,),
        metric=paper.metric,
        table=number,
    )


def hyperparameter_table(number: int, scope: Scope) -> Grid:
    """A grid whose columns are settings of the training, as variants of the method."""
    return table(number, scope, (NOMINAL,), poisons=FOUR, methods=hyperparameter_methods())
