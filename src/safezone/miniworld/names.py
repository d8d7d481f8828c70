"""Words for single objects, as brands, characters and breeds are: one word, one identity."""

from functools import cache
from typing import Final

import numpy as np

from safezone.miniworld.captions import VOCABULARY
from safezone.miniworld.sampling import sample_object
from safezone.miniworld.scenes import ObjectSpec

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
