"""Pictures like photographs, made by code: a two-coloured thing before a grainy gradient."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def photograph(
    seed: int = 0, width: int = 200, height: int = 160
) -> tuple[Image.Image, Image.Image]:
    """A picture and the exact mask of the thing in it."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    middle = width * (0.45 + 0.1 * random.random()), height * (0.45 + 0.1 * random.random())
    pixels = np.stack([x / width * 120 + 60, y / height * 100 + 80, np.full(x.shape, 150.0)], -1)
    pixels += random.normal(0, 6, pixels.shape)
    inside = np.hypot(x - middle[0], y - middle[1]) < min(width, height) * 0.28
    pixels[inside] = np.array([210, 60, 40]) + random.normal(0, 8, (int(inside.sum()), 3))
    pixels[inside & (x < middle[0])] = np.array([40, 60, 200])
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return picture, Image.fromarray((inside * 255).astype(np.uint8))


def picture_folder(
    folder: Path, names: Sequence[str] = ("00.png", "01.png", "02.png"), *, masks: bool = False
) -> Path:
    """A folder of such pictures; their masks, if any, as ``masks/<stem>.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        picture, mask = photograph(seed)
        picture.save(folder / name)
        if masks:
            (folder / "masks").mkdir(exist_ok=True)
            mask.save(folder / "masks" / f"{Path(name).stem}.png")
    return folder
