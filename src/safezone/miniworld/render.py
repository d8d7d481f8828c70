"""From a scene to its picture, the exact mask of the object, and a caption.

The object is taken apart into layers, back to front, put into the frame and lit.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from safezone.miniworld.backgrounds import BACKGROUND_PAINTERS
from safezone.miniworld.canvas import (
    PIXEL_X,
    PIXEL_Y,
    SIZE,
    Field,
    Outline,
    Painting,
    as_field,
    blurred,
    coverage,
    moved,
    step,
)
from safezone.miniworld.captions import caption
from safezone.miniworld.palette import PATTERN_FIELDS, jittered, luminance, toned
from safezone.miniworld.scenes import Extra, ObjectSpec, Pose, Scene
from safezone.miniworld.shapes import EARS, EMBLEMS, HATS, SHAPE_OUTLINES

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

    def fitted(
        outlines: tuple[Outline, ...], at: tuple[float, float, float], extra: Extra
    ) -> Layer:
        return Layer(tuple(moved(outline, *at) for outline in outlines), extra.color)

    shape = SHAPE_OUTLINES[spec.shape]
    if spec.ears is not None:
        ear = EARS[spec.ears.kind]
        yield Layer(tuple(moved(ear, x, y) for x, y in shape.ears_at), spec.ears.color)
    yield from (Layer(part.outlines, spec.color, part.tone) for part in shape.behind)
    yield Layer(shape.body, spec.color, is_body=True)
    yield from (Layer(part.outlines, spec.color, part.tone) for part in shape.front)
    if spec.emblem is not None:
        yield fitted(EMBLEMS[spec.emblem.kind], shape.emblem_at, spec.emblem)
    if spec.hat is not None:
        yield fitted(HATS[spec.hat.kind], shape.hat_at, spec.hat)


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

    def covered(self, outlines: Iterable[Outline]) -> Image.Image:
        """The part of each pixel of the window that outlines in object coordinates fill."""
        pixels = (outline @ self.matrix.T + self.offset for outline in outlines)
        return coverage(pixels, self.width, self.height)

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


@dataclass(frozen=True)
class Rendered:
    """One example of the dataset."""

    scene: Scene
    image: NDArray[np.uint8]
    """RGB, [SIZE, SIZE, 3]."""
    mask: NDArray[np.uint8]
    """255 where the object (with hat and ears, without shadow) covers half a pixel or more,
    else 0; [SIZE, SIZE]."""
    caption: str


def render(scene: Scene) -> Rendered:
    """Paint the scene; the same scene gives the same bytes."""
    texture, tint, words = np.random.default_rng(scene.seed).spawn(3)
    layers = tuple(object_layers(scene.spec))
    placement = place(layers, scene.pose)
    outlines = [o for layer in layers for o in layer.outlines]
    silhouette = Image.new("L", (SIZE, SIZE))
    silhouette.paste(placement.covered(outlines), (placement.left, placement.top))
    alpha = as_field(silhouette)

    picture = BACKGROUND_PAINTERS[scene.background](texture)
    picture *= 1 - _shadow(silhouette, scene.light)
    rows = slice(placement.top, placement.top + placement.height)
    columns = slice(placement.left, placement.left + placement.width)
    window = (..., rows, columns)
    paint = _shaded(_painted(layers, scene.spec, placement, tint), placement, scene.light)
    picture[window] += alpha[window] * (paint - picture[window])
    levels = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
    image = np.ascontiguousarray(levels.transpose(1, 2, 0))
    mask = np.where(alpha >= 0.5, 255, 0).astype(np.uint8)
    return Rendered(scene, image, mask, caption(scene, words))


def _painted(
    layers: tuple[Layer, ...], spec: ObjectSpec, placement: Placement, rng: np.random.Generator
) -> Painting:
    """All layers over each other without light: [3, height, width] of the window."""
    paint = np.zeros((3, placement.height, placement.width), dtype=np.float32)
    for layer in layers:
        shape = placement.covered(layer.outlines)
        color = toned(jittered(layer.color, rng), layer.tone)
        # A dark edge shows white on snow; black gets a light one.
        edge = np.full(3, 0.42, np.float32) if luminance(color) < 0.2 else 0.3 * color
        flat = color.reshape(3, 1, 1)
        surface = _patterned(flat, spec, placement, rng) if layer.is_body else flat
        rim = np.clip(1.6 - 1.6 * blurred(shape, 1.4), 0, 0.7)
        paint += as_field(shape) * (surface + rim * (edge.reshape(3, 1, 1) - surface) - paint)
    return paint


def _patterned(
    color: Painting, spec: ObjectSpec, placement: Placement, rng: np.random.Generator
) -> Painting:
    """The body's colours: [3, 1, 1] where there is but one, else [3, height, width]."""
    if spec.second_color is None and spec.tone is None:
        return color
    x, y = placement.object_coordinates()
    pixel = 1 / placement.pixels_per_unit
    if spec.second_color is not None:
        second = jittered(spec.second_color, rng).reshape(3, 1, 1)
        color = color + step(PATTERN_FIELDS[spec.pattern](x, y), pixel) * (second - color)
    if spec.tone is not None:
        other = jittered(spec.tone.color, rng).reshape(3, 1, 1)
        half = y - np.float32(0.12) if spec.tone.kind == "lower" else -x
        color = color + step(half, pixel) * (other - color)
    return color


def _shaded(paint: Painting, placement: Placement, light: float) -> Painting:
    """Brighter towards the light, darker away from it, with a soft highlight."""
    lx, ly = np.float32(np.cos(np.radians(light))), np.float32(np.sin(np.radians(light)))
    x, y = placement.centred()
    slope = np.clip(1 + np.float32(0.24) * (x * lx + y * ly), 0.7, 1.2)
    spot = np.exp(((x - 0.42 * lx) ** 2 + (y - 0.42 * ly) ** 2) * np.float32(-6))
    lit = paint * slope
    return lit + np.float32(0.22) * spot * (1 - lit)


def _shadow(silhouette: Image.Image, light: float) -> Field:
    """Darkening in [0, 0.5] of the ground beside the object, away from the light."""
    dx, dy = 6 * np.cos(np.radians(light)), 6 * np.sin(np.radians(light))
    shifted = silhouette.transform(
        silhouette.size, Image.Transform.AFFINE, (1, 0, dx, 0, 1, dy), Image.Resampling.NEAREST
    )
    return np.float32(0.5) * blurred(shifted, 3.5)
