"""A table or figure of the paper as a value: what is run, and the runs of a scope."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, TypeVar

from safezone.lab.kinds import kind_of
from safezone.lab.run import TEXTUAL_INVERSION, Grid, Scope
from safezone.lab.settings import CANDIDATES, Settings
from safezone.models.known import hub_name
from safezone.results.published import Published, published
from safezone.scores.rows import CLEAN, NOMINAL

_Item = TypeVar("_Item")

SEVEN: Final = (CLEAN, "adm+", "adm-", "sds+", "sds-", "ea", "da")
"""Clean images and the paper's six poisons."""
STEPS: Final = MappingProxyType({"CustomConcept101": 2500})
"""Of textual inversion on a data set (Sec. 5.1); elsewhere they are the model's."""
FOUR: Final = (CLEAN, "adm+", "adm-", "ea")
"""Those of the tables of hyperparameters and timesteps."""
PAPER_DEFENSES: Final = (
    *(NOMINAL, "regen", "pdmpure", "advclean", "jpeg"),
    *("t600", "lm", "jpeg+t600", "jpeg+lm", "szt"),
)


@dataclass(frozen=True)
class Part:
    """The concepts that a figure shows: one of these ``names``; where there is none, by place.

    ``count`` of them from place ``first`` on, or the last ones where there are fewer.
    """

    first: int
    count: int
    names: tuple[str, ...] = ()

    def of(self, concepts: Sequence[_Item], names: Sequence[str]) -> Sequence[_Item]:
        """Those of all ``concepts``, which are called ``names``."""
        for name in self.names:
            if name in names:
                return [concepts[names.index(name)]]
        return concepts[self.first : self.first + self.count] or concepts[-self.count :]


@dataclass(frozen=True)
class PaperRow:
    """One table or figure.

    ``title``: what is compared. ``figure``: its number; without one it is ``table``, whose printed
    numbers these are. ``methods``: by default the table's own. ``part``: of the concepts; None for
    all. ``prompt``: of a figure of generated images, with {} for the learned word; ``mini_prompt``:
    in its place on the built-in model, which does not know every word. ``concepts``: how many the
    paper used. ``finding``: what the paper says; a table's numbers say it.
    """

    title: str
    defenses: tuple[str, ...] = PAPER_DEFENSES
    poisons: tuple[str, ...] = SEVEN
    table: int | None = None
    figure: int | None = None
    methods: tuple[str, ...] = ()
    part: Part | None = None
    prompt: str | None = None
    mini_prompt: str | None = None
    data: str = "NovelConcepts10"
    concepts: int = 10
    finding: str = ""

    @property
    def name(self) -> str:
        """As in ``safezone grid run NAME``."""
        return f"table{self.table}" if self.figure is None else f"figure{self.figure}"

    @property
    def printed(self) -> Published | None:
        """The paper's numbers of it."""
        return None if self.table is None else published(self.table)

    @property
    def model(self) -> str:
        """What the paper ran it on."""
        return "sd15" if self.printed is None else self.printed.model

    @property
    def carried_over(self) -> bool:
        """Whether the paper's poisons were made on another model than the one they meet."""
        return self.model != "sd15"

    @property
    def dataset(self) -> str:
        return self.data if self.printed is None else self.printed.dataset

    def build(self, scope: Scope) -> Grid:
        """The runs: concepts x poisons x defenses x methods x seeds."""
        paper = self.printed
        own = TEXTUAL_INVERSION if paper is None else paper.method
        concepts = scope.concepts
        return Grid.product(
            self.name,
            concepts=concepts if self.part is None else self.part.of(concepts, concepts),
            poisons=self.poisons,
            defenses=self.defenses,
            seeds=scope.seeds,
            model=scope.model,
            methods=self.methods or (own,),
            metric="instance_similarity" if paper is None else paper.metric,
            table=self.table,
        )

    def settings(self, base: Settings) -> Settings:
        """``base``, but for a figure's own prompt and number of images, and for all what made the
        poisons and how long the paper trained on the data set.

        Appendix O meets poisons of SD 1.5 with other models (carried over, no white box); on the
        built-in twins they are made on ``mini``.
        """
        on_twin = kind_of(base.model) == "mini"
        if self.carried_over:
            maker = "mini" if on_twin else hub_name("sd15")
            base = replace(base, poison_model=(maker,), purify_model=maker)
        if self.dataset in STEPS and base.training.method == "ti" and not on_twin:
            base = replace(base, training=replace(base.training, steps=STEPS[self.dataset]))
        if self.prompt is None:
            return base
        prompts = ((on_twin and self.mini_prompt) or self.prompt,)
        own = replace(base.sampling, prompts=prompts, images_per_prompt=CANDIDATES)
        return replace(base, sampling=own)
