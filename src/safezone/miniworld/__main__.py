"""A contact sheet: python -m safezone.miniworld OUT.png --count 64 [--concepts|--corpus]."""

import argparse
from pathlib import Path

from PIL import Image

from safezone.miniworld import SIZE, example_at, novel_concepts, render, scene_at


def main() -> None:
    """Read the command line and write the sheet."""
    parser = argparse.ArgumentParser(prog="python -m safezone.miniworld", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--concepts", action="store_true", help="show the novel concepts instead")
    parser.add_argument("--corpus", action="store_true", help="show what the model learns from")
    arguments = parser.parse_args()
    indices = range(arguments.count)
    if arguments.concepts:
        pictures = [render(scene).image for each in novel_concepts() for scene in each.scenes]
    elif arguments.corpus:
        pictures = [example_at(arguments.seed, index).paint() for index in indices]
    else:
        pictures = [render(scene_at(arguments.seed, index)).image for index in indices]
    columns = 10 if arguments.concepts else 8
    sheet = Image.new("RGB", (columns * SIZE, -(-len(pictures) // columns) * SIZE))
    for index, pixels in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(Image.fromarray(pixels), (column * SIZE, row * SIZE))
    sheet.save(arguments.out)


if __name__ == "__main__":
    main()
