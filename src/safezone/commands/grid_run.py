"""``safezone grid run``."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    command_line,
    note,
    progress,
)
from safezone.commands.workers import Workers, executor_of
from safezone.errors import UserError
from safezone.fields import Count, FileName, plural
from safezone.lab.presets import own_cells, read_settings
from safezone.lab.run import Scope
from safezone.lab.settings import Names, Settings, settings_told
from safezone.models.known import hub_name

if TYPE_CHECKING:
    from safezone.concepts import Concept
    from safezone.lab.lab import Lab
    from safezone.lab.run import Grid


@dataclass(frozen=True, kw_only=True)
class GridRunCommand(Experiment):
    """Runs a table or figure of the paper, or a grid of your own (a YAML file), and writes
    OUT/NAME/report.html with the paper's numbers beside ours, table.csv, .md and .tex, and
    rows.csv. What grids have in common is in OUT/work and is made once. Stopped or killed and
    started again, it goes on.

    Example:
        safezone grid run table17 --model mini --concepts 10 --seeds 3 --dry-run
        safezone grid run table17 --model mini --concepts 10 --seeds 3
        safezone grid run table17 --without regen --without pdmpure
        safezone grid run table17 --only adm+ --only szt --name adm-szt
        safezone grid run table1 --model sd15 --data CustomConcept101 --executor ray --address auto

    Next:
        xdg-open runs/grids/table17/report.html
    """

    grid: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="GRID")]]
    """A table or figure, as table17 or figure8, or a YAML file."""
    out: Path = Path("runs/grids")
    """Folder of all grids; what they have in common is made once."""
    model: str = "mini"
    """mini or sd15 (the table's own model of that family), a diffusers folder or a hub name."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Data set of concepts; by default the built-in ones."""
    concepts: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many concepts, from the first; by default 10, or all of --data."""
    seeds: Count = 3
    """Seeds 0, 1, ... of training and generation."""
    without: Annotated[Names, tyro.conf.arg(metavar="NAME")] = ()
    """Leave a poison, defense or method out; repeatedly."""
    only: Annotated[Names, tyro.conf.arg(metavar="NAME")] = ()
    """Run this concept, poison, defense or method only; repeatedly."""
    name: Annotated[FileName | None, tyro.conf.arg(metavar="NAME")] = None
    """Folder of the results in OUT; by default the grid's name."""
    reuse: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Copy what is wanted and lies below this folder, such as the --out of safezone personalize."""
    dry_run: bool = False
    """Say what is done and to do, how long and how much disk; write nothing."""
    workers: Flat[Workers] = field(default_factory=Workers)

    def run(self) -> Answer:
        from safezone.commands.opening import helped, machine_and_sharers, require_out_folder
        from safezone.lab.store import WORK, artifacts_in
        from safezone.results.folder import measure

        require_out_folder(self.out)
        settings, at_scope = _asked(self)
        work = self.out.absolute() / WORK
        data = None if self.data is None else self.data.absolute()
        alone = self.dry_run or self.workers.executor != "here"
        machine, sharers = machine_and_sharers(settings.model, self.machine, alone=alone)
        open_here = partial(open_lab, work, settings, data, machine, sharers)
        lab = open_here()
        if self.reuse is not None:
            lab = replace(lab, reuse=artifacts_in(self.reuse))
        grid = _grid(self, lab, at_scope)
        name = self.name or grid.name
        if name == WORK:
            which = "--name is" if self.name else "the grid's name is"
            raise UserError(f"{which} {WORK}, which holds the artifacts; give another --name")
        if self.only or self.without:
            _require_kept(grid, self.out / name)
        if self.dry_run:
            return dry(lab, grid, self.workers.count)
        open_there = partial(open_lab, work, settings, data)
        command = command_line()
        try:
            results = measure(
                lab,
                grid,
                self.out.absolute(),
                self.out.absolute() / name,
                title=_title(grid, settings),
                command=command,
                executor=executor_of(
                    self.workers,
                    self.machine,
                    self.out / "jobs",
                    open_there,
                    helped(lab, open_here),
                ),
                progress=progress(),
                note=note,
            )
        except KeyboardInterrupt:
            note(f"\nstopped; what is finished is in {work}. Go on with:\n    {command}")
            raise
        lines = _failures("failed", results.failed)
        lines += [f"{len(grid) - len(results.failed)} of {len(grid)} runs went well"]
        lines += [f"report: {results.page}"]
        answer = {"page": str(results.page), "runs": len(grid), "failed": results.failed}
        return Answer(answer, "\n".join(lines), status=1 if results.failed else 0)

    @classmethod
    def own_preset(cls, arguments: Sequence[str]) -> Settings | None:
        """The preset of the table's own model and method, which its name tells; None without one.

        With --model sd15 table 26 trains as on SD 2.1, and table 32 as LoRAs are; a figure of
        generated images has its own prompt.
        """
        from safezone.paper.named import model_for, settings_for
        from safezone.paper.rows import PAPER

        options = early(arguments)
        table = next((each for each in positionals(cls, arguments) if each in PAPER), None)
        if table is None or {"-h", "--help"} & {*arguments}:
            return None
        model = read_settings(options.config, options.model).model
        return settings_for(PAPER[table], model_for(table, model))


def open_lab(
    work: Path, settings: Settings, data: Path | None, machine: Machine, sharers: int = 1
) -> "Lab":
    """The lab of a grid: model, encoders and all concepts of the data. Workers call it as well.

    ``sharers``: how many processes work there.
    """
    from safezone.commands.opening import (
        open_encoders,
        open_model,
        require_clean_data,
        with_models,
    )
    from safezone.concepts.datasets import load_readable, miniworld_concepts
    from safezone.lab.lab import Lab

    require_clean_data(data)
    model = open_model(settings.model, machine, settings)

    def readable(size: int) -> "tuple[Sequence[Concept], dict[str, str]]":
        return (miniworld_concepts(size), {}) if data is None else load_readable(data, size)

    concepts, unreadable = readable(model.image_size)
    encoders = open_encoders(settings.scoring, machine)
    by_name = {concept.name: concept for concept in concepts}
    lab = Lab(work, model, encoders, settings, by_name, unreadable, sharers=sharers)
    return with_models(lab, machine, lambda size: readable(size)[0])


def _asked(options: GridRunCommand) -> "tuple[Settings, Callable[[Scope], Grid]]":
    """The settings on the grid's model, and the grid at a scope; UserError, before a model is
    opened, for a wrong file, and where a table needs names that this version does not have."""
    from safezone.lab.grids import YAML, names_in, only, read_grid, require_names, without
    from safezone.paper.named import model_for, paper_grid

    cells = own_cells(options.machine.config, options.model)
    if options.grid.endswith(YAML):
        settings = settings_told(options, cells, hub_name(options.model))
        return settings, read_grid(Path(options.grid), settings).at_scope
    settings = settings_told(options, cells, model_for(options.grid, options.model))
    at_scope = paper_grid(options.grid).build
    grid = at_scope(Scope(settings.model, ("any",), (0,)))
    known = tuple(name for name in options.only if names_in(grid, name))
    require_names(only(without(grid, options.without), known), settings)
    return settings, at_scope


def _grid(options: GridRunCommand, lab: "Lab", at_scope: "Callable[[Scope], Grid]") -> "Grid":
    """The grid at the options' scope, without what --without names; UserError for what is wrong."""
    from safezone.commands.opening import how_many
    from safezone.lab.grids import only, require_method, require_metric, without

    names = [*lab.concepts, *lab.unreadable]
    most = how_many(options.concepts, len(names))
    scope = Scope(lab.model.name, tuple(names[:most]), tuple(range(options.seeds)))
    grid = at_scope(scope)
    require_metric(grid, lab.encoders)
    grid = only(without(grid, options.without), options.only)
    require_method(grid, lab.settings)
    return grid


def _require_kept(grid: "Grid", folder: Path) -> None:
    """UserError where results of the same model lie that the part of a grid would replace."""
    from safezone.lab.grids import run_of
    from safezone.lab.store import ROWS_FILE
    from safezone.scores.rows import read_rows

    if not (folder / ROWS_FILE).exists():
        return
    models = {run.model for run in grid}
    there = {run_of(row) for row in read_rows(folder / ROWS_FILE) if row.model in models}
    if lost := len(there - {*grid}):
        raise UserError(
            f"{folder} holds results that --only or --without leaves out (runs: {lost}); give "
            "another --name, or delete that folder first"
        )


def _failures(verb: str, failed: Mapping[str, str]) -> list[str]:
    """One line a reason, with the runs that it stops."""
    runs: dict[str, list[str]] = {}
    for name, reason in failed.items():
        runs.setdefault(reason, []).append(name)
    return [
        f"{verb}: {names[0]}{f' and {len(names) - 1} more' * (len(names) > 1)}: {reason}"
        for reason, names in runs.items()
    ]


def _title(grid: "Grid", settings: Settings) -> str:
    match = re.fullmatch(r"(table|figure)(\d+)", grid.name)
    if match is None:
        return grid.name
    title = f"{match[1].title()} {match[2]} of the paper, on {settings.model}"
    if settings.poison_model and settings.poison_model != (settings.model,):
        return f"{title}, poisons made on {' + '.join(settings.poison_model)}"
    return f"{title}, poisons made on it (white box)" if settings.poison_model else title


def dry(lab: "Lab", grid: "Grid", workers: int = 1) -> Answer:
    """What is done and to do of a grid, how long that takes and how much disk, what cannot be."""
    from safezone.lab.cost import count_passes
    from safezone.lab.schedule import estimate
    from safezone.results.meaning import duration_text

    costs = estimate(lab, grid, count_passes(lab.model, lab.poisoners), workers)
    lines = [f"{grid.name}: {plural(len(grid), 'run')} on {lab.model.name}"]
    for stage, cost in costs.items():
        counted = cost.seconds or not cost.todo  # purifiers and encoders are not
        time = f"about {duration_text(cost.seconds)}" if counted else "time not counted"
        lines.append(
            f"{stage}: {cost.done} done, {cost.todo} to do, {time}, {cost.size / 1e6:.0f} MB"
        )
    seconds = sum(cost.seconds for cost in costs.values())
    size = sum(cost.size for cost in costs.values())
    lines.append(
        f"in all about {duration_text(seconds)} (estimated from counted operations and the speed "
        f"of one pass) and {size / 1e6:.0f} MB"
    )
    stages = {
        name: {"done": c.done, "todo": c.todo, "seconds": c.seconds, "bytes": c.size}
        for name, c in costs.items()
    }
    refused = {run.label: reason for run in grid if (reason := lab.refused(run)) is not None}
    lines += _failures("will fail", refused)
    data = {"dry_run": True, "runs": len(grid), "stages": stages, "failed": refused}
    return Answer(data, "\n".join(lines))
