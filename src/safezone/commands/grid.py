"""The paper's tables and figures and your own grids: every run, killed and resumed without loss.

usage: safezone grid VERB [OPTIONS]

    safezone grid show table17
    safezone grid run table17 --model mini --concepts 10 --seeds 3 --dry-run
    safezone grid run table17 --model mini --concepts 10 --seeds 3
    safezone grid run table17 --model sd15 --data NovelConcepts10
    safezone grid run figure8 --model mini --seeds 1
    safezone grid run my-grid.yaml
    safezone grid status

Verbs, each with --help:
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import tyro

from safezone.commands.command import Answer, Command, Folder
from safezone.errors import UserError
from safezone.fields import Natural
from safezone.files import locked, require_new, whole_folder
from safezone.lab.settings import Names

if TYPE_CHECKING:
    from safezone.results.published import Published

VERBS: Final[Mapping[str, str]] = {
    "list": "the paper's tables and figures that can be run",
    "show": "what a grid is made of, what it costs, what the paper found",
    "run": "run a grid or go on with it; --dry-run says what is to be done",
    "status": "how far the grids of a folder are",
    "gc": "remove what no result in a folder needs",
    "export": "tables and rows of grids as CSV, Markdown and LaTeX",
}


@dataclass(frozen=True, kw_only=True)
class GridListCommand(Command):
    """The paper's tables and figures that can be run."""

    def run(self) -> Answer:
        from safezone.paper.named import group_of, headline
        from safezone.paper.rows import PAPER

        says = {name: headline(row) for name, row in PAPER.items()}
        lines: list[str] = []
        for group in dict.fromkeys(map(group_of, PAPER.values())):
            lines += [f"\n{group}" if lines else group]
            lines += [f"  {n:<9} {says[n]}" for n, row in PAPER.items() if group_of(row) == group]
        return Answer({"grids": says}, "\n".join(lines))


@dataclass(frozen=True, kw_only=True)
class GridShowCommand(Command):
    """What a grid is made of, what it costs, and what the paper found."""

    grid: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="GRID")]]
    """A table or figure, as table17 or figure8."""

    def run(self) -> Answer:
        from safezone.lab.grids import missing_names
        from safezone.lab.presets import preset
        from safezone.lab.run import Scope
        from safezone.paper import named

        row = named.paper_grid(self.grid)
        grid = row.build(Scope(row.model, tuple(f"concept {i}" for i in range(10)), (0, 1, 2)))
        missing = missing_names(grid, preset(row.model))
        lines = [named.headline(row), "", f"    {named.command(row)}"]
        if row.figure is not None:
            lines.append(f"    safezone figure {row.figure} --work runs/grids/work --out figures")
        lines += ["", f"Cost: {named.cost(row)}.", f"The paper: {named.finding(row)}."]
        lines += ["", f"{len(grid)} runs with 10 concepts, 3 seeds"]
        lines += [
            "",
            "Settings on the paper's model (--model sd15):",
            *named.setting_lines(row),
            "",
        ]
        lines += [f"not in this version: {kind} {', '.join(n)}" for kind, n in missing.items()]
        data: dict[str, Any] = {
            "grid": self.grid,
            "runs": len(grid),
            "missing": missing,
            "settings": named.paper_settings(row),
        }
        if row.prompt is not None:
            lines += [f"its prompt: {row.prompt.replace('{}', 'R*')}"]
            data["prompt"] = row.prompt
        if row.figure is None and (paper := row.printed) is not None:
            lines += ["", *_printed(paper), *(["", paper.note] if paper.note else [])]
            data["paper"] = {f"{p}, {c}": value for (p, c), value in paper.values.items()}
            data["note"] = paper.note
        return Answer(data, "\n".join(lines))


@dataclass(frozen=True, kw_only=True)
class OnGrids(Command):
    """The option of what looks at the grids of a folder."""

    out: Path = Path("runs/grids")
    """The --out of `safezone grid run`, or of a claim."""


