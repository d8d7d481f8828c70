"""One page from a folder of entries: protections by their worst case, and what attacks lowered.

Nothing is measured and nothing is fetched; the page is one file that asks nobody for anything.

Example:
    safezone leaderboard leaderboard --out leaderboard.html

Next:
    open leaderboard.html
"""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from safezone.commands.console import Answer, Command, Common
from safezone.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """The options."""

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FOLDER")]] = Path(
        "leaderboard"
    )
    """Folder of entries."""
    out: Annotated[Path, tyro.conf.arg(metavar="PAGE.html")]
    """The page."""


def run(options: Options) -> Answer:
    """Reads the entries and writes the page."""
    from safezone.audit.leaderboard import boards, leaderboard_page, read_entries
    from safezone.results.folder import write_page

    if options.out.suffix.lower() not in (".html", ".htm") or options.out.is_dir():
        raise UserError(f"--out {options.out} is no file that ends in .html; give one")
    entries = read_entries(options.folder)
    command = shlex.join(["safezone", *sys.argv[1:]]) if len(sys.argv) > 1 else ""
    write_page(leaderboard_page(entries, command), options.out)
    lines = []
    for board in boards(entries):
        lines.append(f"{board.suite} on {board.model}, weights {board.weights[:12]}:")
        lines += [
            f"    {place}{' =' if each.tied else ''}  {each.entry.poison.name}: worst case "
            f"{each.worst.text}, {each.by}; plain training {each.entry.plain.text}"
            for place, each in enumerate(board.standings, 1)
        ]
    data = {
        "page": str(options.out),
        "boards": [
            {
                "suite": board.suite,
                "model": board.model,
                "weights": board.weights,
                "protections": [
                    {"file": each.file, "worst_case": each.worst.mean, "by": each.by}
                    for each in board.standings
                ],
            }
            for board in boards(entries)
        ],
    }
    return Answer(data, "\n".join([*lines, f"page: {options.out}"]))


COMMAND = Command(__doc__, Options, run)
