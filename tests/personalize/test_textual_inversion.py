from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from safezone.concepts import Concept
from safezone.concepts.prompts import OBJECT_TEMPLATES, STYLE_TEMPLATES
from safezone.errors import UserError
from safezone.models import Model
from safezone.personalize import TextualInversion, TrainingRun, check_placeholder, train
from safezone.personalize.draws import draw, pick
from safezone.personalize.posteriors import training_data
from safezone.personalize.samples import Injection

SHORT = TextualInversion(steps=3, learning_rate=5e-3, templates=("a photo of a {}",))


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"vectors": 0},
        {"log_every": 0},
        {"checkpoint_every": -1},
        {"preview_every": -1},
        {"weight_decay": -0.1},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"schedule": "step"},
        {"prior_weight": 1.0},
        {"start": Path("x"), "initializer": "dog"},
        {"start": Path("x"), "random_rows": True},
        {"start": Path("x"), "initializer_token": 0},
        {"random_rows": True, "initializer": "dog"},
        {"random_rows": True, "initializer_token": 0},
        {"templates": "portrait"},
        {"templates": ()},
        {"templates": ("a photo",)},
        {"templates": ("a {} of {}",)},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(
        UserError, match="template" if "templates" in values else next(iter(values))
    ):
        TextualInversion(**values)


@pytest.mark.parametrize(
    ("templates", "prompts"),
    [("object", OBJECT_TEMPLATES), ("style", STYLE_TEMPLATES), (("a {}",), ("a {}",))],
)
def test_templates(templates: Any, prompts: tuple[str, ...]) -> None:
    assert TextualInversion(templates=templates).prompts == prompts


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, lambda word: word("dog")),
        ({"initializer": "cat"}, lambda word: word("cat")),
        ({"initializer": "red vase"}, lambda word: word("red vase").mean(0, keepdim=True)),
        ({"initializer": "red vase", "initializer_token": 1}, lambda word: word("vase")),
        ({"initializer": "red vase", "vectors": 2}, lambda word: word("red vase")),
        (
            {"initializer": "red vase", "vectors": 3},
            lambda word: word("red vase").mean(0).repeat(3, 1),
        ),
        (
            {"initializer": "red vase", "vectors": 2, "initializer_token": 0},
            lambda word: word("red").repeat(2, 1),
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_initializers(
    tiny_model: Model,
    concept: Concept,
    run_of: Callable[..., TrainingRun],
    values: dict[str, Any],
    expected: Callable[[Callable[[str], torch.Tensor]], torch.Tensor],
) -> None:
    injection = Injection(
        tiny_model, replace(SHORT, **values), [run_of(concept).prepare(tiny_model)]
    )
    torch.testing.assert_close(injection.initial["vectors"][0], expected(tiny_model.word_vectors))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"initializer": " "}, "has no tokens"),
        ({"initializer": "red vase", "initializer_token": 2}, "give 0 to 1"),
        ({"initializer_token": -1}, "initializer_token is -1"),
    ],
)
def test_unfit_initializers_are_refused(
    tiny_model: Model,
    concept: Concept,
    run_of: Callable[..., TrainingRun],
    values: dict[str, Any],
    words: str,
) -> None:
    with pytest.raises(UserError, match=words):
        train(tiny_model, [run_of(concept)], replace(SHORT, **values), progress=False)


@pytest.mark.parametrize(
    "placeholder", ["dog", "a", "dog</w>", "do", "", "my toy", "<|endoftext|>"]
)
def test_placeholders_that_mean_something_are_refused(tiny_model: Model, placeholder: str) -> None:
    with pytest.raises(UserError, match="placeholder"):
        check_placeholder(tiny_model, placeholder)


@pytest.mark.parametrize("placeholder", ["<dog>", "<duck-toy>", "sks-17", "doggo"])
def test_new_placeholders_are_accepted(tiny_model: Model, placeholder: str) -> None:
    check_placeholder(tiny_model, placeholder)
    assert placeholder not in tiny_model.tokenizer.get_vocab()  # type: ignore[attr-defined]


