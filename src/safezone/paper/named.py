"""The paper's tables 1, 2 and 4 to 40 and the figures that need trainings, as grids.

Table 3 has no runs. A table or figure is a function of its scope (model, concepts, seeds). What it
costs, what the paper found and the command are in its docstring, which ``safezone grid show``
prints. Tables of other metrics of the same runs cost nothing more. The built-in model takes the
concepts of its own world for every data set of the paper.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from safezone.errors import UserError
from safezone.lab.run import TEXTUAL_INVERSION, Grid, Scope
from safezone.lab.settings import Settings
from safezone.paper import figures as paper_figures
from safezone.paper import models as paper_models
from safezone.paper import tables as paper_tables
from safezone.paper.figures import CANDIDATES, GALLERIES, Gallery
from safezone.results.published import published


@dataclass(frozen=True)
class PaperGrid:
    """A table's or figure's function and the model that the paper ran it on.

    ``gallery``: of a figure of generated images, which has a prompt of its own.
    """

    build: Callable[[Scope], Grid]
    model: str = "sd15"
    gallery: Gallery | None = None

    def settings(self, base: Settings) -> Settings:
        """``base``, but for a figure's own prompt and number of images."""
        if self.gallery is None:
            return base
        own = {"prompts": (self.gallery.prompt,), "images_per_prompt": CANDIDATES}
        return replace(base, sampling=replace(base.sampling, **own))  # type: ignore[arg-type]


PAPER: Final[Mapping[str, PaperGrid]] = MappingProxyType(
    {
        "table1": PaperGrid(paper_tables.table1),
        "table2": PaperGrid(paper_tables.table2),
        "table4": PaperGrid(paper_tables.table4),
        "table5": PaperGrid(paper_tables.table5),
        "table6": PaperGrid(paper_tables.table6),
        "table7": PaperGrid(paper_tables.table7),
        "table8": PaperGrid(paper_tables.table8),
        "table9": PaperGrid(paper_tables.table9),
        "table10": PaperGrid(paper_tables.table10),
        "table11": PaperGrid(paper_tables.table11),
        "table12": PaperGrid(paper_tables.table12),
        "table13": PaperGrid(paper_tables.table13),
        "table14": PaperGrid(paper_tables.table14),
        "table15": PaperGrid(paper_tables.table15),
        "table16": PaperGrid(paper_tables.table16),
        "table17": PaperGrid(paper_tables.table17),
        "table18": PaperGrid(paper_tables.table18),
        "table19": PaperGrid(paper_tables.table19),
        "table20": PaperGrid(paper_tables.table20),
        "table21": PaperGrid(paper_tables.table21),
        "table22": PaperGrid(paper_tables.table22),
        "table23": PaperGrid(paper_models.table23, "sd15rf"),
        "table24": PaperGrid(paper_models.table24, "sd15rf"),
        "table25": PaperGrid(paper_models.table25, "sd15rf"),
        "table26": PaperGrid(paper_models.table26, "sd21"),
        "table27": PaperGrid(paper_models.table27, "sd21"),
        "table28": PaperGrid(paper_models.table28, "sd21v"),
        "table29": PaperGrid(paper_models.table29, "sd21v"),
        "table30": PaperGrid(paper_models.table30, "sdxl"),
        "table31": PaperGrid(paper_models.table31, "sdxl"),
        "table32": PaperGrid(paper_models.table32),
        "table33": PaperGrid(paper_models.table33),
        "table34": PaperGrid(paper_models.table34),
        "table35": PaperGrid(paper_models.table35),
        "table36": PaperGrid(paper_models.table36),
        "table37": PaperGrid(paper_models.table37),
        "table38": PaperGrid(paper_models.table38),
        "table39": PaperGrid(paper_models.table39),
        "table40": PaperGrid(paper_models.table40),
        "figure1": PaperGrid(paper_figures.figure1, gallery=GALLERIES[1]),
        "figure3": PaperGrid(paper_figures.figure3),
        "figure5": PaperGrid(paper_figures.figure5),
        "figure6": PaperGrid(paper_figures.figure6),
        "figure8": PaperGrid(paper_figures.figure8, gallery=GALLERIES[8]),
        "figure9": PaperGrid(paper_figures.figure9),
        "figure11": PaperGrid(paper_figures.figure11),
        "figure16": PaperGrid(paper_figures.figure16),
        "figure17": PaperGrid(paper_figures.figure17),
        "figure18": PaperGrid(paper_figures.figure18, gallery=GALLERIES[18]),
        "figure19": PaperGrid(paper_figures.figure19, gallery=GALLERIES[19]),
        "figure20": PaperGrid(paper_figures.figure20, gallery=GALLERIES[20]),
        "figure21": PaperGrid(paper_figures.figure21, gallery=GALLERIES[21]),
    }
)
"""Every table and figure with runs, by name."""

_MINI: Final[Mapping[str, str]] = MappingProxyType(
    {"sd15": "mini", "sd15rf": "mini-rf", "sd21": "mini", "sd21v": "mini-v"}
)
"""The built-in twin of each of the paper's models; of SDXL there is none."""

HUB: Final[Mapping[str, str]] = MappingProxyType(
    {
        "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "sd21": "stabilityai/stable-diffusion-2-1-base",
        "sd21v": "stabilityai/stable-diffusion-2-1",
        "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    }
)
"""Where the paper's models are on the hub; of SD 1.5 as rectified flow it names no place."""


def paper_grid(name: str) -> PaperGrid:
    """The paper's grid of that name; UserError with near names for another."""
    if name in PAPER:
        return PAPER[name]
    near = difflib.get_close_matches(name, PAPER, n=3, cutoff=0.7)
    hint = f"did you mean {' or '.join(near)}?" if near else "see `safezone grid list`"
    raise UserError(f"there is no grid {name!r}; {hint} or give a YAML file of your own")


def group_of(name: str) -> str:
    """The heading under which ``safezone grid list`` has it."""
    if name.startswith("figure"):
        return "Figures"
    paper = published(int(name.removeprefix("table")))
    if paper.method != TEXTUAL_INVERSION:
        return "Other methods, SD 1.5"
    return "Textual inversion, SD 1.5" if paper.model == "sd15" else "Other models"


def model_for(name: str, family: str) -> str:
    """Which model the grid is run on: ``family`` is ``mini``, ``sd15`` or a model of its own.

    ``mini`` and ``sd15`` stand for the paper's models: table 26 with ``sd15`` is Stable Diffusion
    2.1. Any other name or folder is taken as it is. UserError where the family has none.
    """
    wanted = paper_grid(name).model
    if family == "sd15":
        return hub_name(wanted)
    if family != "mini":
        return family
    if wanted not in _MINI:
        raise UserError(
            f"{name} is of {wanted}, which has no built-in twin; give --model a folder of it"
        )
    return _MINI[wanted]


def hub_name(model: str) -> str:
    """The hub name of one of the paper's models, others as given; UserError where it has none."""
    if model == "sd15rf":
        raise UserError(
            "the rectified-flow model of SD 1.5 has no known place on the hub; give --model its "
            "diffusers folder"
        )
    return HUB.get(model, model)
