"""One property for every row of POISONS, on a tiny model."""

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from safezone.arrays import rand, stream
from safezone.concepts import Concept
from safezone.errors import UserError
from safezone.images import read_image, to_float, to_uint8, write_png
from safezone.models import Model, load_model
from safezone.poisons import (
    POISONS,
    Budget,
    Poison,
    _guide,
    high_contrast_target,
    imperceptibility,
    poison,
    poison_concept,
    poison_images,
)
from tiny import tiny_pipeline

STEPS = 6
NAMES = ("one", "two", "three")

# What a poison changes its own objective by, at least: (mean after / mean before) over fresh
# draws, with 6 steps of 4/255.
MOVES = {"adm+": 1.3, "adm-": 0.97, "ea": 0.4}


def quick(name: str) -> Poison:
    return dataclasses.replace(POISONS[name], steps=STEPS, eta=4 / 255)


@pytest.fixture(scope="module")
def keen_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Random weights, scaled as training would: latents of unit size that depend on the image
    and a sharp posterior; a prediction of unit size."""
    folder = tmp_path_factory.mktemp("models") / "keen"
    pipeline: Any = tiny_pipeline(folder)
    with torch.no_grad():
        mean, log_variance = slice(0, 4), slice(4, 8)
        pipeline.vae.quant_conv.weight[mean] *= 60
        pipeline.vae.quant_conv.weight[log_variance] = 0
        pipeline.vae.quant_conv.bias[log_variance] = -8
        pipeline.unet.conv_out.weight *= 8
    pipeline.save_pretrained(folder, safe_serialization=True)
    return load_model(folder)


@pytest.fixture(scope="module")
def clean() -> Tensor:
    """Smooth images with saturated parts, uint8 [3, 3, 64, 64]."""
    coarse = rand([stream("images", name) for name in NAMES], (3, 8, 8)) * 1.4 - 0.2
    return to_uint8(torch.nn.functional.interpolate(coarse, size=64, mode="bilinear"))


@pytest.fixture(scope="module")
def poisoned(keen_model: Model, clean: Tensor) -> dict[str, Tensor]:
    return {
        name: poison_images(keen_model, to_float(clean), quick(name), 1, NAMES, progress=False)
        for name in POISONS
    }


def objective_mean(model: Model, row: Poison, images: Tensor, draws: int = 16) -> Tensor:
    """The objective, averaged over draws that the poison has not seen; the same for all images."""
    guide = _guide(model, row, *images.shape[-2:])
    with torch.no_grad():
        values = [
            row.objective(
                model,
                to_float(images[i : i + 1]).expand(draws, -1, -1, -1),
                [stream("fresh", draw) for draw in range(draws)],
                guide,
            ).mean()
            for i in range(len(images))
        ]
    return torch.stack(values)


def test_the_table_is_keyed_by_name_and_tested_whole() -> None:
    assert {name: row.name for name, row in POISONS.items()} == {name: name for name in MOVES}


@pytest.mark.parametrize("name", POISONS)
def test_it_moves_its_objective_in_its_direction(
    name: str, keen_model: Model, clean: Tensor, poisoned: dict[str, Tensor]
) -> None:
    before = objective_mean(keen_model, POISONS[name], clean)
    after = objective_mean(keen_model, POISONS[name], poisoned[name])
    change = after / before
    if POISONS[name].direction > 0:
        assert (change > MOVES[name]).all()
    else:
        assert (change < MOVES[name]).all()


@pytest.mark.parametrize("name", POISONS)
def test_it_is_within_its_budget_after_a_png(
    name: str, clean: Tensor, poisoned: dict[str, Tensor], tmp_path: Path
) -> None:
    for before, after in zip(clean, poisoned[name], strict=True):
        write_png(tmp_path / "poisoned.png", after)
        read = torch.from_numpy(read_image(tmp_path / "poisoned.png")).permute(2, 0, 1)
        change = read.int() - before.int()
        assert change.abs().max() == 16  # used, and not exceeded by a single level
        assert POISONS[name].budget.contains(before[None], read[None])


@pytest.mark.parametrize("name", POISONS)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    name: str, keen_model: Model, clean: Tensor, poisoned: dict[str, Tensor]
) -> None:
    def again(seed: int) -> Tensor:
        row = quick(name)
        return poison_images(keen_model, to_float(clean), row, seed, NAMES, progress=False)

    assert torch.equal(again(1), poisoned[name])
    assert not torch.equal(again(2), poisoned[name])


@pytest.mark.parametrize("name", POISONS)
def test_an_image_in_a_batch_equals_the_image_alone(
    name: str, keen_model: Model, clean: Tensor, poisoned: dict[str, Tensor]
) -> None:
    """To float tolerance: where a gradient is about zero its sign may turn with the batch."""
    order = [2, 0, 1]
    shuffled = poison_images(
        keen_model, to_float(clean[order]), quick(name), 1, [NAMES[i] for i in order],
        batch_size=1, progress=False,
    )  # fmt: skip
    assert (shuffled != poisoned[name][order]).double().mean() < 0.002


@pytest.mark.parametrize("name", POISONS)
@pytest.mark.parametrize("start", ["zero", "uniform"])
def test_it_stays_inside_an_l2_budget_too(
    start: Literal["zero", "uniform"], name: str, keen_model: Model, clean: Tensor
) -> None:
    row = dataclasses.replace(
        POISONS[name], budget=Budget(1.5, "l2"), eta=0.5, steps=2, start=start
    )
    found = poison_images(keen_model, to_float(clean), row, 1, NAMES, progress=False)
    lengths = (to_float(found) - to_float(clean)).flatten(1).norm(dim=1)
    assert (lengths > 0.4).all()
    assert row.budget.contains(clean, found)


def test_a_target_file_steers_the_encoder_attack(
    keen_model: Model, clean: Tensor, poisoned: dict[str, Tensor], tmp_path: Path
) -> None:
    write_png(tmp_path / "grey.png", torch.full((3, 80, 100), 128, dtype=torch.uint8))
    row = dataclasses.replace(quick("ea"), target=tmp_path / "grey.png")
    found = poison_images(keen_model, to_float(clean), row, 1, NAMES, progress=False)
    assert (objective_mean(keen_model, row, found) < 0.9 * objective_mean(
        keen_model, row, poisoned["ea"]
    )).all()  # fmt: skip


def test_poisoning_a_concept_keeps_everything_but_the_pixels(
    keen_model: Model, clean: Tensor, poisoned: dict[str, Tensor]
) -> None:
    masks = torch.zeros(3, 64, 64, dtype=torch.bool)
    masks[:, 16:48, 16:48] = True
    concept = Concept(name="Toy", class_word="toy", images=clean, masks=masks, image_names=NAMES)
    result = poison_concept(keen_model, concept, quick("ea"), 1, progress=False)
    assert torch.equal(result.images, poisoned["ea"])
    assert result.masks is not None
    assert torch.equal(result.masks, masks)
    assert (result.name, result.class_word, result.placeholder) == ("Toy", "toy", "<toy>")
    assert result.image_names == NAMES
    assert torch.equal(concept.images, clean)


@pytest.mark.parametrize(
    ("change", "mend"),
    [
        ({"steps": 0}, "at least 1"),
        ({"steps": -3}, "at least 1"),
        ({"eta": 0.0}, "positive"),
        ({"eta": -1 / 255}, "positive"),
        ({"eta": float("nan")}, "positive"),
        ({"direction": 0}, "ascend"),
        ({"start": "random"}, "'uniform' or 'zero'"),
    ],
)
def test_settings_that_change_nothing_are_refused(change: dict[str, object], mend: str) -> None:
    with pytest.raises(UserError, match=rf"'adm\+'.*{mend}"):
        dataclasses.replace(POISONS["adm+"], **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("typed", "suggestion"), [("adm", r"adm[+-]"), ("ADMM+", r"adm\+"), ("zzz", "choose from")]
)
def test_an_unknown_poison_lists_near_names(typed: str, suggestion: str) -> None:
    with pytest.raises(UserError, match=f"no poison '{re.escape(typed)}'; .*{suggestion}"):
        poison(typed)


@pytest.mark.parametrize("typed", ["adm+", " ADM+ ", "Adm+"])
def test_names_are_found_in_any_case(typed: str) -> None:
    assert poison(typed) is POISONS["adm+"]


@pytest.mark.parametrize("names", [("one", "two"), ("one", "one", "two")])
def test_every_image_needs_its_own_name(
    names: tuple[str, ...], keen_model: Model, clean: Tensor
) -> None:
    with pytest.raises(ValueError, match="distinct names"):
        poison_images(keen_model, to_float(clean), quick("ea"), 1, names)


def test_imperceptibility_of_known_changes() -> None:
    clean = torch.full((3, 3, 12, 12), 100, dtype=torch.uint8)
    poisoned = clean.clone()
    poisoned[1] += 255 // 5  # every value by a fifth of the range
    poisoned[2, 0, :6] -= 16  # a sixth of the values
    found = imperceptibility(clean, poisoned)
    expected = torch.tensor([torch.inf, 13.9794, 31.8299])
    torch.testing.assert_close(found["psnr"], expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(found["linf"], torch.tensor([0, 51 / 255, 16 / 255]))
    torch.testing.assert_close(found["share_at_bound"], torch.tensor([0, 1, 1 / 6]))
    assert found["ssim"][0] == 1
    assert (found["ssim"][1:] < 1).all()


@pytest.mark.parametrize("size", [64, 96, 128])
def test_the_target_is_busy_and_of_high_contrast(size: int) -> None:
    target = high_contrast_target(size)
    assert target.shape == (1, 3, size, size)
    assert torch.equal(target, high_contrast_target(size))
    assert ((target == 0) | (target == 1)).all()
    assert ((target.mean(dim=(2, 3)) - 0.5).abs() < 0.05).all()
    cells = torch.nn.functional.unfold(target, 8, stride=8).view(1, 3, 64, -1)
    assert (cells.std(dim=2) > 0.3).all()  # no latent cell is flat in any channel