def test_training_checks_the_placeholder(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun]
) -> None:
    run = run_of(replace(concept, placeholder="dog"))
    with pytest.raises(UserError, match="already a word"):
        train(tiny_model, [run], SHORT, progress=False)


def test_all_vectors_learn(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun]
) -> None:
    settings = replace(SHORT, vectors=3)
    (adapter,) = train(tiny_model, [run_of(concept)], settings, progress=False)
    moved = (adapter.vectors - tiny_model.word_vectors("dog")).norm(dim=-1)
    assert adapter.vectors.shape == (3, tiny_model.embedding_width)
    assert bool((moved > 1e-3).all())


@pytest.mark.parametrize("anchored", [True, False])
def test_norm_anchor(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun], anchored: bool
) -> None:
    settings = replace(SHORT, norm_anchor=anchored, vectors=2)
    (adapter,) = train(tiny_model, [run_of(concept)], settings, progress=False)
    start = tiny_model.word_vectors("dog")
    change = (adapter.vectors.norm(dim=-1) - start.norm()).abs().max()
    assert (float(change) < 1e-6) == anchored
    assert not torch.allclose(adapter.vectors, start)


def test_nothing_of_the_model_changes(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun]
) -> None:
    modules = [getattr(tiny_model, name) for name in ("unet", "vae", "text_encoder")]
    before = [p.clone() for module in modules for p in module.parameters()]
    train(tiny_model, [run_of(concept)], SHORT, progress=False)
    after = [p for module in modules for p in module.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(p.grad is None for p in after)


def test_learning_lowers_the_loss(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun]
) -> None:
    run, process = run_of(concept).prepare(tiny_model), tiny_model.process
    (adapter,) = train(
        tiny_model,
        [run],
        replace(SHORT, steps=20, batch_size=4, learning_rate=2e-2),
        progress=False,
    )
    data = training_data(tiny_model, [run], flip=False)
    draws = draw([(9, "unseen noise")], 0, 32, data.shape)
    clean = data.latents(pick(draws.image, 3)[0], draws.posterior_noise)
    timesteps = run.timesteps.sample(draws.timestep[0], process.steps)
    tokens = tiny_model.tokenize(["a photo of a <duck>"] * 32, "<duck>")

    def loss(vectors: torch.Tensor) -> float:
        conditioning = tiny_model.embed_text(tokens, vectors.expand(32, -1, -1))
        noisy = process.corrupt(clean, draws.noise, timesteps)
        error = tiny_model.predict(noisy, timesteps, conditioning) - draws.noise
        return float(error.square().mean())

    assert loss(adapter.vectors) < loss(tiny_model.word_vectors("dog"))


def test_previews_come_on_time_with_the_adapters_so_far(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun]
) -> None:
    seen: list[tuple[int, torch.Tensor]] = []
    settings = replace(SHORT, steps=5, preview_every=2)
    (adapter,) = train(
        tiny_model,
        [run_of(concept)],
        settings,
        progress=False,
        preview=lambda step, adapters: seen.append((step, adapters[0].vectors)),
    )
    assert [step for step, _ in seen] == [2, 4]
    assert not torch.equal(seen[0][1], seen[1][1])
    assert not torch.equal(seen[1][1], adapter.vectors)


def test_provenance_tells_how(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun]
) -> None:
    (adapter,) = train(tiny_model, [run_of(concept, "szt", 5)], SHORT, progress=False)
    told = adapter.provenance
    assert (adapter.placeholder, adapter.class_word) == ("<duck>", "dog")
    assert (told["defense"], told["seed"], told["step"]) == ("szt", 5, 3)
    assert told["concept_content_key"] == concept.content_key()
    assert told["model"] == tiny_model.name
    assert told["settings"]["learning_rate"] == 5e-3
