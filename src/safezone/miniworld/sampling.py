"""Random objects and scenes; a dataset is a seed and a range of indices."""

from dataclasses import replace
from typing import Final

import numpy as np

from safezone.miniworld.backgrounds import BACKGROUNDS
from safezone.miniworld.concepts import NOVEL_COMBINATIONS
from safezone.miniworld.palette import COLORS
from safezone.miniworld.patterns import PATTERNS
from safezone.miniworld.scenes import EXTRAS, Extra, ObjectSpec, Scene, sample_view
from safezone.miniworld.shapes import SHAPES

EXTRA_PROBABILITY: Final = 0.35
SECOND_EXTRA_PROBABILITY: Final = 0.2
PLAIN_PROBABILITY: Final = 0.4


def sample_object(rng: np.random.Generator) -> ObjectSpec:
    """A random object which is not one of the novel concepts."""
    while True:
        spec = _any_object(rng)
        if spec.combination not in NOVEL_COMBINATIONS:
            return spec


def sample_scene(
    rng: np.random.Generator, spec: ObjectSpec | None = None, background: str | None = None
) -> Scene:
    """A random scene, of the given object or before the given background where there is one."""
    return sample_view(
        rng,
        sample_object(rng) if spec is None else spec,
        _choice(rng, BACKGROUNDS) if background is None else background,
    )


def scene_at(seed: int, index: int) -> Scene:
    """Scene `index` of the dataset `seed`: the same arguments give the same scene."""
    return sample_scene(np.random.default_rng([seed, index]))


def instance_pair(rng: np.random.Generator) -> tuple[Scene, Scene]:
    """The same random object in two scenes, before two different backgrounds."""
    spec = sample_object(rng)
    first, second = rng.permutation(len(BACKGROUNDS))[:2]
    return (
        sample_view(rng, spec, BACKGROUNDS[first]),
        sample_view(rng, spec, BACKGROUNDS[second]),
    )


def _any_object(rng: np.random.Generator) -> ObjectSpec:
    # One draw of colours without replacement: no two parts of an object share a colour.
    palette = [COLORS[i] for i in rng.permutation(len(COLORS))]
    plain = rng.random() < PLAIN_PROBABILITY
    spec = ObjectSpec(
        shape=_choice(rng, SHAPES),
        color=palette[0],
        pattern="plain" if plain else _choice(rng, PATTERNS[1:]),
        second_color=None if plain else palette[1],
    )
    if rng.random() >= EXTRA_PROBABILITY:
        return spec
    count = 1 + int(rng.random() < SECOND_EXTRA_PROBABILITY)
    names = [tuple(EXTRAS)[i] for i in rng.permutation(len(EXTRAS))[:count]]
    extras = {
        name: Extra(_choice(rng, EXTRAS[name]), color)
        for name, color in zip(names, palette[2:], strict=False)
    }
    return replace(
        spec,
        emblem=extras.get("emblem"),
        hat=extras.get("hat"),
        ears=extras.get("ears"),
        tone=extras.get("tone"),
    )


def _choice(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]
