"""The forms in which people keep masks: each changes a folder of pictures with plain masks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageFilter

from cases.pictures import photograph

Spoil = Callable[[Path], None]


def _each(change: Callable[[Image.Image, int, Path], Any]) -> Spoil:
    """Does something with every mask: the mask, its number, its place."""

    def spoil(folder: Path) -> None:
        for seed in range(3):
            change(photograph(seed)[1], seed, folder / "masks" / f"{seed:02d}.png")

    return spoil


def _with_alpha(mask: Image.Image, colour: tuple[int, int, int], alpha: Image.Image) -> Image.Image:
    image = Image.new("RGBA", mask.size, (*colour, 255))
    image.putalpha(alpha)
    return image


def _one_transparent(mask: Image.Image, seed: int, place: Path, alpha: int = 0) -> None:
    pixels = np.array(mask.convert("RGBA"))
    pixels[0, 0, 3] = alpha
    Image.fromarray(pixels).save(place)


def _cut_out(mask: Image.Image, seed: int, place: Path) -> None:
    image = Image.new("RGBA", mask.size, (0, 0, 0, 0))
    image.paste(photograph(seed)[0], (0, 0), mask)
    image.save(place)


def _in_another_form(name: str) -> Spoil:
    def change(mask: Image.Image, seed: int, place: Path) -> None:
        place.unlink()
        mask.save(place.with_name(name.format(stem=place.stem)), quality=95)

    return _each(change)


def _beside(folder: Path) -> None:
    for mask in list((folder / "masks").iterdir()):
        mask.rename(folder / f"{mask.stem}-masklabel.png")
    (folder / "masks").rmdir()


def _with_a_capital(folder: Path) -> None:
    (folder / "masks").rename(folder / "Masks")


def _with_a_system_file(folder: Path) -> None:
    (folder / "masks" / ".DS_Store").write_bytes(b"x")


SAME: Final[dict[str, Spoil]] = {
    "black and white": lambda folder: None,
    "soft edges": _each(lambda m, _, p: m.filter(ImageFilter.GaussianBlur(1)).save(p)),
    "16 bits": _each(
        lambda m, _, p: Image.fromarray(np.asarray(m).astype(np.uint16) * 257).save(p)
    ),
    "0 and 1": _each(lambda m, _, p: m.point(lambda v: v // 255).save(p)),
    "1 bit": _each(lambda m, _, p: m.convert("1").save(p)),
    "a cut-out": _each(_cut_out),
    "black paint on nothing": _each(lambda m, _, p: _with_alpha(m, (0, 0, 0), m).save(p)),
    "white paint on nothing": _each(lambda m, _, p: _with_alpha(m, (255, 255, 255), m).save(p)),
    "one transparent pixel": _each(_one_transparent),
    "one pixel nearly opaque": _each(lambda m, s, p: _one_transparent(m, s, p, 254)),
    "opaque alpha": _each(lambda m, _, p: m.convert("RGBA").save(p)),
    "JPEG": _in_another_form("{stem}.jpg"),
    "PNG in capitals": _in_another_form("{stem}.PNG"),
    "WebP": _in_another_form("{stem}.webp"),
    "with a suffix": _in_another_form("{stem}-masklabel.png"),
    "Masks with a capital": _with_a_capital,
    "beside the images": _beside,
    "with files of a system": _with_a_system_file,
}
"""Folders whose masks are read as those they were made of (JPEG's edges may differ a little)."""


def _only_a_system_file(folder: Path) -> None:
    for mask in (folder / "masks").iterdir():
        mask.unlink()
    (folder / "masks" / ".DS_Store").write_bytes(b"x")


def _empty(folder: Path) -> None:
    for mask in (folder / "masks").iterdir():
        mask.unlink()


NONE: Final[dict[str, Spoil]] = {"only .DS_Store": _only_a_system_file, "an empty folder": _empty}
"""Folders without a mask."""
