"""From a scene to its picture, the exact mask of the object, and a caption."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from safezone.miniworld.backgrounds import BACKGROUND_PAINTERS
from safezone.miniworld.canvas import SIZE, Field, Painting, as_field, blurred, coverage, step
from safezone.miniworld.captions import caption
from safezone.miniworld.layers import Layer, Placement, object_layers, place
from safezone.miniworld.palette import jittered, luminance, toned
from safezone.miniworld.patterns import PATTERN_FIELDS
from safezone.miniworld.scenes import ObjectSpec, Scene


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
    silhouette.paste(_covered(outlines, placement), (placement.left, placement.top))
    alpha = as_field(silhouette)

    picture = BACKGROUND_PAINTERS[scene.background](texture)
    picture *= 1 - _shadow(silhouette, scene.light)
    window = np.s_[
        ...,
        placement.top : placement.top + placement.height,
        placement.left : placement.left + placement.width,
    ]
    paint = _shaded(_painted(layers, scene.spec, placement, tint), placement, scene.light)
    picture[window] += alpha[window] * (paint - picture[window])
    return Rendered(
        scene=scene,
        image=_to_bytes(picture),
        mask=np.where(alpha >= 0.5, 255, 0).astype(np.uint8),
        caption=caption(scene, words),
    )


def _covered(outlines: list[NDArray[np.float32]], placement: Placement) -> Image.Image:
    pixels = (placement.to_pixels(outline) for outline in outlines)
    return coverage(pixels, placement.width, placement.height)


def _painted(
    layers: tuple[Layer, ...], spec: ObjectSpec, placement: Placement, rng: np.random.Generator
) -> Painting:
    """All layers over each other without light: [3, height, width] of the window."""
    paint = np.zeros((3, placement.height, placement.width), dtype=np.float32)
    for layer in layers:
        shape = _covered(list(layer.outlines), placement)
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


def _to_bytes(picture: Painting) -> NDArray[np.uint8]:
    """[3, SIZE, SIZE] in about [0, 1] to uint8 [SIZE, SIZE, 3]."""
    levels = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 0))
