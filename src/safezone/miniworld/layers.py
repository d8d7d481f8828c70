"""An object taken apart into layers, back to front, and put into the frame."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from safezone.miniworld.canvas import PIXEL_X, PIXEL_Y, SIZE, Field
from safezone.miniworld.extras import EARS, EMBLEMS, HATS
from safezone.miniworld.outlines import Outline, moved
from safezone.miniworld.scenes import Extra, ObjectSpec, Pose
from safezone.miniworld.shapes import SHAPE_OUTLINES, FixedPart

MARGIN: Final = 4
"""Least distance of the object from the edge of the image, in pixels."""


@dataclass(frozen=True)
class Layer:
    """Outlines of one paint: a tone of a colour, and the pattern too where it is the body."""

    outlines: tuple[Outline, ...]
    color: str
    tone: float = 0.0
    is_body: bool = False


def object_layers(spec: ObjectSpec) -> Iterator[Layer]:
    """The layers of an object from back to front."""
    shape = SHAPE_OUTLINES[spec.shape]
    if spec.ears is not None:
        ear = EARS[spec.ears.kind]
        yield Layer(tuple(moved(ear, x, y) for x, y in shape.ears_at), spec.ears.color)
    yield from _fixed(shape.behind, spec.color)
    yield Layer(shape.body, spec.color, is_body=True)
    yield from _fixed(shape.front, spec.color)
    if spec.emblem is not None:
        yield _fitted(EMBLEMS[spec.emblem.kind], shape.emblem_at, spec.emblem)
    if spec.hat is not None:
        yield _fitted(HATS[spec.hat.kind], shape.hat_at, spec.hat)


def _fixed(parts: tuple[FixedPart, ...], color: str) -> Iterator[Layer]:
    for part in parts:
        yield Layer(part.outlines, color, part.tone)


def _fitted(
    outlines: tuple[Outline, ...], anchor: tuple[float, float, float], extra: Extra
) -> Layer:
    x, y, size = anchor
    return Layer(tuple(moved(o, x, y, size) for o in outlines), extra.color)


@dataclass(frozen=True)
class Placement:
    """A window of whole pixels around the object, and the similarity from object coordinates."""

    left: int
    top: int
    width: int
    height: int
    matrix: NDArray[np.float32]
    """[2, 2]."""
    offset: NDArray[np.float32]
    """Where the origin of the object lies in the window, in pixels, [2]."""
    pixels_per_unit: float

    def to_pixels(self, outline: Outline) -> Outline:
        """[points, 2] in object coordinates to [points, 2] in pixels of the window."""
        return outline @ self.matrix.T + self.offset

    def centred(self) -> tuple[Field, Field]:
        """x [1, width] and y [height, 1] from the object's origin: in object units, not turned."""
        x = (PIXEL_X[:, : self.width] - self.offset[0]) / np.float32(self.pixels_per_unit)
        y = (PIXEL_Y[: self.height] - self.offset[1]) / np.float32(self.pixels_per_unit)
        return x, y

    def object_coordinates(self) -> tuple[Field, Field]:
        """x and y in object coordinates of each pixel of the window: [height, width] each."""
        (a, b), (c, d) = np.linalg.inv(self.matrix) * np.float32(self.pixels_per_unit)
        x, y = self.centred()
        return a * x + b * y, c * x + d * y


def place(layers: tuple[Layer, ...], pose: Pose) -> Placement:
    """Scale, turn and shift so that the bounding box has the pose's size and place."""
    angle = np.radians(pose.angle)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag([-1.0 if pose.flip else 1.0, 1.0])
    points = np.concatenate([o for layer in layers for o in layer.outlines]) @ matrix.T
    low, high = points.min(axis=0), points.max(axis=0)
    zoom = pose.scale * SIZE / float((high - low).max())
    extent = zoom * (high - low)
    corner = MARGIN + (SIZE - 2 * MARGIN - extent) * np.array([pose.x, pose.y])
    start = np.floor(corner).astype(int) - 2
    stop = np.ceil(corner + extent).astype(int) + 2
    return Placement(
        left=int(start[0]),
        top=int(start[1]),
        width=int(stop[0] - start[0]),
        height=int(stop[1] - start[1]),
        matrix=(zoom * matrix).astype(np.float32),
        offset=(corner - zoom * low - start).astype(np.float32),
        pixels_per_unit=zoom,
    )
