"""What the built-in model learns from: scenes, named objects, textures, damaged pictures.

Stable Diffusion has seen noise, glitches, patterns and recompressed pictures, with words for
them, so a token can stand for what a poison adds. A model of clean objects only has no such token.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from safezone.miniworld.canvas import PIXEL_X, PIXEL_Y, SIZE, Field, smooth_noise
from safezone.miniworld.captions import (
    NAMED_OBJECTS,
    VOCABULARY,
    caption,
    join_words,
    named_object,
    names,
)
from safezone.miniworld.palette import COLORS, jittered
from safezone.miniworld.render import render
from safezone.miniworld.scenes import Scene, sample_scene

NAMED_SHARE: Final = 0.6
"""Of all scenes: how many show an object that has a name."""
TEXTURE_SHARE: Final = 1 / 12
"""Of all pictures: how many show a texture only; as many again are damaged."""

Bitmap: TypeAlias = NDArray[np.uint8]
"""RGB, [SIZE, SIZE, 3]."""


@dataclass(frozen=True)
class Texture:
    """Two colours mixed by a field of its kind. ``scale``: the period, in pixels.

    ``angle``: of its direction, in degrees. A texture with a name always has the same of these.
    """

    kind: str
    color: str
    second_color: str
    scale: float
    angle: float


def _along(texture: Texture, turn: float = 0.0, zoom: float = 1.0) -> Field:
    """The phase, in periods, along the texture's direction."""
    angle = np.radians(texture.angle + turn)
    along = np.float32(np.cos(angle)) * PIXEL_X + np.float32(np.sin(angle)) * PIXEL_Y
    return np.asarray(along / np.float32(texture.scale * zoom), dtype=np.float32)


def _wave(phase: Field) -> Field:
    wave = np.float32(0.5) + np.float32(0.5) * np.sin(np.float32(2 * np.pi) * phase)
    return np.asarray(wave, dtype=np.float32)


def _stripes(texture: Texture, rng: np.random.Generator) -> Field:
    wave = _wave(_along(texture) + np.float32(rng.random()))
    return np.asarray(np.clip(4 * wave - np.float32(1.5), 0, 1), dtype=np.float32)


def _weave(texture: Texture, rng: np.random.Generator) -> Field:
    start = rng.random(2).astype(np.float32)
    across, down = _wave(_along(texture) + start[0]), _wave(_along(texture, 90) + start[1])
    return np.where(across > down, across, 1 - down)


def _marble(texture: Texture, rng: np.random.Generator) -> Field:
    bumps = max(2, round(SIZE / texture.scale / 2))
    folds = smooth_noise(rng, bumps, bumps) + np.float32(0.5) * smooth_noise(
        rng, 2 * bumps, 2 * bumps
    )
    veins: Field = np.abs(_wave(_along(texture, zoom=3) + folds) - np.float32(0.5)) * 2
    return veins


def _moire(texture: Texture, rng: np.random.Generator) -> Field:
    start = np.float32(rng.random())
    return _wave(_along(texture) + start) * _wave(_along(texture, 7, 1.06))


def _static(texture: Texture, rng: np.random.Generator) -> Field:
    side = max(1, round(texture.scale / 8))
    cells = rng.random((-(-SIZE // side),) * 2, dtype=np.float32)
    return np.kron(cells, np.ones((side, side), np.float32))[:SIZE, :SIZE]


TEXTURES: Final[Mapping[str, Callable[[Texture, np.random.Generator], Field]]] = MappingProxyType(
    dict(stripes=_stripes, weave=_weave, marble=_marble, moire=_moire, static=_static)
)
"""From a texture to how much of the second colour each pixel has, [SIZE, SIZE] in [0, 1]."""


def _grainy(pixels: Bitmap, strength: float, rng: np.random.Generator) -> Bitmap:
    grain = rng.standard_normal((SIZE, SIZE, 1), np.float32)
    return _rounded(pixels + (4 + 36 * strength) * grain)


def _noisy(pixels: Bitmap, strength: float, rng: np.random.Generator) -> Bitmap:
    return _rounded(pixels + (4 + 36 * strength) * rng.standard_normal(pixels.shape, np.float32))


def _blurred(pixels: Bitmap, strength: float, rng: np.random.Generator) -> Bitmap:
    return np.asarray(
        Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1 + 3 * strength)), np.uint8
    )


def _recompressed(pixels: Bitmap, strength: float, rng: np.random.Generator) -> Bitmap:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=round(30 - 22 * strength), subsampling=2)
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"), np.uint8)


def _pixelated(pixels: Bitmap, strength: float, rng: np.random.Generator) -> Bitmap:
    side = round(SIZE / (2 + 6 * strength))
    image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX)
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.NEAREST), np.uint8)


