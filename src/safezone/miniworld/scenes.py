"""What a picture shows: an object, its pose, the light and the background; at random, or novel.

A data set is a seed and a range of indices. The novel objects are never sampled.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from safezone.miniworld.backgrounds import BACKGROUNDS
from safezone.miniworld.palette import COLORS, PATTERNS
from safezone.miniworld.shapes import EARS, EMBLEMS, HATS, SHAPES, TONES

IMAGES_PER_CONCEPT: Final = 5
EXTRA_PROBABILITY: Final = 0.35
SECOND_EXTRA_PROBABILITY: Final = 0.2
PLAIN_PROBABILITY: Final = 0.4

EXTRAS: Final[dict[str, tuple[str, ...]]] = {
    "emblem": tuple(EMBLEMS),
    "hat": tuple(HATS),
    "ears": tuple(EARS),
    "tone": TONES,
}
"""The parts that an object may have, and the kinds of each."""


@dataclass(frozen=True)
class Extra:
    """One part: its kind (a word of `EXTRAS`) and its own colour."""

    kind: str
    color: str


@dataclass(frozen=True)
class ObjectSpec:
    """The identity of an object: all that stays the same from picture to picture.

    `second_color` is None exactly when the pattern is plain. `tone` is the other half of a
    two-tone body.
    """

    shape: str
    color: str
    pattern: str = "plain"
    second_color: str | None = None
    emblem: Extra | None = None
    hat: Extra | None = None
    ears: Extra | None = None
    tone: Extra | None = None

    def __post_init__(self) -> None:
        if (self.pattern == "plain") != (self.second_color is None):
            raise ValueError(f"pattern {self.pattern!r} with second colour {self.second_color!r}")

    @property
    def extras(self) -> frozenset[str]:
        """Names of the parts which the object has."""
        return frozenset(name for name in EXTRAS if getattr(self, name) is not None)

    @property
    def combination(self) -> tuple[str, str, frozenset[str]]:
        """What makes two objects alike enough to keep one of them out of the training data."""
        return self.shape, self.color, self.extras


@dataclass(frozen=True)
class Pose:
    """How the object lies in the frame.

    `scale` is the larger side of the object's bounding box over the image side. `x` and `y` in
    [0, 1] place that box in the free room: 0 at the left (top) margin, 1 at the right (bottom)
    margin, so that an object is always inside the frame. `angle` is in degrees, clockwise.
    """

    scale: float
    angle: float
    x: float
    y: float
    flip: bool


@dataclass(frozen=True)
class Scene:
    """All that determines a picture; `seed` fixes texture, colour jitter and caption."""

    spec: ObjectSpec
    background: str
    pose: Pose
    light: float
    """Where the light comes from, in degrees clockwise from +x; the light is above, (180, 360)."""
    seed: int


def sample_view(rng: np.random.Generator, spec: ObjectSpec, background: str) -> Scene:
    """The given object before the given background, with random pose, light and texture."""
    pose = Pose(
        scale=float(rng.uniform(0.48, 0.78)),
        angle=float(rng.uniform(-25, 25)),
        x=float(rng.uniform(0.1, 0.9)),
        y=float(rng.uniform(0.1, 0.9)),
        flip=bool(rng.random() < 0.5),
    )
    light, seed = float(rng.uniform(205, 335)), int(rng.integers(2**31))
    return Scene(spec, background, pose, light, seed)


@dataclass(frozen=True)
class NovelConcept:
    """An object to teach: its name, the word for its class, and the scenes that show it."""

    name: str
    class_word: str
    spec: ObjectSpec
    scenes: tuple[Scene, ...]


def _object(look: str, **parts: str) -> ObjectSpec:
    """By words: "shape color pattern second_color", and "kind color" of each part."""
    extras: dict[str, Any] = {part: Extra(*words.split()) for part, words in parts.items()}
    shape, color, pattern, second_color = look.split()
    return ObjectSpec(shape, color, pattern, second_color, **extras)


_NOVEL: Final[Mapping[str, ObjectSpec]] = {
    "HattedMug": _object("mug yellow striped blue", hat="top purple", emblem="disc red"),
    "EmblemBottle": _object("bottle green zigzag white", emblem="disc orange", ears="round pink"),
    "EaredBell": _object("bell orange dotted black", ears="pointed blue", tone="lower white"),
    "PartyFish": _object("fish purple striped yellow", hat="cone red", emblem="ring white"),
    "TwoToneHouse": _object("house pink checked purple", tone="left green", hat="bowler blue"),
    "CrossStar": _object("star red dotted yellow", emblem="cross blue", ears="round green"),
    "CatHeart": _object("heart blue checked pink", ears="pointed black", tone="lower orange"),
    "MoonVase": _object(
        "vase white striped red", emblem="crescent blue", hat="cone green", ears="round yellow"
    ),
    "ZigzagRocket": _object("rocket orange zigzag purple"),
    "CheckedBoat": _object("boat green checked yellow"),
}
"""What is measured on."""

_DEVELOPMENT: Final[Mapping[str, ObjectSpec]] = {
    "BowlerBottle": _object("bottle red striped pink", hat="bowler orange", ears="pointed blue"),
    "BowlerMug": _object("mug brown striped yellow", emblem="disc white", hat="bowler purple"),
    "PartyBox": _object("box white striped orange", hat="cone green", tone="lower purple"),
    "CrossBoat": _object("boat pink zigzag black", emblem="cross gray", ears="round yellow"),
    "SquareHeart": _object("heart yellow zigzag pink", emblem="square purple", hat="bowler red"),
    "HattedRocket": _object("rocket purple striped pink", hat="top orange", tone="lower white"),
}
# The first six objects of random stream [2025, 0] with a part and two colours, of six shapes and
# six colours, whose combination none of the 120,000 scenes had that the shipped model learned from.

NOVEL_COMBINATIONS: Final = frozenset(
    spec.combination for spec in (*_NOVEL.values(), *_DEVELOPMENT.values())
)
"""Shape, colour and set of extras of each of these objects: none of them is ever sampled."""


def novel_concepts() -> tuple[NovelConcept, ...]:
    """The ten concepts, each in five fixed scenes before five different backgrounds."""
    return _concepts(_NOVEL, seed=2024)


def development_concepts() -> tuple[NovelConcept, ...]:
    """Six further ones, on which whatever is tuned is tuned; results are shown on the ten."""
    return _concepts(_DEVELOPMENT, seed=2026)


def _concepts(specs: Mapping[str, ObjectSpec], seed: int) -> tuple[NovelConcept, ...]:
    concepts = []
    for index, (name, spec) in enumerate(specs.items()):
        rng = np.random.default_rng([seed, index])
        order = rng.permutation(len(BACKGROUNDS))[:IMAGES_PER_CONCEPT]
        scenes = tuple(sample_view(rng, spec, BACKGROUNDS[i]) for i in order)
        concepts.append(NovelConcept(name, spec.shape, spec, scenes))
    return tuple(concepts)


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
    return sample_view(rng, spec, BACKGROUNDS[first]), sample_view(rng, spec, BACKGROUNDS[second])


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
    extras: dict[str, Any] = {
        name: Extra(_choice(rng, EXTRAS[name]), color)
        for name, color in zip(names, palette[2:], strict=False)
    }
    return replace(spec, **extras)


def _choice(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]
