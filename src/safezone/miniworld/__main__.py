"""Write a contact sheet: python -m safezone.miniworld OUT.png --seed 0 --count 64 [--concepts]."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from safezone.miniworld import SIZE, Scene, novel_concepts, render, scene_at


def contact_sheet(scenes: Sequence[Scene], columns: int) -> Image.Image:
    """The pictures of the scenes in rows."""
    rows = -(-len(scenes) // columns)
    sheet = Image.new("RGB", (columns * SIZE, rows * SIZE))
    for index, scene in enumerate(scenes):
        row, column = divmod(index, columns)
        sheet.paste(Image.fromarray(render(scene).image), (column * SIZE, row * SIZE))
    return sheet


def main() -> None:
    """Read the command line and write the sheet."""
    parser = argparse.ArgumentParser(prog="python -m safezone.miniworld", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--concepts", action="store_true", help="show the novel concepts instead")
    arguments = parser.parse_args()
    if arguments.concepts:
        sheet = contact_sheet([s for c in novel_concepts() for s in c.scenes], columns=10)
    else:
        scenes = [scene_at(arguments.seed, index) for index in range(arguments.count)]
        sheet = contact_sheet(scenes, columns=8)
    sheet.save(arguments.out)


if __name__ == "__main__":
    main()