@dataclass(frozen=True, kw_only=True)
class GridStatusCommand(OnGrids):
    """How far the grids of a folder, or its claim, are; what their artifacts take on disk."""

    def run(self) -> Answer:
        from safezone.lab.schedule import by_stage, catalogue, unfinished

        grids, stages = unfinished(self.out), by_stage(catalogue(self.out))
        lines = [
            f"{self.out if name == '.' else name}: {there} of {every} artifacts"
            for name, (there, every) in grids.items()
        ]
        lines += [f"{s}: {count}, {size / 1e6:.1f} MB" for s, (count, size) in stages.items()]
        data = {
            "grids": {
                name: {"done": there, "all": every} for name, (there, every) in grids.items()
            },
            "stages": {
                s: {"artifacts": count, "bytes": size} for s, (count, size) in stages.items()
            },
        }
        return Answer(data, "\n".join(lines))


@dataclass(frozen=True, kw_only=True)
class GridGcCommand(OnGrids):
    """Removes artifacts that no result in the folder rests on, and what killed runs left."""

    dry_run: bool = False
    """Say what would be removed and remove nothing."""

    def run(self) -> Answer:
        from safezone.lab.schedule import collect, garbage

        if not self.out.is_dir():
            raise UserError(f"{self.out} is not a folder; give the --out of `safezone grid run`")
        if self.dry_run:
            folders = garbage(self.out)
            names = [str(folder) for folder in folders]
            lines = [*names, f"{len(folders)} folders would be removed"]
            return Answer({"dry_run": True, "folders": names}, "\n".join(lines))
        with locked(self.out):
            folders = garbage(self.out)
            freed = collect(self.out, folders)
        text = f"{len(folders)} folders removed, {freed / 1e6:.1f} MB freed"
        return Answer({"folders": [str(f) for f in folders], "bytes": freed}, text)


@dataclass(frozen=True, kw_only=True)
class GridExportCommand(OnGrids):
    """Copies tables, rows, settings and the report of every grid, without artifacts. Those of a
    claim, which stand in OUT itself, are copied into TO itself."""

    to: Folder
    """New folder for the results."""
    only: Annotated[Names, tyro.conf.arg(metavar="NAME")] = ()
    """Export this grid only; repeatedly."""
    pictures: Annotated[Natural | None, tyro.conf.arg(metavar="N")] = None
    """Make the pages anew with about so many generated images, 2 kB each; 0 for none."""

    def run(self) -> Answer:
        from safezone.lab.schedule import require_workspace, results
        from safezone.results.folder import PAGE, page_of, write_page

        require_workspace(self.out)
        require_new(self.to)
        there = list(results(self.out))
        for name in self.only:
            if name not in there:
                raise UserError(f"--only: {self.out} has no grid {name}; it has {', '.join(there)}")
        grids = [name for name in there if name in self.only or not self.only]
        with whole_folder(self.to) as temporary:
            for name in grids:
                (temporary / name).mkdir(exist_ok=True)
                for file in sorted((self.out / name).iterdir()):
                    if file.suffix in (".csv", ".md", ".tex", ".html", ".yaml", ".jsonl"):
                        shutil.copyfile(file, temporary / name / file.name)
                if self.pictures is not None:
                    write_page(page_of(self.out / name, self.pictures), temporary / name / PAGE)
        return Answer({"grids": grids}, f"{len(grids)} grids written to {self.to}")


def _printed(paper: "Published") -> list[str]:
    """The paper's table as lines of text."""
    from safezone.results.tables import label

    head = ["", *map(label, paper.columns)]
    rows = [
        [label(poison), *(f"{paper.values[poison, name]:g}" for name in paper.columns)]
        for poison in paper.poisons
    ]
    if len(head) > 12:  # as columns it would not fit on a screen
        head, *rows = [list(line) for line in zip(head, *rows, strict=True)]
    widths = [max(map(len, texts)) for texts in zip(head, *rows, strict=True)]
    lines = [f"The paper's {paper.printed_metric}:"]
    for line in [head, *rows]:
        lines.append("  ".join(t.rjust(w) for t, w in zip(line, widths, strict=True)))
    return lines
