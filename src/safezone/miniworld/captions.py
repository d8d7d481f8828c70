"""What a person might write under a picture; uncaptioned parts are never named."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from safezone.miniworld.palette import COLORS
from safezone.miniworld.patterns import PATTERNS
from safezone.miniworld.scenes import Scene
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

# The object templates of textual inversion, of which the text encoder should know the words.
TEMPLATE_PREFIXES: Final = (
    "a rendering of a",
    "a cropped photo of the",
    "the photo of a",
    "a photo of a clean",
    "a photo of a dirty",
    "a dark photo of the",
    "a photo of my",
    "a photo of the cool",
    "a close-up photo of a",
    "a bright photo of the",
    "a cropped photo of a",
    "a photo of the",
    "a good photo of the",
    "a photo of one",
    "a close-up photo of the",
    "a rendition of the",
    "a photo of the clean",
    "a rendition of a",
    "a photo of a nice",
    "a good photo of a",
    "a photo of the nice",
    "a photo of the small",
    "a photo of the weird",
    "a photo of the large",
    "a photo of a cool",
    "a photo of a small",
    "a bad photo of the",
    "a depiction of a",
    "a depiction of the",
)

COLOR_PROBABILITY: Final = 0.9
PATTERN_PROBABILITY: Final = 0.75
BACKGROUND_PROBABILITY: Final = 0.75
TEMPLATE_PROBABILITY: Final = 0.15
SIZE_PROBABILITY: Final = 0.5


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption of random detail: always the noun, mostly colour, pattern and background."""
    spec = scene.spec
    words = [_prefix(scene.pose.scale, rng)]
    named = rng.random() < COLOR_PROBABILITY
    patterned = spec.second_color is not None and rng.random() < PATTERN_PROBABILITY
    if patterned:
        words.append(spec.pattern)
    if named:
        words.append(spec.color)
    if named and patterned:
        words.append(f"and {spec.second_color}")
    words.append(spec.shape)
    if rng.random() < BACKGROUND_PROBABILITY:
        words.append(BACKGROUND_PHRASES[scene.background])
    return _with_articles(" ".join(words))


def full_caption(scene: Scene) -> str:
    """Everything that words of this world can say about the scene."""
    spec = scene.spec
    colors = spec.color if spec.second_color is None else f"{spec.color} and {spec.second_color}"
    pattern = "" if spec.second_color is None else f"{spec.pattern} "
    phrase = BACKGROUND_PHRASES[scene.background]
    return _with_articles(f"a photo of a {pattern}{colors} {spec.shape} {phrase}")


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


def _with_articles(text: str) -> str:
    return f" {text}".replace(" a orange ", " an orange ").lstrip()


VOCABULARY: Final[tuple[str, ...]] = tuple(
    sorted(
        {
            *SHAPES,
            *COLORS,
            *PATTERNS[1:],
            "and",
            "an",
            "small",
            "close",
            *(word for phrase in BACKGROUND_PHRASES.values() for word in phrase.split()),
            *(word for prefix in (*PREFIXES, *TEMPLATE_PREFIXES) for word in prefix.split()),
        }
    )
)
"""Every word that a caption may contain, sorted."""
