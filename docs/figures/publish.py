"""Copies figures into this folder, small enough to keep: ``python docs/figures/publish.py FOLDER``.

Drawings lose nothing but their transparency. Figures of many pictures become 256 colours of their
own choice, dithered.
"""

import shutil
import sys
from pathlib import Path

from PIL import Image

PICTURES = {f"figure-{number:02d}" for number in (1, 8, 14, 18, 19, 20, 21)}


def publish(source: Path, target: Path) -> None:
    """Every figure of ``source``, its PNG and its JSON."""
    for path in sorted(source.glob("figure-??.png")):
        with Image.open(path) as image:
            small = image.convert("RGB")
        if path.stem in PICTURES:
            small = small.quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
        small.save(target / path.name, optimize=True)
        shutil.copyfile(path.with_suffix(".json"), target / f"{path.stem}.json")


if __name__ == "__main__":
    publish(Path(sys.argv[1]), Path(__file__).parent)
