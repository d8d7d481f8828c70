from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from safezone.concepts import Concept
from safezone.defenses import Defense, LossMask, defend, defense
from safezone.defenses.loss_masks import GREY
from safezone.errors import UserError
from safezone.images import to_float
from safezone.models import Model
from safezone.personalize import TextualInversion, TrainingRun, train
from safezone.personalize.posteriors import training_data


@pytest.mark.parametrize("kind", ["nominal", "jpeg"])
@pytest.mark.parametrize("side", [0, 1])
def test_rows_hold_the_posterior_of_the_defended_and_mirrored_image(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun], kind: str, side: int
) -> None:
    run = run_of(concept, kind)
    data = training_data(tiny_model, [run.prepare(tiny_model)], flip=True, max_batch=2)
    images = defend(concept, run.defense, run.seed).pixels()
    expected = tiny_model.encode(images.flip(-1) if side else images)
    rows = data.rows[0, :, side]
    torch.testing.assert_close(data.posteriors.mean[rows], expected.mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(data.posteriors.std[rows], expected.std, atol=1e-5, rtol=1e-4)


def test_latents_are_samples_of_their_posteriors(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun]
) -> None:
    data = training_data(tiny_model, [run_of(concept).prepare(tiny_model)], flip=False)
    noise = torch.randn(2, *data.shape, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([2, 0])
    expected = data.posteriors.mean[rows] + data.posteriors.std[rows] * noise
    assert torch.equal(data.latents(rows, noise), expected)


@pytest.mark.parametrize(
    ("kinds", "flip", "expected"),
    [
        (("nominal", "t600", "lm"), True, 6),
        (("nominal", "t600", "lm"), False, 3),
        (("nominal", "jpeg"), True, 12),
    ],
)
def test_equal_images_are_encoded_once(
    tiny_model: Model,
    concept: Concept,
    run_of: Callable[..., TrainingRun],
    kinds: tuple[str, ...],
    flip: bool,
    expected: int,
) -> None:
    runs = [run_of(concept, kind, seed).prepare(tiny_model) for kind in kinds for seed in (0, 1)]
    assert len(training_data(tiny_model, runs, flip=flip).posteriors.mean) == expected


def test_weights_follow_their_image_and_its_mirror(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun]
) -> None:
    masks = concept.masks
    assert masks is not None
    different = masks.clone()
    different[1] = False
    different[1, :16, :16] = True
    runs = [run_of(concept, "nominal"), run_of(replace(concept, masks=different), "lm")]
    data = training_data(tiny_model, [run.prepare(tiny_model) for run in runs], flip=True)
    assert data.weights is not None
    cells = different[:, ::8, ::8].float()[:, None]
    assert bool((data.weights[data.weight_rows[0]] == 1).all())
    assert torch.equal(data.weights[data.weight_rows[1, :, 0]], cells)
    assert torch.equal(data.weights[data.weight_rows[1, :, 1]], cells.flip(-1))


def test_no_masked_run_has_no_weights(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun]
) -> None:
    assert (
        training_data(tiny_model, [run_of(concept).prepare(tiny_model)], flip=True).weights is None
    )


def test_normalised_weights_have_mean_square_one(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun]
) -> None:
    run = run_of(concept, Defense("lm", loss_mask=LossMask(normalise=True)))
    weights = training_data(tiny_model, [run.prepare(tiny_model)], flip=True).weights
    assert weights is not None
    torch.testing.assert_close(weights.square().mean(dim=(1, 2, 3)), torch.ones(6))


@pytest.mark.parametrize(
    ("sizes", "masked", "kind", "words"),
    [
        ((64,), False, "lm", "duck0"),
        ((64, 72), True, "nominal", "differ in size"),
        ((60,), True, "nominal", "multiple of 8"),
    ],
)
def test_unfit_concepts_are_refused(
    tiny_model: Model,
    concept_named: Callable[..., Concept],
    run_of: Callable[..., TrainingRun],
    sizes: tuple[int, ...],
    masked: bool,
    kind: str,
    words: str,
) -> None:
    runs = [
        run_of(concept_named(f"duck{i}", size=size, masked=masked), kind)
        for i, size in enumerate(sizes)
    ]
    with pytest.raises(UserError, match=words):
        training_data(tiny_model, [run.prepare(tiny_model) for run in runs], flip=True)


def test_an_input_mask_changes_what_is_encoded_and_a_latent_mask_what_is_weighted(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun]
) -> None:
    kinds = ("nominal", "im", "lim", "zm")
    runs = [run_of(concept, kind).prepare(tiny_model) for kind in kinds]
    data = training_data(tiny_model, runs, flip=True)
    assert data.weights is not None
    assert data.latent_weights is not None
    rows = {kind: data.rows[r] for r, kind in enumerate(kinds)}
    assert torch.equal(rows["im"], rows["lim"])
    assert torch.equal(rows["nominal"], rows["zm"])
    assert not set(rows["im"].flatten().tolist()) & set(rows["nominal"].flatten().tolist())
    masks = concept.masks
    assert masks is not None
    grey = torch.where(masks[:, None], concept.images, torch.full_like(concept.images, GREY))
    expected = tiny_model.encode(to_float(grey.flip(-1)))
    torch.testing.assert_close(
        data.posteriors.mean[rows["im"][:, 1]], expected.mean, atol=1e-5, rtol=1e-4
    )
    loss, latent = (
        [bool((each[data.weight_rows[r]] != 1).any()) for r in range(len(kinds))]
        for each in (data.weights, data.latent_weights)
    )
    assert loss == [False, False, True, False]
    assert latent == [False, False, False, True]


def test_training_knows_timesteps_and_masks_only(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun]
) -> None:
    run = run_of(concept, "szt").prepare(tiny_model)
    assert not hasattr(run, "defense")
    images = training_data(tiny_model, [run], flip=False).images
    assert torch.equal(images, run.concept.images)
    assert torch.equal(images, defend(concept, defense("szt"), 0).images)
    assert not torch.equal(images, concept.images)


def test_a_run_is_prepared_once_by_hand_or_by_train(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun]
) -> None:
    method = TextualInversion(steps=2)
    asked = run_of(concept, "szt")
    by_train, by_hand = (
        train(tiny_model, [run], method, progress=False)[0]
        for run in (asked, asked.prepare(tiny_model))
    )
    assert torch.equal(by_train.vectors, by_hand.vectors)
    assert by_train.provenance == by_hand.provenance
    assert by_hand.provenance["defense"] == "szt"
    alone = replace(asked.prepare(tiny_model), concept=concept)
    assert not torch.equal(
        train(tiny_model, [alone], method, progress=False)[0].vectors, by_hand.vectors
    )
