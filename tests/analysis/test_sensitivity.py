"""Semantic sensitivity maps and attention maps."""

import pytest
import torch

from safezone.analysis.sensitivity import (
    START,
    cross_attention_maps,
    in_region_ratio,
    random_rows,
    semantic_sensitivity,
    word_slots,
)
from safezone.arrays import stream
from safezone.errors import UserError
from safezone.models import Model

TIMES = torch.tensor([300, 700])


def draws(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    return first, second


def test_a_word_that_is_not_in_the_prompt_is_within_its_error_of_zero(tiny_model: Model) -> None:
    slots = word_slots(tiny_model, "a photo of a cat", "dog")
    assert not slots.present
    rows = random_rows(tiny_model, 6, len(slots.vectors), stream(0, "rows"))
    found = semantic_sensitivity(tiny_model, slots, *draws(), TIMES, rows)
    assert found.maps.shape == (2, 8, 8)
    assert bool((found.maps <= found.standard_error + 1e-10).all())
    present = semantic_sensitivity(
        tiny_model, word_slots(tiny_model, "a photo of a cat", "cat"), *draws(), TIMES, rows
    )
    assert bool((present.maps > 10 * found.maps + 1e-9).all())


def test_a_map_is_the_mean_over_rows_and_its_error_shrinks(tiny_model: Model) -> None:
    slots = word_slots(tiny_model, "a photo of a cat", "cat")
    rows = random_rows(tiny_model, 64, 1, stream(0, "rows"))
    whole = semantic_sensitivity(tiny_model, slots, *draws(), TIMES, rows, batch_size=17)
    halves = [
        semantic_sensitivity(tiny_model, slots, *draws(), TIMES, rows[part])
        for part in (slice(32), slice(32, None))
    ]
    assert torch.allclose(whole.maps, (halves[0].maps + halves[1].maps) / 2, rtol=1e-3)
    ratio = whole.standard_error.mean() / halves[0].standard_error.mean()
    assert float(ratio) == pytest.approx(0.5**0.5, rel=0.35)
    distance = (halves[0].maps - halves[1].maps).abs()
    error = (halves[0].standard_error.square() + halves[1].standard_error.square()).sqrt()
    assert float((distance < 3 * error).double().mean()) > 0.9


def test_the_word_itself_put_in_its_place_changes_nothing(tiny_model: Model) -> None:
    slots = word_slots(tiny_model, "a photo of a cat", "cat")
    same = slots.vectors.expand(3, -1, -1)
    found = semantic_sensitivity(tiny_model, slots, *draws(), TIMES, same)
    assert float(found.maps.max()) < 1e-9


def test_rows_are_of_the_vocabulary_and_never_special(tiny_model: Model) -> None:
    ids = tiny_model.ordinary_tokens()
    vocabulary = tiny_model.token_vectors(ids)
    rows = random_rows(tiny_model, 50, 3, stream(1, "rows")).view(-1, 1, 32)
    distance = (rows - vocabulary[None]).abs().amax(dim=-1).amin(dim=1)
    assert float(distance.max()) == 0
    special = tiny_model.tokenize([""]).ids[0, :2]  # start and end
    assert not set(special.tolist()) & set(ids.tolist())
    with pytest.raises(UserError, match="rows is 1"):
        random_rows(tiny_model, 1, 1, stream(1))


def test_attention_is_shared_out_among_the_tokens(tiny_model: Model) -> None:
    latents, noise = draws()
    tokens = tiny_model.tokenize(["a photo of a cat"] * 2)
    conditioning = tiny_model.embed_text(tokens)
    noisy = tiny_model.process.corrupt(latents, noise, TIMES)
    without = tiny_model.predict(noisy, TIMES, conditioning)
    with tiny_model.record_attention() as record:
        recorded = tiny_model.predict(noisy, TIMES, conditioning)
    assert torch.equal(recorded, without)
    maps = record.maps(8)
    assert maps.shape == (2, 77, 8, 8)
    assert torch.allclose(maps.sum(dim=1), torch.ones(2, 8, 8), atol=1e-5)
    layers = len(record.layers)
    tiny_model.predict(noisy, TIMES, conditioning)
    assert len(record.layers) == layers > 0


def test_maps_of_all_words_and_the_start_token(tiny_model: Model) -> None:
    latents, noise = draws()
    for word in ("cat", "photo", START):
        slots = word_slots(tiny_model, "a photo of a cat", word)
        maps = cross_attention_maps(tiny_model, slots, latents, noise, TIMES)
        assert maps.shape == (2, 8, 8)
        assert 0 < float(maps.min()) <= float(maps.max()) < 1
    assert int((slots.tokens.slots >= 0).sum()) == 1
    with pytest.raises(UserError, match="no tokens"):
        word_slots(tiny_model, "a photo", " ")


def test_the_ratio_of_a_flat_map_is_the_masks_share() -> None:
    masks = torch.zeros(2, 8, 8)
    masks[0, :4], masks[1, :2] = 1, 1
    assert torch.allclose(in_region_ratio(torch.ones(2, 8, 8), masks), torch.tensor([0.5, 0.25]))
    assert torch.allclose(in_region_ratio(masks, masks), torch.ones(2))


@pytest.mark.parametrize(
    ("prompt", "word", "times"),
    [
        ("a photo of a cathedral", "cat", 0),
        ("a photo of a cat", "a", 2),
        ("a photo of a Cat", "cat", 1),
        ("cat, cats and a cat's cat", "CAT", 3),
        ("a photo of a cat", "photo of", 1),
    ],
)
def test_a_word_is_found_as_a_whole_word(
    tiny_model: Model, prompt: str, word: str, times: int
) -> None:
    slots = word_slots(tiny_model, prompt, word)
    assert slots.present == (times > 0)
    assert int((slots.tokens.slots == 0).sum()) == times
    assert int((slots.tokens.slots >= 0).sum()) == times * len(slots.vectors)
    plain = tiny_model.embed_text(tiny_model.tokenize([prompt])).encoder_hidden_states
    put = slots.vectors[None] if times else None
    assert torch.allclose(tiny_model.embed_text(slots.tokens, put).encoder_hidden_states, plain)


def test_a_placeholder_is_found_as_it_is_written(tiny_model: Model) -> None:
    vectors = torch.zeros(1, tiny_model.embedding_width)
    slots = word_slots(tiny_model, "a <mug>s photo of <MUG>", "<mug>", vectors)
    assert int((slots.tokens.slots >= 0).sum()) == 1
