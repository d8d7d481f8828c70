"""The tiny folder is what other tests think it is."""

import pytest

from safezone.models.stable import StableDiffusion
from tiny import WORDS


@pytest.mark.parametrize("word", WORDS)
def test_every_word_of_the_tiny_vocabulary_is_one_token(
    tiny_model: StableDiffusion, word: str
) -> None:
    assert len(tiny_model.word_vectors(word)) == 1
