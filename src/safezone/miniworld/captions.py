"""What a person might write under a picture: the object or its name, its parts, its place.

Names are words for single objects, as brands, characters and breeds are: one word, one identity.
"""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Final

import numpy as np

from safezone.miniworld.palette import COLORS, PATTERNS
from safezone.miniworld.scenes import EXTRAS, ObjectSpec, Scene, sample_object
from safezone.miniworld.shapes import SHAPES

BACKGROUND_PHRASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "grass": "on grass",
        "beach": "on the beach",
        "snow": "in the snow",
        "water": "in the water",
        "wood": "on wood",
        "brick": "in front of a brick wall",
        "night": "at night",
        "fabric": "on fabric",
    }
)

PREFIXES: Final = ("a photo of a", "a picture of a", "a", "a photo of the", "a photo of one")

TEXTUAL_INVERSION_PREFIXES: Final = (
    *("a rendering of a", "a cropped photo of the", "the photo of a", "a photo of a clean"),
    *("a photo of a dirty", "a dark photo of the", "a photo of my", "a photo of the cool"),
    *("a close-up photo of a", "a bright photo of the", "a cropped photo of a", "a photo of the"),
    *("a good photo of the", "a photo of one", "a close-up photo of the", "a rendition of the"),
    *("a photo of the clean", "a rendition of a", "a photo of a nice", "a good photo of a"),
    *("a photo of the nice", "a photo of the small", "a photo of the weird"),
    *("a photo of the large", "a photo of a cool", "a photo of a small"),
)
"""The object templates of textual inversion (diffusers' list) but for "a photo of a"."""

TEMPLATE_PREFIXES: Final = (
    *TEXTUAL_INVERSION_PREFIXES,
    *("a bad photo of the", "a depiction of a", "a depiction of the"),
)
"""Words that the text encoder should know."""

COLOR_PROBABILITY: Final = 0.9
PATTERN_PROBABILITY: Final = 0.75
BACKGROUND_PROBABILITY: Final = 0.75
TEMPLATE_PROBABILITY: Final = 0.15
SIZE_PROBABILITY: Final = 0.5
PART_PROBABILITY: Final = 0.75
PART_COLOR_PROBABILITY: Final = 0.9
NAME_PROBABILITY: Final = 0.6
"""Of a scene whose object has a name: that the caption uses it."""
NOUN_BESIDE_NAME_PROBABILITY: Final = 0.25

PART_PHRASES: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "emblem": {kind: f"a {{}} {kind} on it" for kind in EXTRAS["emblem"]},
        "hat": dict(top="a {} top hat", cone="a {} party hat", bowler="a {} bowler hat"),
        "ears": {kind: f"{kind} {{}} ears" for kind in EXTRAS["ears"]},
        "tone": {kind: f"a {{}} {kind} half" for kind in EXTRAS["tone"]},
    }
)
"""How each part is named, by its name and kind; ``{}`` is its colour."""


def caption(scene: Scene, rng: np.random.Generator, name: str | None = None) -> str:
    """A caption of random detail: always the noun, mostly colours, pattern, parts, background.

    ``name``: the word for this very object (``named_object``). Three of five captions then say
    the name instead, a quarter of them the name and the noun.
    """
    spec = scene.spec
    place = BACKGROUND_PHRASES[scene.background] if rng.random() < BACKGROUND_PROBABILITY else ""
    prefix = _prefix(scene.pose.scale, rng)
    if name is not None and rng.random() < NAME_PROBABILITY:
        noun = spec.shape if rng.random() < NOUN_BESIDE_NAME_PROBABILITY else ""
        return join_words(prefix, name, noun, place)
    named = rng.random() < COLOR_PROBABILITY
    patterned = spec.second_color is not None and rng.random() < PATTERN_PROBABILITY
    parts = [
        _part(spec, part, rng.random() < PART_COLOR_PROBABILITY)
        for part in EXTRAS
        if part in spec.extras and rng.random() < PART_PROBABILITY
    ]
    return join_words(
        prefix,
        spec.pattern if patterned else "",
        spec.color if named else "",
        f"and {spec.second_color}" if named and patterned else "",
        spec.shape,
        _with(parts),
        place,
    )


def full_caption(scene: Scene) -> str:
    """Everything that words of this world can say about the scene."""
    spec = scene.spec
    colors = spec.color if spec.second_color is None else f"{spec.color} and {spec.second_color}"
    pattern = "" if spec.second_color is None else spec.pattern
    parts = [_part(spec, part, True) for part in EXTRAS if part in spec.extras]
    place = BACKGROUND_PHRASES[scene.background]
    return join_words("a photo of a", pattern, colors, spec.shape, _with(parts), place)


def join_words(*words: str) -> str:
    """The words that are not empty, in a row, with "an" where English wants it."""
    text = " ".join(word for word in words if word)
    return f" {text}".replace(" a orange ", " an orange ").lstrip()


def _part(spec: ObjectSpec, part: str, colored: bool) -> str:
    extra = getattr(spec, part)
    phrase = PART_PHRASES[part][extra.kind]
    return phrase.format(extra.color) if colored else phrase.replace("{} ", "")


def _with(parts: list[str]) -> str:
    return f"with {' and '.join(parts)}" if parts else ""


def _prefix(scale: float, rng: np.random.Generator) -> str:
    if rng.random() < TEMPLATE_PROBABILITY:
        return TEMPLATE_PREFIXES[int(rng.integers(len(TEMPLATE_PREFIXES)))]
    prefix = PREFIXES[int(rng.integers(len(PREFIXES)))]
    if rng.random() < SIZE_PROBABILITY:
        if scale > 0.68:
            return "a close photo of a"
        if scale < 0.54:
            return f"{prefix} small"
    return prefix


_PHRASES: Final = (
    *(*PREFIXES, *TEMPLATE_PREFIXES, *BACKGROUND_PHRASES.values(), "and an small close with"),
    *(phrase.replace("{} ", "") for kinds in PART_PHRASES.values() for phrase in kinds.values()),
)
VOCABULARY: Final[tuple[str, ...]] = tuple(
    sorted({*SHAPES, *COLORS, *PATTERNS[1:], *" ".join(_PHRASES).split()})
)
"""Every word that a caption of a scene may contain but for names, sorted."""

NAMED_OBJECTS: Final = 3000
"""How many objects have a name. The text encoder has a token for each."""

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


@cache
def names(count: int = NAMED_OBJECTS, seed: int = 7) -> tuple[str, ...]:
    """The first ``count`` made-up words of five letters, such as "sufiz"; none is a known word."""
    rng = np.random.default_rng(seed)
    words = dict.fromkeys(VOCABULARY)

    def letter(letters: str) -> str:
        return letters[rng.integers(len(letters))]

    while len(words) < len(VOCABULARY) + count:
        syllables = [letter(_CONSONANTS) + letter(_VOWELS) for _ in range(2)]
        words["".join(syllables) + letter(_CONSONANTS)] = None
    return tuple(words)[len(VOCABULARY) :]


def named_object(number: int) -> ObjectSpec:
    """The object that ``names()[number]`` stands for; never one of the novel concepts."""
    return sample_object(np.random.default_rng([99, number]))
