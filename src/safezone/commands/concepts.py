"""The ten built-in concepts: objects of the procedural world, unknown to the built-in model.

Example:
    safezone concepts list
    safezone concepts show concepts.png
    safezone concepts export concepts
    safezone concepts export development --set development

Next:
    safezone poison concepts/HattedMug --out concepts-poisoned/HattedMug
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from safezone.commands.console import Answer, Command, Common
from safezone.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """The options."""

    action: tyro.conf.Positional[Literal["list", "show", "export"]] = "list"
    """list; show FILE.png: one sheet of all images; export DIR: folders with images and masks."""
    out: tyro.conf.Positional[Path | None] = None
    """The sheet's file or the folder to make."""
    set: Literal["novel", "development"] = "novel"
    """The ten that results are shown on, or six others to choose settings on."""


def run(options: Options) -> Answer:
    """Lists, draws or writes the concepts."""
    import torch

    from safezone.concepts.datasets import export_concepts, miniworld_concepts
    from safezone.files import require_new
    from safezone.images import write_png

    if options.action == "export":
        if options.out is None:
            raise UserError("no folder is given; write safezone concepts export DIR")
        require_new(options.out)
        paths = [str(folder) for folder in export_concepts(options.out, options.set)]
        return Answer({"folders": paths}, "\n".join(paths))
    concepts = miniworld_concepts(which=options.set)
    names = [
        {"name": c.name, "class_word": c.class_word, "images": len(c.images)} for c in concepts
    ]
    lines = [f"{each['name']}: {each['class_word']}, {each['images']} images" for each in names]
    if options.action == "show":
        out = options.out or Path("concepts.png")
        if out.suffix.lower() != ".png":
            raise UserError(f"{out} does not end in .png; the sheet is a PNG")
        rows = [torch.cat(list(concept.images), dim=-1) for concept in concepts]
        write_png(out, torch.cat(rows, dim=-2))
        lines.append(f"sheet: {out}")
    return Answer({"concepts": names}, "\n".join(lines))


COMMAND = Command(__doc__, Options, run)
