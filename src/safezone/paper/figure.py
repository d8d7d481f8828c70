"""A figure of the paper as a value: what draws it and what it is drawn of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safezone.concepts import Concept
from safezone.lab.bench import Bench
from safezone.paper.named import PAPER
from safezone.paper.row import PaperRow

if TYPE_CHECKING:
    from safezone.results.drawings.style import Drawing


@dataclass(frozen=True)
class Figure:
    """One figure. ``draw``: measures what is missing, and draws. ``poisons``: of a figure that
    needs no trainings; else those of its grid. ``scores``: whether encoders of images are needed.
    """

    number: int
    title: str
    draw: "Callable[[Bench, Figure], Drawing]"
    poisons: tuple[str, ...] = ()
    scores: bool = False

    @property
    def name(self) -> str:
        """Of its grid, where it has one."""
        return f"figure{self.number}"

    @property
    def row(self) -> PaperRow:
        """The grid's row; KeyError for a figure that needs no trainings."""
        return PAPER[self.name]

    def data(self, bench: Bench) -> list[str]:
        """``clean``, and the poisons that were asked for or the figure's own."""
        return bench.scope.data(self.row.poisons if self.name in PAPER else self.poisons)

    def defenses(self, bench: Bench) -> tuple[str, ...]:
        """Those that were asked for, or the grid's."""
        return bench.scope.defenses or self.row.defenses

    def concepts(self, bench: Bench) -> Sequence[Concept]:
        """Those of the bench's concepts that the figure shows."""
        names, part = list(bench.lab.concepts), self.row.part
        return bench.concepts if part is None else part.of(bench.concepts, names)
