"""``safezone claim``, ``demo`` and ``figure``: what the paper shows, on a model."""

import difflib
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from safezone.commands.arguments import early, positionals
from safezone.commands.command import (
    Answer,
    Experiment,
    Flat,
    Machine,
    note,
    progress,
)
from safezone.errors import UserError
from safezone.fields import Count
from safezone.lab.presets import DEMO, kind_of, own_cells, preset, quick, read_settings
from safezone.lab.settings import BenchScope, Cells, Names, Settings, settings_told

if TYPE_CHECKING:
    from safezone.concepts import Concept
    from safezone.lab.bench import Bench
    from safezone.lab.lab import Lab
    from safezone.paper.rows import Figure


@dataclass(frozen=True, kw_only=True)
class ClaimCommand(Experiment):
    """Measures the paper's claim on the built-in concepts.

    Every concept, clean and poisoned, is learned with every defense and seed, drawn and scored.
    Writes OUT/report.html, table.md, table.csv, rows.csv and summary.json; everything made on the
    way is in OUT/work. Kill it and start it again, and it goes on.

    Example:
        safezone claim --concepts 10 --seeds 3 --out runs/claim
        safezone claim --concepts 10 --seeds 3 --out runs/claim --dry-run

    Next:
        xdg-open runs/claim/report.html
    """

    out: Path
    """Folder for the results."""
    dry_run: bool = False
    """Say what is done and what is to do, and write nothing."""
    cells: Flat[Cells] = field(default_factory=Cells)

    def run(self) -> Answer:
        where = "the built-in model" if self.model == "mini" else self.model
        return _measure(self, f"Do the protections hold on {where}?", dry_run=self.dry_run)


@dataclass(frozen=True, kw_only=True)
class DemoCommand(Experiment):
    """Six built-in concepts, clean and poisoned with ADM+: one page in minutes.

    They are learned plainly and with Safe-Zone Training, drawn with six prompts and scored, in
    about four minutes of two cores.

    Example:
        safezone demo --out demo-output

    Next:
        xdg-open demo-output/report.html
        safezone claim --concepts 10 --seeds 3 --out runs/claim
    """

    out: Path = Path("demo-output")
    """Folder for the results."""
    cells: Flat[Cells] = field(default_factory=Cells)

    def run(self) -> Answer:
        return _measure(self, "Does the protection of six objects hold?")

    @classmethod
    def own_preset(cls, arguments: Sequence[str]) -> Settings:
        """On the built-in models the demo's, on others their own with as few images and cells."""
        options = early(arguments)
        model = read_settings(options.config, options.model).model
        if kind_of(model) == "mini":
            return replace(DEMO, model=model)
        return replace(quick(preset(model)), cells=DEMO.cells)


def _open_claim(out: Path, settings: Settings, machine: Machine, sharers: int) -> "Lab":
    """The lab of the claim; processes that help call it as well. ``sharers``: they and this one."""
    from safezone.commands.opening import open_encoders, open_model, with_models
    from safezone.concepts.datasets import miniworld_concepts
    from safezone.paper.claim import claim_lab

    model = open_model(settings.model, machine, settings)
    lab = claim_lab(out, model, open_encoders(settings.scoring, machine), settings)
    return replace(with_models(lab, machine, miniworld_concepts), sharers=sharers)


