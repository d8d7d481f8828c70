"""The paper's tables 1, 2 and 4 to 40 and its figures as values, one row each.

A row has the runs of a table, or of a figure that needs trainings. What it costs and what the paper
found is computed from its runs and its printed numbers (``safezone.paper.named``). Table 3 has no
runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

from safezone.lab.presets import kind_of
from safezone.lab.run import TEXTUAL_INVERSION, Grid, Scope
from safezone.lab.settings import CANDIDATES, Settings
from safezone.lab.variants import hyperparameter_methods
from safezone.models.known import hub_name
from safezone.results.published import Published, published
from safezone.scores.rows import CLEAN, NOMINAL

if TYPE_CHECKING:
    from safezone.concepts import Concept
    from safezone.lab.bench import Bench
    from safezone.results.drawings.style import Drawing

_Item = TypeVar("_Item")

SEVEN: Final = (CLEAN, "adm+", "adm-", "sds+", "sds-", "ea", "da")
"""Clean images and the paper's six poisons."""
CUSTOM: Final = "CustomConcept101"
STEPS: Final = {CUSTOM: 2500}
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
        if self.model != "sd15":  # the poisons were made on another model than they meet
            maker = "mini" if on_twin else hub_name("sd15")
            base = replace(base, poison_model=(maker,), purify_model=maker)
        if self.dataset in STEPS and base.training.method == "ti" and not on_twin:
            base = replace(base, training=replace(base.training, steps=STEPS[self.dataset]))
        if self.prompt is None:
            return base
        prompts = ((on_twin and self.mini_prompt) or self.prompt,)
        own = replace(base.sampling, prompts=prompts, images_per_prompt=CANDIDATES)
        return replace(base, sampling=own)


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

_AGAINST: Final = "Poisons against ten defenses"
_RATES: Final = "Learning rate, schedule and steps"
_DILATED: Final = "Dilation and restriction of timesteps"
_JPEG: Final = "Existing defenses after JPEG"
_ALL27: Final = hyperparameter_methods()
_ONLY: Final = (NOMINAL,)
_BOTH: Final = (CLEAN, "adm+")
_TENTH: Final = (f"{TEXTUAL_INVERSION}; steps=500",)
_FIFTH: Final = (f"{TEXTUAL_INVERSION}; steps=1k",)

