"""Draws a figure of the paper (1 to 21) on a model: makes the poisons, trains and generates what it
needs, measures, and writes OUT/figure-NN.svg, .png and .json (its numbers). What each figure shows
and how to read it is in docs/analyses.md.

What is measured stays in OUT/work and is used again; a killed command given again goes on. With
--work runs/claim/work the poisons and trainings of `safezone claim --out runs/claim` are used, with
--work runs/grids/work those of `safezone grid run`; `safezone grid run figure8` makes all that
figure 8 shows.

Example:
    safezone figure 7 --out figures
    safezone figure 4 --images 100 --out figures
    safezone figure 3 --concepts 1 --poisoning.steps 25 --steps 100 --out figures-small
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from safezone.commands.console import Answer, Command, Experiment, note, progress
from safezone.fields import Count, Natural
from safezone.lab.settings import Names, settings_told

if TYPE_CHECKING:
    from safezone.concepts import Concept
    from safezone.lab.bench import Bench
    from safezone.models import Model


@dataclass(frozen=True, kw_only=True)
class Options(Experiment):
    """The options."""

    number: tyro.conf.Positional[Annotated[int, tyro.conf.arg(metavar="NUMBER")]]
    """Of the paper's figure, 1 to 21."""
    out: Path
    """Folder for the figure."""
    work: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of everything made on the way; by default OUT/work."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Data set of concept folders, instead of the built-in concepts."""
    concepts: Count = 10
    """How many concepts, from the first."""
    seed: Natural = 0
    """Of training, generation and measuring."""
    poison: Names = ()
    """Poison beside clean images; may be given repeatedly. By default the figure's own."""
    defense: Names = ()
    """Defense; may be given repeatedly. By default the figure's own."""
    images: Count = 1000
    """Random scenes of figures 4 and 10; on the built-in model poisoning 1,000 takes half an hour,
    measuring them 4 minutes."""
    moments: Count = 3000
    """Further clean scenes for the mean and covariance of figure 10's closed form."""
    timesteps: int = 21
    """How many timesteps, equally spaced."""
    rows: Count = 32
    """Random vocabulary rows of every sensitivity map."""
    noises: Count = 4
    """Noises that the maps of figures 2, 3 and 9 are averaged over."""
    draws: Count = 2
    """Noises for each image of a gradient (figures 5 and 11)."""
    candidates: Count = 4
    """Images for each cell, of which the most faithful is shown (figures 1, 8 and 18 to 21)."""
    at: Annotated[int | None, tyro.conf.arg(metavar="STEP")] = None
    """Training step that figures 3, 5 and 9 look at; by default a tenth, for 5 a fifth, of all."""


def run(options: Options) -> Answer:
    """Measures what is missing and draws."""
    from safezone.commands.opening import require_out_folder
    from safezone.files import locked
    from safezone.paper.measured.table import figure
    from safezone.results.drawings.style import save

    row = figure(options.number)
    require_out_folder(options.out)
    bench = _bench(options, scores=row.scores)
    with ExitStack() as stack:
        # Grids and claims may work in the second at the same time: their artifacts appear whole.
        for folder in {options.out.absolute(), bench.lab.folder.absolute().parent}:
            stack.enter_context(locked(folder, shared=True))
        drawing = row.draw(bench)
        paths = save(drawing, options.out, f"figure-{row.number:02d}")
    text = f"figure {row.number}, {row.title}: {', '.join(map(str, paths))}"
    return Answer({"figure": row.number, "title": row.title, **drawing.numbers}, text)


COMMAND = Command(__doc__, Options, run)


def _concepts(options: Options, model: "Model") -> "tuple[Concept, ...]":
    from safezone.concepts.datasets import load_dataset, miniworld_concepts

    if options.data is not None:
        return load_dataset(options.data, model.image_size)[: options.concepts]
    return miniworld_concepts(model.image_size)[: options.concepts]


def _bench(options: Options, *, scores: bool) -> "Bench":
    from safezone.analysis.timesteps import timestep_grid
    from safezone.commands.opening import open_encoders, open_model
    from safezone.defenses import defense
    from safezone.lab.bench import Bench, Scope
    from safezone.lab.cache import Cache
    from safezone.lab.lab import UNSCORED, Lab
    from safezone.lab.settings import preset

    scope = Scope(
        seed=options.seed,
        images=options.images,
        moments=options.moments,
        poisons=options.poison,
        defenses=options.defense,
        timesteps=options.timesteps,
        rows=options.rows,
        noises=options.noises,
        draws=options.draws,
        candidates=options.candidates,
        at=options.at,
    )
    settings = settings_told(options, preset(options.model).cells)
    for name in options.poison:
        settings.poisoning.poison(name)
    for name in options.defense:
        defense(name)
    settings.training.personalization(), settings.sampling.templates()
    model = open_model(options.model, options.machine)
    timestep_grid(model.process.steps, options.timesteps)  # refused before anything is made
    work = options.out / "work" if options.work is None else options.work
    lab = Lab(
        work,
        model,
        open_encoders(options.scoring, options.machine) if scores else UNSCORED,
        settings,
        {concept.name: concept for concept in _concepts(options, model)},
    )
    return Bench(lab, Cache(work / "analysis"), scope, options.data is None, progress(), note)