def _measure(command: ClaimCommand | DemoCommand, title: str, *, dry_run: bool = False) -> Answer:
    from safezone.commands.opening import helped, machine_and_sharers, require_out_folder
    from safezone.lab.executors import begin_server
    from safezone.lab.schedule import plan
    from safezone.paper.claim import claim, claim_grid
    from safezone.results.comparisons import summary_json, summary_markdown
    from safezone.results.meaning import meaning_sentences

    started = time.monotonic()
    require_out_folder(command.out)
    machine, sharers = machine_and_sharers(command.model, command.machine, alone=dry_run)
    settings = settings_told(command, command.cells)
    _require_known(settings, command.cells.poisons, command.cells.defenses)
    if sharers > 1:
        begin_server()
    open_lab = partial(_open_claim, command.out, settings, machine, sharers)
    lab = open_lab()
    stages = plan(lab, claim_grid(lab))
    lines = [f"{name}: {done} of {total} done" for name, (done, total) in stages.items()]
    if dry_run:
        counts = {name: {"done": done, "all": total} for name, (done, total) in stages.items()}
        return Answer({"dry_run": True, "stages": counts}, "\n".join(lines))
    note("; ".join(lines))
    executor = helped(lab, open_lab)
    done = claim(lab, command.out, title=title, executor=executor, progress=progress(), note=note)
    minutes = (time.monotonic() - started) / 60
    results, parts = [], ["no run went well"]
    if done.scored:
        results = summary_json(done.scored)
        parts = [summary_markdown(done.scored), *meaning_sentences(done.scored)]
    parts += [f"failed: {name}: {reason}" for name, reason in done.failed.items()]
    parts.append(f"\nreport: {done.page} (after {minutes:.1f} min)")
    data = {"page": str(done.page), "results": results, "failed": done.failed}
    return Answer(data, "\n".join(parts), status=1 if done.failed else 0)


def _require_known(settings: Settings, poisons: Sequence[str], defenses: Sequence[str]) -> None:
    """Raises UserError for an unknown name, before a model is opened."""
    from safezone.defenses import defense
    from safezone.scores.rows import CLEAN

    for name in poisons:
        if name != CLEAN:
            settings.poisoning.poison(name)
    for name in defenses:
        defense(name)
    settings.training.personalization(), settings.sampling.templates()


@dataclass(frozen=True, kw_only=True)
class FigureCommand(Experiment):
    """Draws a figure of the paper (1 to 21) on a model: makes the poisons, trains and generates
    what it needs, measures, and writes OUT/figure-NN.svg, .png and .json (its numbers). What each
    figure shows and how to read it is in docs/analyses.md.

    What is measured stays in OUT/work and is used again; a killed command given again goes on. With
    --work runs/claim/work the poisons and trainings of `safezone claim --out runs/claim` are used,
    with --work runs/grids/work those of `safezone grid run`; `safezone grid run figure8` makes all
    that figure 8 shows.

    Example:
        safezone figure 7 --out figures
        safezone figure 4 --images 100 --out figures
        safezone figure 3 --concepts 1 --poisoning.steps 25 --steps 100 --out figures-small
    """

    number: tyro.conf.Positional[Annotated[int, tyro.conf.arg(metavar="NUMBER")]]
    """Of the paper's figure, 1 to 21."""
    out: Path
    """Folder for the figure."""
    work: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of everything made on the way; by default OUT/work."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Data set of concept folders, instead of the built-in concepts."""
    concepts: Count | None = None
    """How many concepts, from the first; by default those that the paper shows, or else 10."""
    concept: Annotated[Names, tyro.conf.arg(metavar="NAME")] = ()
    """Concept that is shown, by its name; may be given repeatedly. By default by --concepts."""
    scope: Flat[BenchScope] = field(default_factory=BenchScope)

    def run(self) -> Answer:
        from safezone.commands.opening import require_out_folder
        from safezone.files import locked
        from safezone.paper.measured.table import figure
        from safezone.results.drawings.style import save

        row = figure(self.number)
        if self.concept and self.concepts is not None:
            raise UserError("--concept names what --concepts counts; give one of the two")
        require_out_folder(self.out)
        bench = _bench(self, row)
        with ExitStack() as stack:
            # Grids and claims may work in the second at the same time: artifacts appear whole.
            for folder in {self.out.absolute(), bench.lab.folder.absolute().parent}:
                stack.enter_context(locked(folder, shared=True))
            drawing = row.draw(bench, row)
            paths = save(drawing, self.out, f"figure-{row.number:02d}")
        text = f"figure {row.number}, {row.title}: {', '.join(map(str, paths))}"
        return Answer({"figure": row.number, "title": row.title, **drawing.numbers}, text)

    @classmethod
    def own_preset(cls, arguments: Sequence[str]) -> Settings | None:
        """The model's preset with the figure's own prompt and its data set's steps, if any."""
        from safezone.paper.rows import PAPER

        options = early(arguments)
        names = (f"figure{each}" for each in positionals(cls, arguments))
        row = next((PAPER[name] for name in names if name in PAPER), None)
        if row is None or {"-h", "--help"} & {*arguments}:
            return None
        model = read_settings(options.config, options.model).model
        return row.settings(preset(model, options.method or "ti"))


