"""Crop and rescale: where the image lies, where the loss counts, and what the prompt says."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from safezone.arrays import stream
from safezone.concepts import Concept
from safezone.errors import UserError
from safezone.models import Model
from safezone.personalize import CustomDiffusion, TrainingRun, train
from safezone.personalize.draws import CROP_PREFIXES, CropRescale, crops_of
from safezone.personalize.posteriors import training_data
from safezone.personalize.samples import Sampler

SIZE, FACTOR = 96, 8
SHORT = CustomDiffusion(steps=3, learning_rate=1e-3, crop_rescale=True, templates=("a {}",))


def crops(count: int = 4000) -> list[CropRescale]:
    uniforms = torch.rand(count, 5, dtype=torch.float64, generator=stream("crops"))
    return [CropRescale.of(row, SIZE) for row in uniforms]


def test_sides_and_places_are_those_of_the_released_code() -> None:
    found = crops()
    small = [crop for crop in found if crop.side <= SIZE]
    large = [crop for crop in found if crop.side > SIZE]
    assert len(small) / len(found) == pytest.approx(0.66, abs=0.03)
    assert (min(c.side for c in small), max(c.side for c in small)) == (32, 96)
    assert (min(c.side for c in large), max(c.side for c in large)) == (115, 133)
    for crop in found:
        room = abs(crop.side - SIZE)
        assert 0 <= crop.top <= room
        assert 0 <= crop.left <= room
        words = {True: (1, 2), False: (3, 4) if crop.side > SIZE else (0,)}[crop.side < 0.6 * SIZE]
        assert crop.prefix in words
    assert {crop.prefix for crop in found} == set(range(len(CROP_PREFIXES)))


def test_a_small_image_lies_on_grey_and_counts_one_cell_within() -> None:
    image = torch.zeros(3, SIZE, SIZE, dtype=torch.uint8)
    crop = CropRescale(side=40, top=16, left=24, prefix=1)
    pasted = crop.image(image)
    assert float(pasted[:, 16:56, 24:64].max()) == 0
    outside = pasted.clone()
    outside[:, 16:56, 24:64] = 0.5
    assert bool((outside == 0.5).all())
    valid = crop.valid(SIZE, FACTOR)
    expected = torch.zeros(1, 12, 12)
    expected[:, 3:6, 4:7] = 1
    assert torch.equal(valid, expected)


def test_a_large_image_is_cut_and_counts_everywhere() -> None:
    ramp = torch.arange(SIZE).repeat(3, SIZE, 1).to(torch.uint8) * 2
    crop = CropRescale(side=120, top=3, left=20, prefix=3)
    cut = crop.image(ramp) * 255
    middle = (torch.arange(SIZE) + 20 + 0.5) * SIZE / 120 - 0.5
    assert cut.shape == (3, SIZE, SIZE)
    assert float((cut[0, 50, 5:-5] - 2 * middle[5:-5]).abs().max()) < 0.6
    assert bool((crop.valid(SIZE, FACTOR) == 1).all())


@pytest.mark.parametrize(
    "crop", [CropRescale(*numbers) for numbers in ((48, 16, 40, 1), (120, 10, 4, 3), (96, 0, 0, 0))]
)
def test_the_concepts_mask_moves_with_the_image(crop: CropRescale) -> None:
    pixels = torch.zeros(3, SIZE, SIZE, dtype=torch.uint8)
    pixels[:, 24:64, 32:80] = 255
    weights = torch.zeros(1, 12, 12)
    weights[:, 3:8, 4:10] = 1
    moved = crop.weights(weights, SIZE, FACTOR)
    seen = crop.image(pixels)
    grey = crop.image(torch.zeros_like(pixels)) == 0.5
    cells = torch.nn.functional.avg_pool2d(torch.where(grey, 0, seen)[None, :1], FACTOR)[0]
    assert float((moved - (cells > 0.5).float()).abs().mean()) < 0.08
    assert float(moved.sum()) > 0
    if crop.side == SIZE:
        assert torch.equal(moved, weights)


def test_a_stream_of_their_own_and_no_neighbour_matters() -> None:
    together = crops_of([(0, "duck"), (1, "duck"), (0, "vase")], 5, 2, SIZE)
    assert together[2:4] == crops_of([(1, "duck")], 5, 2, SIZE)
    assert together[:2] != together[2:4]


@pytest.mark.parametrize("kind", ["nominal", "lm", "zm"])
def test_the_loss_is_a_mean_over_the_valid_cells(
    tiny_model: Model,
    concept_named: Callable[..., Concept],
    run_of: Callable[..., TrainingRun],
    kind: str,
) -> None:
    run = run_of(concept_named("duck", size=SIZE), kind).prepare(tiny_model)
    data = training_data(tiny_model, [run], flip=True)
    sampler = Sampler(tiny_model, [run], replace(SHORT, batch_size=4), data, None, 1)
    samples, drawn = sampler.at(0, torch.tensor([0]))[0], crops_of([(0, "duck")], 0, 4, SIZE)
    assert samples.prompts.tolist() == [crop.prefix for crop in drawn]
    assert samples.weights is not None
    for weights, crop in zip(samples.weights, drawn, strict=True):
        valid = crop.valid(SIZE, FACTOR)
        assert bool((weights[valid == 0] == 0).all())
        if kind == "nominal":
            ones = torch.ones(4, 12, 12)
            total = float((ones * weights).square().mean())
            assert total == pytest.approx(4.0)  # four channels, divided by the mask's cells
        if kind == "lm":
            assert 0 < float((weights > 0).sum()) < float(valid.sum())


def test_two_runs_equal_each_alone(
    tiny_model: Model, concept_named: Callable[..., Concept], run_of: Callable[..., TrainingRun]
) -> None:
    runs = [
        run_of(concept_named("duck", size=SIZE), "szt"),
        run_of(concept_named("vase", size=SIZE), "nominal", seed=1),
    ]
    together = train(tiny_model, runs, SHORT, progress=False)
    for run, adapter in zip(runs, together, strict=True):
        (alone,) = train(tiny_model, [run], SHORT, progress=False)
        torch.testing.assert_close(adapter.vectors, alone.vectors, rtol=1e-3, atol=1e-5)
    without = train(tiny_model, runs, replace(SHORT, crop_rescale=False), progress=False)
    assert not torch.allclose(without[0].vectors, together[0].vectors)


def test_images_that_are_too_small_are_refused(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun]
) -> None:
    with pytest.raises(UserError, match="crop_rescale"):
        train(tiny_model, [run_of(concept)], SHORT, progress=False)
