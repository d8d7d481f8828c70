"""Runs a table or figure of the paper, or a grid of your own (a YAML file), and writes
OUT/NAME/report.html with the paper's numbers beside ours, table.csv, .md and .tex, and rows.csv.
What grids have in common is in OUT/work and is made once. Stopped or killed and started again, it
goes on.

Example:
    safezone grid run table17 --model mini --concepts 10 --seeds 3 --dry-run
    safezone grid run table17 --model mini --concepts 10 --seeds 3
    safezone grid run table17 --without regen --without pdmpure
    safezone grid run table17 --only adm+ --only szt --name adm-szt
    safezone grid run table1 --model sd15 --data CustomConcept101 --executor ray --address auto

Next:
    open runs/grids/table17/report.html
"""

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from safezone.commands.console import Answer, Command, Experiment, Flat, Machine, note, progress
from safezone.commands.parsing import early
from safezone.errors import UserError
from safezone.fields import Checked, Count, FileName, Weight
from safezone.lab.config import read_settings
from safezone.lab.settings import Names, Settings, settings_told

if TYPE_CHECKING:
    from safezone.concepts import Concept
    from safezone.lab.executors import Executor
    from safezone.lab.lab import Lab
    from safezone.lab.run import Grid


@dataclass(frozen=True)
class Workers(Checked):
    """Who does the work."""

    executor: Literal["here", "processes", "ray", "slurm"] = "here"
    """This process, others on this machine, Ray, or Slurm; the last two need a shared OUT."""
    workers: Count = 2
    """Tasks at a time, of processes, ray without --address, and slurm."""
    address: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Of a Ray cluster, or auto."""
    gpus: Weight = 0.0
    """Of every task of ray; slurm has --slurm."""
    slurm: Annotated[Names, tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """Setting of submitit, such as slurm_partition=gpu or timeout_min=600; repeatedly."""
    cluster: Annotated[Literal["slurm", "local"] | None, tyro.conf.arg(metavar="NAME")] = None
    """Of submitit; local runs the jobs on this machine."""


@dataclass(frozen=True, kw_only=True)
class Options(Experiment):
    """The options."""

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


def _table_preset(arguments: Sequence[str]) -> Settings | None:
    """The preset of the table's own model and method, which its name tells; None without one.

    With --model sd15 table 26 trains as on SD 2.1, and table 32 as LoRAs are; a figure of
    generated images has its own prompt.
    """
    from safezone.paper.named import PAPER, model_for
    from safezone.paper.settings import settings_for

    options = early(arguments, "config", "model")
    table = next((each for each in arguments if each in PAPER), None)
    if options is None or table is None or {"-h", "--help"} & {*arguments}:
        return None
    if options.config and not options.model:
        return None
    model = model_for(table, options.model or "mini")
    return settings_for(PAPER[table], model)


def open_lab(
    work: Path, settings: Settings, data: Path | None, machine: Machine, sharers: int = 1
) -> "Lab":
    """The lab of a grid: model, encoders and all concepts of the data. Workers call it as well.

    ``sharers``: how many processes work there.
    """
    from safezone.commands.opening import open_encoders, open_model, with_models
    from safezone.concepts.datasets import load_readable, miniworld_concepts
    from safezone.lab.lab import Lab

    model = open_model(settings.model, machine, settings)
    model.scheduler(settings.sampling.scheduler)  # refused before anything is made

    def readable(size: int) -> "tuple[Sequence[Concept], dict[str, str]]":
        return (miniworld_concepts(size), {}) if data is None else load_readable(data, size)

    concepts, unreadable = readable(model.image_size)
    encoders = open_encoders(settings.scoring, machine)
    named = {concept.name: concept for concept in concepts}
    lab = Lab(work, model, encoders, settings, named, unreadable, sharers=sharers)
    return with_models(lab, machine, lambda size: readable(size)[0])


def make_grid(options: Options, lab: "Lab") -> "Grid":
    """The grid at the options' scope, without what --without names; UserError for what is wrong."""
    from safezone.lab.grid_file import file_grid, read_grid_file
    from safezone.lab.run import Scope
    from safezone.lab.selection import only, without
    from safezone.paper.named import paper_grid

    names = [*lab.concepts, *lab.unreadable]
    most = len(names) if options.concepts is None else options.concepts
    if not 1 <= most <= len(names):
        raise UserError(f"There are {len(names)} concepts; give --concepts 1 to {len(names)}.")
    scope = Scope(lab.model.name, tuple(names[:most]), tuple(range(options.seeds)))
    if options.grid.endswith((".yaml", ".yml")):
        grid = file_grid(read_grid_file(Path(options.grid)), scope, lab.settings)
    else:
        grid = paper_grid(options.grid).build(scope)
    return only(without(grid, options.without), options.only)


def _require_known(options: Options, settings: Settings) -> None:
    """Says what is missing for a table of the paper before a model is opened."""
    from safezone.lab.requirements import require_names
    from safezone.lab.run import Scope
    from safezone.lab.selection import names_in, only, without
    from safezone.paper.named import paper_grid

    if not options.grid.endswith((".yaml", ".yml")):
        grid = paper_grid(options.grid).build(Scope(settings.model, ("any",), (0,)))
        known = tuple(name for name in options.only if names_in(grid, name))
        require_names(only(without(grid, options.without), known), settings)


