"""Prompts longer than the text encoder, and where a placeholder stands in a prompt."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from safezone.arrays import randn, stream
from safezone.errors import UserError
from safezone.generate import generate
from safezone.models import load_model
from safezone.personalize import Adapter
from tiny import write_tiny_folder, write_tiny_xl_folder

SHORT = "a photo of a cat"
LONG = "a red cat on grass and " * 14 + "a blue vase"  # 84 + 3 words, each one token


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("long"))


@pytest.fixture(scope="module")
def cut(folder: Path) -> Any:
    return load_model(folder)


@pytest.fixture(scope="module")
def chunked(folder: Path) -> Any:
    return load_model(folder, long_prompts="chunks")


def test_what_is_cut_off_is_told_with_the_words(cut: Any) -> None:
    with pytest.warns(UserWarning, match=r"takes 75 tokens and does not see '.*a blue vase'"):
        tokens = cut.tokenize([LONG])
    assert tokens.ids.shape == (1, 77)
    assert list(cut.unseen([SHORT, LONG])) == [LONG]
    lost = cut.unseen([LONG])[LONG]
    assert LONG.endswith(lost)
    assert len(lost.split()) == len(LONG.split()) - 75


def test_a_prompt_that_fits_is_the_same_either_way(cut: Any, chunked: Any) -> None:
    rows = [m.embed_text(m.tokenize([SHORT, ""])) for m in (cut, chunked)]
    assert torch.equal(rows[0].encoder_hidden_states, rows[1].encoder_hidden_states)
    assert cut.fingerprint() != chunked.fingerprint(), "what is made differs, so keys do"
    assert chunked.unseen([LONG]) == {}


def test_chunks_are_the_texts_of_75_tokens_one_behind_the_other(chunked: Any) -> None:
    words = LONG.split()
    first, second = " ".join(words[:75]), " ".join(words[75:])
    with warnings.catch_warnings(action="error"):
        whole = chunked.embed_text(chunked.tokenize([LONG, SHORT])).encoder_hidden_states
    parts = chunked.embed_text(chunked.tokenize([first, second, SHORT, ""])).encoder_hidden_states
    assert whole.shape == (2, 154, 32)
    expected = torch.stack([torch.cat([parts[0], parts[1]]), torch.cat([parts[2], parts[3]])])
    torch.testing.assert_close(whole, expected, atol=1e-6, rtol=1e-5)


def test_a_learned_word_may_stand_in_the_second_chunk(cut: Any, chunked: Any) -> None:
    prompt, rows = LONG.replace("vase", "<r>"), chunked.word_vectors("vase")
    learned = chunked.embed_text(chunked.tokenize([prompt], "<r>", 1), rows[None])
    plain = chunked.embed_text(chunked.tokenize([LONG]))
    torch.testing.assert_close(learned.encoder_hidden_states, plain.encoder_hidden_states)
    with pytest.raises(UserError, match="has to lie within the first 75 tokens"):
        cut.tokenize([prompt], "<r>", 1)
    with pytest.raises(UserError, match=r"and a \{\}' is too long: \{\} with 1 vectors"):
        generate(cut, [Adapter(rows, "<r>", "vase")], [LONG + " and a {}"], seed=0, progress=False)


def test_two_encoders_are_chunked_alike(tmp_path: Path) -> None:
    folder = write_tiny_xl_folder(tmp_path / "xl")
    model: Any = load_model(folder, long_prompts="chunks")
    long = model.embed_text(model.tokenize([LONG, ""]))
    first = model.embed_text(model.tokenize([" ".join(LONG.split()[:75]), ""]))
    assert long.encoder_hidden_states.shape == (2, 154, 80)
    assert torch.equal(long.encoder_hidden_states[:1, :77], first.encoder_hidden_states[:1])
    assert torch.equal(long.added["text_embeds"], first.added["text_embeds"])


def test_a_short_prompt_s_image_is_the_same_beside_a_long_one(chunked: Any) -> None:
    adapter = Adapter(randn([stream("x")], (32,)), "<x>", "dog")
    prompts = (SHORT, LONG + " and a {}")
    (images,) = generate(chunked, [adapter], prompts, seed=0, steps=2, progress=False)
    for size in (1, 2):
        (alone,) = generate(
            chunked, [adapter], prompts[:size], seed=0, steps=2, batch_size=1, progress=False
        )
        assert int((images[:size].int() - alone.int()).abs().max()) <= 1


@pytest.mark.parametrize("xl", [False, True])
def test_what_fills_a_row_up_is_not_attended_to(folder: Path, tmp_path: Path, xl: bool) -> None:
    model: Any = load_model(
        write_tiny_xl_folder(tmp_path / "xl") if xl else folder, long_prompts="chunks"
    )
    noisy, times = randn([stream("z")] * 2, (4, 8, 8)), torch.tensor([600, 600])
    both, alone = (model.embed_text(model.tokenize(each)) for each in ([SHORT, LONG], [SHORT]))
    with model.record_attention() as record:
        together = model.predict(noisy, times, both)
    torch.testing.assert_close(
        together[:1], model.predict(noisy[:1], times[:1], alone), atol=1e-6, rtol=1e-5
    )
    assert not together[:1].allclose(together[1:], atol=1e-4)
    shares = record.maps(8).sum(dim=(2, 3))
    assert float(shares[0, 77:].sum()) == 0
    assert float(shares[1, 77:].sum()) > 1


@pytest.mark.parametrize(
    ("prompt", "placeholder", "slots"),
    [
        ("a photo of a cat at a vase", "a", [1, 4, 7]),
        ("a cat and a cathedral", "cat", [2]),
        ("toy toys toy-box my_toy", "toy", [1, 3]),
        ("a <r>, the <r>'s box", "<r>", [2, 5]),
        ("the<r>", "<r>", [2]),
    ],
)
def test_a_placeholder_is_a_whole_word(
    cut: Any, prompt: str, placeholder: str, slots: list[int]
) -> None:
    tokens = cut.tokenize([prompt], placeholder)
    count = prompt.replace(placeholder, "\0").count("\0")
    where = (tokens.slots[0] >= 0).nonzero().flatten().tolist()
    assert len(where) == len(slots) <= count
    assert where[0] == slots[0]


def test_the_word_of_a_file_that_is_an_ordinary_word_fills_its_place_only(cut: Any) -> None:
    """A file of another program may call its word "a"; the other words stay as they are."""
    adapter = Adapter(cut.word_vectors("vase"), "a", "vase")
    (found,) = generate(cut, [adapter], ("a photo of a {}",), seed=0, steps=2, progress=False)
    (plain,) = generate(cut, [None], ("a photo of a vase",), seed=0, steps=2, progress=False)
    assert torch.equal(found, plain)
