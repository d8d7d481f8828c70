"""CLIP scores that keep the learned token, through the model's own text encoder."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from safezone.arrays import randn, stream
from safezone.errors import UserError
from safezone.scores.encoders import Pictures
from safezone.scores.loading import load_learned_token_encoder
from safezone.scores.metrics import cosine_similarity
from safezone.scores.text_image import LearnedTokenEncoder, measure_learned_token
from tiny import write_clip

PROMPTS = ["a photo of <toy>", "a <toy> on the beach"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        write_clip(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(folder: Path) -> LearnedTokenEncoder:
    return load_learned_token_encoder(folder)


def pictures(encoder: LearnedTokenEncoder, vectors: Tensor | None, shift: float = 0) -> Pictures:
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=stream("p")).to(torch.uint8)
    own = encoder.text.rows(torch.tensor(encoder.text.word_ids("cat")))
    return Pictures(images, PROMPTS, images, "cat", "<toy>", vectors, own + shift)


def test_learned_vectors_stand_in_the_stock_models_lookup(
    folder: Path, encoder: LearnedTokenEncoder
) -> None:
    """Beside the stock model with the vectors written over the rows of a word."""
    model = CLIPModel.from_pretrained(folder).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    learned = randn([stream("learned")], (16,)) * 0.05
    (word,) = tokenizer("b", add_special_tokens=False).input_ids
    with torch.no_grad():
        model.text_model.embeddings.token_embedding.weight[word] = learned[0]
        texts = [prompt.replace("<toy>", "b") for prompt in PROMPTS]
        tokens = tokenizer(texts, padding="max_length", max_length=16, return_tensors="pt")
        pooled = model.text_model(input_ids=tokens.input_ids).pooler_output
        expected = model.text_projection(pooled)
    ours = encoder.text_features(PROMPTS, "<toy>", learned)
    torch.testing.assert_close(ours, expected)
    first, second = measure_learned_token(encoder, pictures(encoder, learned))
    images = encoder.clip.image_features(pictures(encoder, learned).generated)
    cosine = cosine_similarity(images, expected).diagonal()
    assert second.value == pytest.approx(float(cosine.mean()), abs=1e-6)
    assert first.value == pytest.approx(2.5 * float(cosine.clamp(min=0).mean()), abs=1e-6)
    assert (first.metric, second.metric) == ("clip_score_token", "clip_cosine_token")
    assert (first.n_generated, first.n_reference) == (2, 0)


def test_without_vectors_the_words_stay_and_without_a_token_nothing_is_said(
    encoder: LearnedTokenEncoder,
) -> None:
    none = torch.zeros(0, 16)
    plain = encoder.text_features(["a cat"], "cat", none)
    torch.testing.assert_close(plain, encoder.clip.text_features(["a cat"]))
    assert len(list(measure_learned_token(encoder, pictures(encoder, none)))) == 2
    assert list(measure_learned_token(encoder, pictures(encoder, None))) == []


def test_a_clip_whose_text_encoder_is_not_the_models_is_refused(
    encoder: LearnedTokenEncoder,
) -> None:
    with pytest.raises(UserError, match=r"is not that of the model.*--token-encoder"):
        list(measure_learned_token(encoder, pictures(encoder, torch.zeros(1, 16), shift=0.1)))