def _worker_machine(options: Options, helping: int) -> Machine:
    """Processes of one machine share its cores; more threads than cores make all of them slow."""
    machine, told = options.machine, options.workers
    if helping:
        return replace(machine, threads=1)
    if told.executor != "processes" or machine.threads is not None:
        return machine
    return replace(machine, threads=max(1, (os.cpu_count() or 1) // told.workers))


def _executor(options: Options, lab: "Lab", helping: int, open_again: Any) -> "Executor | None":
    from safezone.lab.executors import Helped, Processes, Ray, Slurm

    told = options.workers
    if helping:
        return Helped(lab, open_again, helping, progress())
    if told.executor == "processes":
        return Processes(open_again, told.workers)
    if told.executor == "ray":
        return Ray(open_again, told.workers, told.address, told.gpus)
    if told.executor == "slurm":
        pairs = [item.partition("=") for item in told.slurm]
        parameters = {k: int(v) if v.isdecimal() else v for k, _, v in pairs}
        folder = options.out / "jobs"
        return Slurm(open_again, folder, told.workers, told.cluster, parameters)
    return None


def _settings(options: Options) -> Settings:
    from safezone.models.known import hub_name
    from safezone.paper.named import model_for

    yours = options.grid.endswith((".yaml", ".yml"))
    model = hub_name(options.model) if yours else model_for(options.grid, options.model)
    cells = read_settings(options.machine.config, options.model).cells
    return settings_told(options, cells, model)


def run(options: Options) -> Answer:
    """Measures the grid, or tells what there is to do."""
    from safezone.commands.opening import helpers, require_out_folder
    from safezone.lab.store import WORK, artifacts_in
    from safezone.results.measurement import measure

    require_out_folder(options.out)
    settings = _settings(options)
    _require_known(options, settings)
    work = options.out.absolute() / WORK
    data = None if options.data is None else options.data.absolute()
    told = options.workers
    alone = told.executor != "here" or options.dry_run
    helping = 0 if alone else helpers(settings.model, options.machine)
    sharers = {"here": 1 + helping, "ray": 1 if told.address else told.workers}
    machine = _worker_machine(options, helping)
    again = partial(
        open_lab, work, settings, data, machine, sharers.get(told.executor, told.workers)
    )
    lab = again() if helping else open_lab(work, settings, data, options.machine)
    if options.reuse is not None:
        lab = replace(lab, reuse=artifacts_in(options.reuse))
    grid = make_grid(options, lab)
    name = options.name or grid.name
    if name == WORK:
        which = "--name is" if options.name else "the grid's name is"
        raise UserError(f"{which} {WORK}, which holds the artifacts; give another --name")
    if options.dry_run:
        return dry(lab, grid, 1 if told.executor == "here" else told.workers)
    command = shlex.join(["safezone", *sys.argv[1:]]) if len(sys.argv) > 1 else ""
    try:
        made = measure(
            lab,
            grid,
            options.out.absolute(),
            options.out.absolute() / name,
            title=_title(grid, settings),
            command=command,
            executor=_executor(options, lab, helping, again),
            progress=progress(),
            note=note,
        )
    except KeyboardInterrupt:
        note(f"\nstopped; what is finished is in {work}. Go on with:\n    {command}")
        raise
    lines = _failures(made.failed)
    lines += [f"{len(grid) - len(made.failed)} of {len(grid)} runs went well"]
    lines += [f"report: {made.page}"]
    data_out = {"page": str(made.page), "runs": len(grid), "failed": made.failed}
    return Answer(data_out, "\n".join(lines), status=1 if made.failed else 0)


def _failures(failed: Mapping[str, str]) -> list[str]:
    """One line a reason, with the runs that it stopped."""
    runs: dict[str, list[str]] = {}
    for name, reason in failed.items():
        runs.setdefault(reason, []).append(name)
    return [
        f"failed: {names[0]}{f' and {len(names) - 1} more' * (len(names) > 1)}: {reason}"
        for reason, names in runs.items()
    ]


def _title(grid: "Grid", settings: Settings) -> str:
    found = re.fullmatch(r"(table|figure)(\d+)", grid.name)
    if found is None:
        return grid.name
    title = f"{found[1].title()} {found[2]} of the paper, on {settings.model}"
    if settings.poison_model and settings.poison_model != (settings.model,):
        return f"{title}, poisons made on {' + '.join(settings.poison_model)}"
    return f"{title}, poisons made on it (white box)" if settings.poison_model else title


def dry(lab: "Lab", grid: "Grid", workers: int = 1) -> Answer:
    """What is done and to do of a grid, how long that takes and how much disk."""
    from safezone.lab.cost import count_passes
    from safezone.lab.schedule import estimate
    from safezone.results.notes import duration_text

    costs = estimate(lab, grid, count_passes(lab.model, lab.poisoners), workers)
    lines = [f"{grid.name}: {len(grid)} runs on {lab.model.name}"]
    for stage, cost in costs.items():
        lines.append(
            f"{stage}: {cost.done} done, {cost.todo} to do, about "
            f"{duration_text(cost.seconds)} and {cost.size / 1e6:.0f} MB"
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
    return Answer({"dry_run": True, "runs": len(grid), "stages": stages}, "\n".join(lines))


COMMAND = Command(__doc__, Options, run, _table_preset)
