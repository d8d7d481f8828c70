"""How large a figure is made: what the command line needs to know of it, without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import tyro
from pydantic import Field

from safezone.errors import UserError
from safezone.fields import Checked, Count, Natural
from safezone.lab.settings import CANDIDATES, Names
from safezone.scores import CLEAN

Several: TypeAlias = Annotated[int, Field(ge=2)]
Steps: TypeAlias = Annotated[tuple[int, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True)
class BenchScope(Checked):
    """How large a figure is made; the options of ``safezone figure``."""

    seed: Natural = 0
    """Of training, generation and measuring."""
    poisons: Annotated[Names, tyro.conf.arg(name="poison")] = ()
    """Poison beside clean images; may be given repeatedly. By default the figure's own."""
    defenses: Annotated[Names, tyro.conf.arg(name="defense")] = ()
    """Defense; may be given repeatedly. By default the figure's own."""
    images: Several = 1000
    """Random scenes of figures 4 and 10; on the built-in model poisoning 1,000 takes half an hour,
    measuring them 4 minutes."""
    moments: Several = 3000
    """Further clean scenes for the mean and covariance of figure 10's closed form."""
    timesteps: int = 21
    """How many timesteps, equally spaced."""
    rows: Several = 32
    """Random vocabulary rows of every sensitivity map."""
    noises: Count = 4
    """Noises that the maps of figures 2, 3 and 9 are averaged over."""
    draws: Count = 2
    """Noises for each image of a gradient (figures 5 and 11)."""
    losses: Annotated[Count | None, tyro.conf.arg(metavar="N")] = None
    """Losses for each concept and timestep of figures 5 and 11, in place of --draws; the paper
    takes 1000."""
    candidates: Count = CANDIDATES
    """Images for each cell, of which the most faithful is shown (figures 1, 8 and 18 to 21)."""
    at: Annotated[Natural | None, tyro.conf.arg(metavar="STEP")] = None
    """Training step that figures 3, 5 and 9 look at; by default a tenth, for 5 a fifth, of all."""
    marks: Annotated[Steps, tyro.conf.arg(metavar="STEP")] = ()
    """Training step that figures 6, 11 and 16 look at; may be given repeatedly. By default for 6
    the start and every tenth, for 11 every fifth, for 16 the paper's 100, 500 and 900 of 5000."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if CLEAN in self.poisons:
            raise UserError("clean images are always shown; name poisons only.")

    def data(self, own: Sequence[str]) -> list[str]:
        """``clean`` and the poisons that were asked for, else the figure's own."""
        return list(dict.fromkeys([CLEAN, *(self.poisons or own)]))
