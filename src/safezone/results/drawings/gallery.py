"""Concepts and generated images, from arrays to drawings (figures 1, 8, 14 and 18 to 21)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import UInt8
from torch import Tensor

from safezone.results.drawings.pictures import Tile, draw_tiles
from safezone.results.drawings.style import Drawing


@dataclass(frozen=True, eq=False)
class Best:
    """The image of a cell that is most similar to the clean images; ``run``: what it is called."""

    run: str
    image: UInt8[Tensor, "3 h w"]
    similarity: float


@dataclass(frozen=True, eq=False)
class Line:
    """One line of a gallery. ``first``: the image at its left; ``best``: by column."""

    label: str
    first: UInt8[Tensor, "3 h w"]
    best: Mapping[str, Best]


def gallery_drawing(
    lines: Sequence[Line], left: str, title: str, prompts: Sequence[str]
) -> Drawing:
    """The images with the similarity below each. ``left``: what the first column shows."""
    tiles: list[list[Tile | None]] = [
        [Tile(line.first), *(Tile(b.image, f"{b.similarity:.2f}") for b in line.best.values())]
        for line in lines
    ]
    quoted = " and ".join(f"“{prompt.replace('{}', 'R*')}”" for prompt in prompts)
    figure = draw_tiles(
        f"{quoted}: {title}",
        tiles,
        [line.label for line in lines],
        [left, *lines[0].best],
        side=1.1,
    )
    similarity = {b.run: b.similarity for line in lines for b in line.best.values()}
    return Drawing(figure, {"prompts": list(prompts), "similarity": similarity})


def dataset_drawing(
    images: Mapping[str, UInt8[Tensor, "3 h w"]], words: Mapping[str, str], title: str
) -> Drawing:
    """Figure 14: an image of each concept with its class word."""
    columns = min(5, len(images))
    tiles: list[Tile | None] = [Tile(image, f"{n} ({words[n]})") for n, image in images.items()]
    tiles += [None] * (-len(tiles) % columns)
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    figure = draw_tiles(title, rows, [""] * len(rows), [""] * columns, side=1.2)
    return Drawing(figure, {"class_words": dict(words)})
