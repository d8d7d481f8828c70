"""What the built-in model learns from: scenes, named objects, textures, damaged pictures."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from safezone.miniworld.captions import caption
from safezone.miniworld.names import NAMED_OBJECTS, named_object, names
from safezone.miniworld.render import render
from safezone.miniworld.sampling import sample_scene
from safezone.miniworld.scenes import Scene
from safezone.miniworld.textures import (
    DAMAGES,
    NAMED_TEXTURES,
    Bitmap,
    Texture,
    damaged,
    named_texture,
    paint_texture,
    sample_texture,
    texture_caption,
    texture_names,
)

NAMED_SHARE: Final = 0.6
"""Of all scenes: how many show an object that has a name."""
TEXTURE_SHARE: Final = 1 / 12
"""Of all pictures: how many show a texture only; as many again are damaged."""


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
        return pixels if self.damage is None else damaged(pixels, *self.damage, rng)

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
