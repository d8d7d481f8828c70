"""Maps of words beside the images that they are of, from arrays to a drawing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, UInt8
from torch import Tensor

from safezone.results.drawings.pictures import Tile, draw_tiles
from safezone.results.drawings.style import Drawing


@dataclass(frozen=True)
class Ratio:
    """R of a map, and its standard error over noises; None for a single noise."""

    value: float
    error: float | None = None

    @property
    def numbers(self) -> dict[str, float | None]:
        """For the JSON."""
        return {"R": self.value, "standard_error": self.error}

    def __str__(self) -> str:
        return f"R = {self.value:.2f}" + ("" if self.error is None else f" ± {self.error:.2f}")


@dataclass(frozen=True, eq=False)
class WordMap:
    """A map of a word and its R, where the object is known. ``word``: written below it."""

    values: Float[Tensor, "h w"]
    ratio: Ratio | None = None
    word: str = ""

    @property
    def below(self) -> str:
        texts = ([f"“{self.word}”"] if self.word else []) + (
            [str(self.ratio)] if self.ratio else []
        )
        return "\n".join(texts)


@dataclass(frozen=True, eq=False)
class MapRow:
    """An image and maps of it by their columns. ``outline``: the object, at the maps' size."""

    label: str
    image: UInt8[Tensor, "3 h w"]
    maps: Mapping[str, WordMap]
    outline: Float[Tensor, "h w"] | None


def maps_drawing(title: str, rows: Sequence[MapRow], **numbers: Any) -> Drawing:
    """One line a row; the numbers are R by row and column, and those given."""
    tiles: list[list[Tile | None]] = [
        [Tile(row.image), *(Tile(m.values, m.below, row.outline) for m in row.maps.values())]
        for row in rows
    ]
    columns = ["image", *(name.replace(", ", ",\n") for name in rows[0].maps)]
    figure = draw_tiles(
        f"{title}; each map from 0 to its own 98% quantile",
        tiles,
        [row.label.replace(", ", ",\n") for row in rows],
        columns,
    )
    ratios = {
        row.label: {
            column.removeprefix("SSM, ").replace(" = ", "="): each.ratio.numbers
            for column, each in row.maps.items()
            if each.ratio is not None
        }
        for row in rows
    }
    known = {label: each for label, each in ratios.items() if each}
    return Drawing(figure, {"in_region_ratio": known, **numbers})