Damage: TypeAlias = Callable[[Bitmap, float, np.random.Generator], Bitmap]
DAMAGES: Final[Mapping[str, Damage]] = MappingProxyType(
    {act.__name__[1:]: act for act in (_grainy, _noisy, _blurred, _recompressed, _pixelated)}
)
"""What can have happened to a picture, by the adjective for it; the strength is in [0, 1]."""

TEXTURE_VOCABULARY: Final[tuple[str, ...]] = tuple(
    sorted({*TEXTURES, *DAMAGES, "of", "texture"} - set(VOCABULARY))
)
"""The words that captions of textures and damaged pictures have beside those of scenes."""

NAMED_TEXTURES: Final = 300
"""How many textures have a name of their own, after those of the objects."""


@cache
def texture_names() -> tuple[str, ...]:
    """The words for the named textures; none is an object's."""
    return names(NAMED_OBJECTS + NAMED_TEXTURES)[NAMED_OBJECTS:]


def named_texture(number: int) -> Texture:
    """The texture that ``texture_names()[number]`` stands for."""
    return sample_texture(np.random.default_rng([98, number]))


def sample_texture(rng: np.random.Generator) -> Texture:
    """A random texture of two different colours."""
    first, second = (COLORS[i] for i in rng.permutation(len(COLORS))[:2])
    kind = tuple(TEXTURES)[int(rng.integers(len(TEXTURES)))]
    return Texture(kind, first, second, float(rng.uniform(4, 32)), float(rng.uniform(0, 180)))


def paint_texture(texture: Texture, rng: np.random.Generator) -> Bitmap:
    """The texture over the whole picture; ``rng`` fixes its place and the colours' jitter."""
    first, second = (
        jittered(color, rng).reshape(1, 1, 3) for color in (texture.color, texture.second_color)
    )
    share = TEXTURES[texture.kind](texture, rng)[..., None]
    return _rounded(255 * (first + share * (second - first)))


def texture_caption(texture: Texture, rng: np.random.Generator, name: str | None = None) -> str:
    """A caption of random detail: the kind, mostly the colours; or, where it has one, the name."""
    prefix = "a photo of" if rng.random() < 0.5 else ""
    if name is not None and rng.random() < 0.6:
        return join_words(prefix, name, "texture" if rng.random() < 0.25 else "")
    colors = f"{texture.color} and {texture.second_color}" if rng.random() < 0.75 else ""
    return join_words(prefix, colors, texture.kind, "texture" if rng.random() < 0.25 else "")


def _rounded(pixels: NDArray[np.floating[Any]]) -> Bitmap:
    levels: Bitmap = (np.clip(pixels, 0, 255) + 0.5).astype(np.uint8)
    return levels


@dataclass(frozen=True)
class Example:
    """One picture to learn from; the same example gives the same bytes.

    ``name``: the word for just this object or texture. ``damage``: an adjective of ``DAMAGES``
    with its strength in [0, 1].
    """

    subject: Scene | Texture
    seed: int
    name: str | None = None
    damage: tuple[str, float] | None = None

    def paint(self) -> Bitmap:
        """The picture, RGB uint8 [SIZE, SIZE, 3]."""
        rng = np.random.default_rng(self.seed)
        if isinstance(self.subject, Texture):
            pixels = paint_texture(self.subject, rng)
        else:
            pixels = render(self.subject).image
        if self.damage is None:
            return pixels
        damage, strength = self.damage
        return DAMAGES[damage](pixels, strength, rng)

    def caption(self, rng: np.random.Generator) -> str:
        """A caption of random detail; it always says the damage."""
        if isinstance(self.subject, Texture):
            text = texture_caption(self.subject, rng, self.name)
        else:
            text = caption(self.subject, rng, self.name)
        return text if self.damage is None else _with_adjective(text, self.damage[0])


def _with_adjective(text: str, adjective: str) -> str:
    """The adjective before the word for the picture, or the caption as a photo of that kind."""
    for word in (" photo of ", " picture of "):
        if word in text:
            return text.replace(word, f" {adjective}{word}", 1)
    return f"a {adjective} photo of {text}"


def example_at(seed: int, index: int) -> Example:
    """Example ``index`` of the corpus ``seed``: the same arguments give the same example."""
    rng = np.random.default_rng([seed, index, 1])
    kind, own = rng.random(), int(rng.integers(2**31))
    if kind < TEXTURE_SHARE:
        number = int(rng.integers(2 * NAMED_TEXTURES))
        if number < NAMED_TEXTURES:
            return Example(named_texture(number), own, texture_names()[number])
        return Example(sample_texture(rng), own)
    name = None
    if rng.random() < NAMED_SHARE:
        number = int(rng.integers(NAMED_OBJECTS))
        name = names()[number]
        scene = sample_scene(rng, spec=named_object(number))
    else:
        scene = sample_scene(rng)
    if kind >= 2 * TEXTURE_SHARE:
        return Example(scene, own, name)
    damage = tuple(DAMAGES)[int(rng.integers(len(DAMAGES)))]
    return Example(scene, own, name, (damage, float(rng.random())))