ROWS: Final = (
    PaperRow(_AGAINST, table=1),
    *(PaperRow(_RATES, _ONLY, FOUR, table=n, methods=_ALL27) for n in (2, 4, 5)),
    *(PaperRow("Timestep distributions", TIMESTEPS, FOUR, table=n) for n in (6, 7, 8)),
    *(PaperRow("Masks", MASKS, table=n) for n in (9, 10, 11)),
    *(PaperRow(_DILATED, DILATIONS, table=n) for n in (12, 13, 14)),
    *(PaperRow(_AGAINST, table=n) for n in range(15, 20)),
    *(PaperRow(_JPEG, JPEG_FIRST, table=n) for n in (20, 21, 22)),
    *(PaperRow(_AGAINST, table=n) for n in range(23, 41)),
    PaperRow(
        "Generated images of five concepts, Nominal beside SZT",
        (NOMINAL, "szt"), ("adm+",), figure=1, part=Part(0, 5),
        prompt="a {} with a wheat field in the background", mini_prompt="a {} on grass",
        finding="under ADM+ Nominal draws debris, SZT recovers shape, colour and texture",
    ),
    PaperRow(
        "Sensitivity maps before and after 500 steps of training: those short trainings",
        _ONLY, _BOTH, figure=3, methods=_TENTH, part=Part(0, 1, ("HattedMug",)),
        finding="after training the maps of poisoned images are noisy and leave the object",
    ),
    PaperRow(
        "Gradient by timestep after 1000 steps of training: those short trainings",
        _ONLY, _BOTH, figure=5, methods=_FIFTH,
        finding="gradients are largest at low to middle timesteps, those of poisoned images far "
        "more",
    ),
    PaperRow(
        "Loss inside and outside the concept during training: the trainings",
        _ONLY, (CLEAN, "adm+", "sds+", "ea"), figure=6, concepts=7,
        finding="on clean images only the inside is learned, under ADM+, SDS+ and EA both alike",
    ),
    PaperRow(
        "Generated images of one concept under ADM+, by defense, on the beach",
        PAPER_DEFENSES, _BOTH, figure=8, part=Part(0, 1, ("BlueElephant",)),
        prompt="a {} on the beach",
        finding="JPEG and LM alone recover a part, SZT shape and texture",
    ),
    PaperRow(
        "Sensitivity maps of a second concept, as figure 3",
        _ONLY, _BOTH, figure=9, methods=_TENTH, part=Part(1, 1, ("FishDoll", "PartyFish")),
        finding="as figure 3, of FishDoll",
    ),
    PaperRow(
        "Gradient by timestep throughout training: the trainings",
        _ONLY, FOUR, figure=11,
        finding="ADM- lessens the lead of low timesteps, ADM+ and EA keep it",
    ),
    PaperRow(
        "In-region ratio during training, without and with loss masking: the trainings",
        (NOMINAL, "lm"), (CLEAN, "adm+", "ea"), figure=16,
        finding="the ratio rises on clean images, under poisons only with LM",
    ),
    PaperRow(
        "DINOv2 similarity against CLIP score of ten defenses: tables 1 and 16 as a plane",
        table=1, figure=17, data=CUSTOM,
        finding="SZT (0.46, 0.53) lies beyond all existing defenses, the best of which is JPEG "
        "(0.37, 0.50)",
    ),
    PaperRow(
        "Generated images of five concepts under ADM+, by defense, in the snow",
        PAPER_DEFENSES, ("adm+",), figure=18, part=Part(5, 5), data=CUSTOM,
        prompt="a {} in the snow", finding="as figure 8",
    ),
    PaperRow(
        "Generated images of one concept, by poison and defense, in the snow",
        figure=19, part=Part(5, 1, ("things_bottle1",)), data=CUSTOM,
        prompt="a {} in the snow", finding="as figure 8, under every poison",
    ),
    PaperRow(
        "Generated images of five concepts under ADM+, by defense, on the beach",
        PAPER_DEFENSES, ("adm+",), figure=20, part=Part(0, 5),
        prompt="a {} on the beach", finding="as figure 8",
    ),
    PaperRow(
        "Generated images of one concept, by poison and defense, on the beach",
        figure=21, part=Part(3, 1, ("FishDoll",)),
        prompt="a {} on the beach", finding="as figure 8, under every poison",
    ),
)  # fmt: skip
"""In the order of the paper, tables first."""

PAPER: Final[Mapping[str, PaperRow]] = {row.name: row for row in ROWS}
"""Every table and figure with runs, by name."""


@dataclass(frozen=True)
class Figure:
    """One figure. ``draw``: measures what is missing, and draws. ``poisons``: of a figure that
    needs no trainings; else those of its grid. ``reads``: which fields of ``BenchScope``
    it looks at. ``scores``: whether encoders of images are needed. ``one_defense``: whether it
    shows no more than one.
    """

    number: int
    title: str
    draw: "Callable[[Bench, Figure], Drawing]"
    reads: tuple[str, ...]
    poisons: tuple[str, ...] = ()
    scores: bool = False
    one_defense: bool = False

    @property
    def name(self) -> str:
        """Of its grid, where it has one."""
        return f"figure{self.number}"

    @property
    def row(self) -> PaperRow:
        """The grid's row; KeyError for a figure that needs no trainings."""
        return PAPER[self.name]

    def data(self, bench: "Bench") -> list[str]:
        """``clean``, and the poisons that were asked for or the figure's own."""
        return bench.scope.data(self.row.poisons if self.name in PAPER else self.poisons)

    def defenses(self, bench: "Bench") -> tuple[str, ...]:
        """Those that were asked for, or the grid's."""
        return tuple(map(str.lower, bench.scope.defenses)) or self.row.defenses

    def concepts(self, bench: "Bench") -> "Sequence[Concept]":
        """Those of the bench's concepts that the figure shows."""
        names, part = list(bench.lab.concepts), self.row.part
        return bench.concepts if part is None else part.of(bench.concepts, names)
