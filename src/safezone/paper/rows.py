"""The paper's tables 1, 2 and 4 to 40 and the figures that need trainings, one row each.

What a row costs and what the paper found is computed from its runs and its printed numbers
(``safezone.paper.named``). Table 3 has no runs.
"""

from typing import Final

from safezone.lab.run import TEXTUAL_INVERSION
from safezone.lab.variants import hyperparameter_methods
from safezone.paper.row import FOUR, PAPER_DEFENSES, PaperRow, Part
from safezone.scores.rows import CLEAN, NOMINAL

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
CUSTOM: Final = "CustomConcept101"

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
    PaperRow(_RATES, _ONLY, FOUR, table=2, methods=_ALL27),
    PaperRow(_RATES, _ONLY, FOUR, table=4, methods=_ALL27),
    PaperRow(_RATES, _ONLY, FOUR, table=5, methods=_ALL27),
    PaperRow("Timestep distributions", TIMESTEPS, FOUR, table=6),
    PaperRow("Timestep distributions", TIMESTEPS, FOUR, table=7),
    PaperRow("Timestep distributions", TIMESTEPS, FOUR, table=8),
    PaperRow("Masks", MASKS, table=9),
    PaperRow("Masks", MASKS, table=10),
    PaperRow("Masks", MASKS, table=11),
    PaperRow(_DILATED, DILATIONS, table=12),
    PaperRow(_DILATED, DILATIONS, table=13),
    PaperRow(_DILATED, DILATIONS, table=14),
    PaperRow(_AGAINST, table=15),
    PaperRow(_AGAINST, table=16),
    PaperRow(_AGAINST, table=17),
    PaperRow(_AGAINST, table=18),
    PaperRow(_AGAINST, table=19),
    PaperRow(_JPEG, JPEG_FIRST, table=20),
    PaperRow(_JPEG, JPEG_FIRST, table=21),
    PaperRow(_JPEG, JPEG_FIRST, table=22),
    PaperRow(_AGAINST, table=23),
    PaperRow(_AGAINST, table=24),
    PaperRow(_AGAINST, table=25),
    PaperRow(_AGAINST, table=26),
    PaperRow(_AGAINST, table=27),
    PaperRow(_AGAINST, table=28),
    PaperRow(_AGAINST, table=29),
    PaperRow(_AGAINST, table=30),
    PaperRow(_AGAINST, table=31),
    PaperRow(_AGAINST, table=32),
    PaperRow(_AGAINST, table=33),
    PaperRow(_AGAINST, table=34),
    PaperRow(_AGAINST, table=35),
    PaperRow(_AGAINST, table=36),
    PaperRow(_AGAINST, table=37),
    PaperRow(_AGAINST, table=38),
    PaperRow(_AGAINST, table=39),
    PaperRow(_AGAINST, table=40),
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