def _concepts(options: FigureCommand, row: "Figure", size: int) -> "dict[str, Concept]":
    """Those named, the first ones, or all where the figure chooses among them."""
    from safezone.commands.opening import how_many
    from safezone.concepts.datasets import load_dataset, miniworld_concepts
    from safezone.paper.rows import PAPER

    every = miniworld_concepts(size) if options.data is None else load_dataset(options.data, size)
    by_name = {concept.name: concept for concept in every}
    how_many(options.concepts, len(every))
    for name in options.concept:
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, n=3) or list(by_name)
            raise UserError(f"--concept: there is no concept {name}; give {', '.join(near)}")
    if options.concept:
        return {name: by_name[name] for name in options.concept}
    paper = PAPER.get(row.name)
    shows_a_part = paper is not None and paper.part is not None
    most = options.concepts
    if most is None and not shows_a_part:
        most = 10 if paper is None else paper.concepts
    return dict(list(by_name.items())[:most])


def _require_read(options: FigureCommand, row: "Figure") -> None:
    """UserError for an option of the scope that changes nothing of this figure."""
    scope, read, of = options.scope, {*row.reads}, f"figure {row.number}"
    if options.data is not None:
        read, of = read - {"images", "moments"}, f"{of} of a data set"  # they count built-in scenes
    for option in fields(scope):
        if option.name not in read and getattr(scope, option.name) != option.default:
            name = {"poisons": "poison", "defenses": "defense"}.get(option.name, option.name)
            raise UserError(f"--{name} changes nothing of {of}; leave it out")
    if row.one_defense and len(scope.defenses) > 1:
        raise UserError(f"figure {row.number} shows one defense; give --defense once")


def _bench(options: FigureCommand, row: "Figure") -> "Bench":
    from safezone.analysis.timesteps import timestep_grid
    from safezone.commands.opening import (
        open_encoders,
        open_model,
        require_clean_data,
        with_models,
    )
    from safezone.lab.bench import Bench
    from safezone.lab.lab import UNSCORED, Lab
    from safezone.paper.rows import PAPER

    settings = settings_told(options, own_cells(options.machine.config, options.model))
    _require_read(options, row)
    if row.name in PAPER and settings.training.method != "ti":
        raise UserError(
            f"--method is {settings.training.method}, and figure {row.number} is of textual "
            "inversion; leave it out"
        )
    require_clean_data(options.data)
    _require_known(settings, options.scope.poisons, options.scope.defenses)
    model = open_model(options.model, options.machine, options)
    timestep_grid(model.process.steps, options.scope.timesteps)  # refused before anything is made
    lab = Lab(
        options.out / "work" if options.work is None else options.work,
        model,
        open_encoders(options.scoring, options.machine) if row.scores else UNSCORED,
        settings,
        _concepts(options, row, model.image_size),
    )
    lab = with_models(lab, options.machine, lambda size: _concepts(options, row, size).values())
    bench = Bench(lab, options.scope, options.data is None, progress(), note)
    at = options.scope.at
    if steps := [*options.scope.marks, *([] if at is None else [at])]:
        bench.begun_is_enough(steps)  # so that a wrong step is refused before anything is made
    return bench
