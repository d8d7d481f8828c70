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
from safezone.concepts.masks import dilate
from safezone.errors import UserError
from safezone.images import read_image, to_float, to_uint8, write_png
from safezone.lab.settings import Poisoning
from safezone.models import Model, load_model
from safezone.poisons import (
    POISONS,
    Budget,
    Checkpoints,
    Poison,
    Unpoisoned,
    fixed_guide,
    imperceptibility,
    poison,
    poison_concept,
    poison_images,
    poison_many,
    transform,
)
from safezone.poisons.guide import bound, high_contrast_target, read_target
from safezone.poisons.objectives import SampledDistance
from safezone.poisons.passes import Pass, Piece, streams
from safezone.poisons.rounds import GreedyTimesteps, Surrogate
from safezone.poisons.table import reads
from tiny import tiny_pipeline

STEPS = 6
NAMES = ("one", "two", "three")

# By how much a poison moves its own objective in its direction, at least, in the objective's own
# unit: the mean over fresh draws after 6 steps of 4/255, minus that of the clean image.
MOVES = {
    "adm+": 2.0,
    "adm-": 0.15,
    "sds+": 0.4,
    "sds-": 0.8,
    "ea": 700,
    "da": 3,
    "adm+@jpeg": 1.0,
    "adm+@t500": 0.5,
    "adm+@lm": 1.0,
    "adm+@szt": 0.05,
    "sds-@jpeg": 0.3,
    "sds-@t500": 0.2,
    "sds-@lm": 0.3,
    "sds-@szt": 0.08,
    "ea@jpeg": 500,
    "ea@lm": 250,
    "ea@szt": 200,
    "adm+@blur": 0.1,
    "adm+@high": 0.1,
    "da-target": 0.5,
    "mist": 700,
    "photoguard": 14,
    "ace": 0.6,
    "ace+": 2.0,
    "pid": 9,
    "simac": 1.2,
    "diffusionguard": 0.08,
    "aspl": 1.5,
}

# What the longer ones would spend time on; everything else is the row's own.
SHORTER: dict[str, dict[str, Any]] = {
    "da": {"repetitions": 1, "objective": SampledDistance(inference_steps=2)},
    "da-target": {"repetitions": 1, "objective": SampledDistance("target", inference_steps=2)},
    "simac": {"timesteps": GreedyTimesteps(candidates=2, window=0.2, keep=0.5)},
    "aspl": {"surrogate": Surrogate(rounds=2, steps=3)},
}


def quick(name: str) -> Poison:
    return dataclasses.replace(POISONS[name], steps=STEPS, eta=4 / 255, **SHORTER.get(name, {}))


def keen(folder: Path, prediction_type: str = "epsilon") -> Model:
    """Random weights, scaled as training would: latents of unit size that depend on the image
    and a sharp posterior; a prediction of unit size."""
    pipeline: Any = tiny_pipeline(folder, prediction_type=prediction_type)
    with torch.no_grad():
        mean, log_variance = slice(0, 4), slice(4, 8)
        pipeline.vae.quant_conv.weight[mean] *= 60
        pipeline.vae.quant_conv.weight[log_variance] = 0
        pipeline.vae.quant_conv.bias[log_variance] = -8
        pipeline.unet.conv_out.weight *= 8
    pipeline.save_pretrained(folder, safe_serialization=True)
    return load_model(folder)


@pytest.fixture(scope="module")
def keen_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return keen(tmp_path_factory.mktemp("models") / "keen")


@pytest.fixture(scope="module")
def clean() -> Tensor:
    """Smooth images with saturated parts, uint8 [3, 3, 64, 64]."""
    coarse = rand([stream("images", name) for name in NAMES], (3, 8, 8)) * 1.4 - 0.2
    return to_uint8(torch.nn.functional.interpolate(coarse, size=64, mode="bilinear"))


@pytest.fixture(scope="module")
def masks() -> Tensor:
    """The middle quarter of each image, bool [3, 64, 64]."""
    found = torch.zeros(3, 64, 64, dtype=torch.bool)
    found[:, 16:48, 16:48] = True
    return found


@pytest.fixture(scope="module")
def poisoned(keen_model: Model, clean: Tensor, masks: Tensor) -> dict[str, Tensor]:
    return {
        name: poison_images(
            keen_model, to_float(clean), quick(name), 1, NAMES, masks=masks, progress=False
        )
        for name in POISONS
    }


def objective_mean(
    model: Model, row: Poison, clean: Tensor, images: Tensor, masks: Tensor, draws: int = 16
) -> Tensor:
    """The objective behind the row's transform, averaged over draws that the poison has not seen;
    the same draws for all images."""
    grown = dilate(masks, 2)[:, None].float()  # 16 px at 512
    values = []
    for i in range(len(images)):

        def many(rows: Tensor, i: int = i) -> Tensor:
            return rows[i : i + 1].expand(draws, -1, -1, -1)

        guide = fixed_guide(model, row, to_float(many(clean)), many(grown) if row.mask else None)
        generators = [stream("fresh", draw) for draw in range(draws)]
        pixels = to_float(many(images))
        with torch.no_grad():
            if row.transform is not None:  # images are shaped already
                pixels, moved = row.transform(pixels, guide.masks, generators)
                guide = dataclasses.replace(guide, masks=moved)
            values.append(
                bound(row.objective, model).value(model, pixels, generators, guide).mean()
            )
    return torch.stack(values)


def test_the_table_is_keyed_by_name_and_tested_whole() -> None:
    assert {name: row.name for name, row in POISONS.items()} == {name: name for name in MOVES}


@pytest.mark.parametrize("name", POISONS)
def test_it_moves_its_objective_in_its_direction(
    name: str, keen_model: Model, clean: Tensor, masks: Tensor, poisoned: dict[str, Tensor]
) -> None:
    row = quick(name)
    before = objective_mean(keen_model, row, clean, clean, masks)
    after = objective_mean(keen_model, row, clean, poisoned[name], masks)
    assert (row.direction * (after - before) > MOVES[name]).all()


@pytest.mark.parametrize("prediction_type", ["v_prediction", "flow_prediction"])
def test_velocities_and_flows_are_poisoned_by_the_same_rows(
    prediction_type: str, clean: Tensor, masks: Tensor, tmp_path: Path
) -> None:
    model = keen(tmp_path / "model", prediction_type)
    for name in ("adm+", "adm-", "sds+", "sds-@szt", "da", "mist", "ace", "simac", "aspl"):
        row = quick(name)
        found = poison_images(model, to_float(clean), row, 1, NAMES, masks=masks, progress=False)
        before = objective_mean(model, row, clean, clean, masks)
        after = objective_mean(model, row, clean, found, masks)
        assert (row.direction * (after - before) > 0).all(), name


@pytest.mark.parametrize("name", POISONS)
def test_it_is_within_its_budget_after_a_png(
    name: str, clean: Tensor, poisoned: dict[str, Tensor], tmp_path: Path
) -> None:
    for before, after in zip(clean, poisoned[name], strict=True):
        write_png(tmp_path / "poisoned.png", after)
        read = torch.from_numpy(read_image(tmp_path / "poisoned.png")).permute(2, 0, 1)
        change = read.int() - before.int()
        if POISONS[name].shaping is None:  # a blur averages away what stands alone
            assert change.abs().max() == 16  # used, and not exceeded by a single level
        assert 8 <= change.abs().max() <= 16
        assert POISONS[name].budget.contains(before[None], read[None])


@pytest.mark.parametrize("name", POISONS)
def test_an_image_in_a_batch_equals_the_image_alone_whose_seed_gives_its_bytes(
    name: str, keen_model: Model, clean: Tensor, masks: Tensor, poisoned: dict[str, Tensor]
) -> None:
    """In a batch to float tolerance: where a gradient is about zero its sign may turn with the
    batch. JPEG's rounding makes more of that from step to step, so that those are compared after
    two."""
    row = quick(name)

    def alone(row: Poison, seed: int = 1) -> Tensor:
        return poison_images(
            keen_model, to_float(clean[2:]), row, seed, NAMES[2:], masks=masks[2:], progress=False
        )

    first, together = alone(row), poisoned[name]
    assert torch.equal(alone(row), first)
    assert (alone(row, 2) != first).double().mean() > 0.002
    if row.transform is not None:
        row = dataclasses.replace(row, steps=2)
        together = poison_images(
            keen_model, to_float(clean), row, 1, NAMES, masks=masks, progress=False
        )
        first = alone(row)
    assert (first != together[2:]).double().mean() < 0.002


@pytest.mark.parametrize("name", [name for name, row in POISONS.items() if row.mask])
def test_a_masked_poison_stays_inside_the_dilated_mask_and_needs_one(
    name: str, keen_model: Model, clean: Tensor, masks: Tensor, poisoned: dict[str, Tensor]
) -> None:
    grown = dilate(masks, 2)[:, None].expand_as(clean)
    changed = poisoned[name] != clean
    assert not changed[~grown].any()
    assert changed[grown].double().mean() > 0.5
    with pytest.raises(UserError, match="safezone mask"):
        poison_images(keen_model, to_float(clean), quick(name), 1, NAMES, progress=False)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("name", ["adm+@szt", "aspl", "simac"])
def test_a_poison_killed_between_its_checkpoints_goes_on_to_the_same_bytes(
    name: str, batch_size: int, keen_model: Model, clean: Tensor, masks: Tensor, tmp_path: Path
) -> None:
    row = dataclasses.replace(quick(name), steps=12)
    calls, most = 0, 10**6

    def mortal(*arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > most:
            raise KeyboardInterrupt
        return bound(row.objective, keen_model).value(*arguments)

    def make(row: Poison, checkpoints: Checkpoints | None) -> Tensor:
        return poison_images(
            keen_model, to_float(clean), row, 1, NAMES,
            masks=masks, batch_size=batch_size, progress=False, checkpoints=checkpoints,
        )  # fmt: skip

    doomed = dataclasses.replace(row, objective=mortal)
    whole = make(doomed, None)
    calls, most = 0, calls - 2  # in the last image's 11th step
    kept = Checkpoints(tmp_path / "kept", "key")
    with pytest.raises(KeyboardInterrupt):
        make(doomed, kept)
    assert len(list((tmp_path / "kept").iterdir())) == 3 // batch_size
    assert torch.equal(make(row, kept), whole)

    def never(*_: Any) -> Tensor:
        raise AssertionError("everything was done already")

    assert torch.equal(make(dataclasses.replace(row, objective=never), kept), whole)
    other = Checkpoints(tmp_path / "kept", "another key")
    assert torch.equal(make(row, other), whole)


@pytest.mark.parametrize("name", ["adm+", "sds-", "ea"])
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


@pytest.mark.parametrize(("part", "other"), [("prompt", "a red toy"), ("target", "pattern")])
def test_what_an_objective_does_not_read_changes_nothing_and_is_refused(
    part: str, other: str, keen_model: Model, clean: Tensor
) -> None:
    images, rows = to_float(clean), dict[Any, Poison]()
    for row in POISONS.values():
        rows.setdefault(row.objective, row)
    for objective, row in rows.items():
        values = []
        for text in ("a photo" if part == "prompt" else "grey", other):
            change: dict[str, Any] = {part: text}
            guide = fixed_guide(keen_model, dataclasses.replace(row, **change), images)
            generators = [stream("fresh", name) for name in NAMES]
            with torch.no_grad():
                value = bound(objective, keen_model).value
                values.append(value(keen_model, images, generators, guide))
        change = {part: other}
        unread = not reads(objective, part)
        assert torch.equal(*values) is unread, row.name
        if not unread:
            assert getattr(Poisoning(**change).one_poison(row.name), part) == other
            continue
        with pytest.raises(UserError, match=f"{re.escape(row.name)} reads no {part}"):
            Poisoning(**change).one_poison(row.name)


@pytest.mark.parametrize("moved", ["crop", "flip", "blur", "resize", "jpeg"])
def test_what_a_transform_does_it_does_to_the_clean_image_too(
    moved: str, keen_model: Model, clean: Tensor
) -> None:
    """PID compares the latents of both, so that it is zero where nothing was poisoned."""
    row = dataclasses.replace(quick("pid"), transform=transform(moved))
    pieces = [Piece(NAMES, clean, None, streams(row, 0, NAMES), None)]
    one = Pass([keen_model], [bound(row.objective, keen_model).value], row, 0, pieces)
    draws = [stream("fresh", name) for name in NAMES]
    assert not one.evaluate(one.clean, draws, one.guides()).any()
    later = [rand([each]).item() for each in draws]
    again = [stream("fresh", name) for name in NAMES]
    assert later != [rand([each]).item() for each in again]  # the draws went on, once
    noisy = (one.clean + 0.02 * rand(again, clean.shape[1:])).clamp(0, 1)
    assert (one.evaluate(noisy, draws, one.guides()) > 0).all()


def test_a_second_transform_is_refused() -> None:
    with pytest.raises(UserError, match="adm\\+@jpeg has a transform already"):
        Poisoning(transform="flip").poison("adm+@jpeg")
    assert Poisoning(transform="flip").poison("adm+").transform == transform("flip")


def test_a_model_that_sees_nothing_at_its_last_timestep_is_refused(
    clean: Tensor, tmp_path: Path
) -> None:
    model = keen(tmp_path / "model", "flow_prediction")
    with pytest.raises(UserError, match="sees nothing of an image"):
        poison_images(model, to_float(clean), quick("diffusionguard"), 0, NAMES, progress=False)


@pytest.mark.parametrize("kind", ["file", "zero", "grey"])
def test_another_target_steers_the_encoder_attack(
    kind: str, keen_model: Model, clean: Tensor, masks: Tensor, poisoned: dict[str, Tensor],
    tmp_path: Path,
) -> None:  # fmt: skip
    write_png(tmp_path / "dark.png", torch.full((3, 80, 100), 40, dtype=torch.uint8))
    target = read_target(str(tmp_path / "dark.png") if kind == "file" else kind)
    row = dataclasses.replace(quick("ea"), target=target)
    found = poison_images(keen_model, to_float(clean), row, 1, NAMES, progress=False)
    ours = objective_mean(keen_model, row, clean, found, masks)
    assert (ours < 0.9 * objective_mean(keen_model, row, clean, poisoned["ea"], masks)).all()


def test_a_target_of_zero_has_latents_of_zero_and_another_word_is_refused(
    keen_model: Model, clean: Tensor
) -> None:
    row = dataclasses.replace(POISONS["ea"], target="zero")
    posterior = fixed_guide(keen_model, row, to_float(clean)).target_posterior
    assert not posterior.mean.any()
    assert not posterior.std.any()
    with pytest.raises(UserError, match=r"'blue\.png' is no file; .*pattern, zero, grey"):
        read_target("blue.png")


def test_the_step_decays_linearly_to_a_hundredth() -> None:
    row = dataclasses.replace(POISONS["photoguard"], eta=0.1, steps=100)
    lengths = [row.step_length(index) for index in (0, 50, 100)]
    assert lengths == pytest.approx([0.1, 0.0505, 0.001])
    assert POISONS["adm+"].step_length(99) == POISONS["adm+"].eta


def test_poisoning_a_concept_keeps_everything_but_the_pixels(
    keen_model: Model, clean: Tensor, masks: Tensor, poisoned: dict[str, Tensor]
) -> None:
    concept = Concept(name="Toy", class_word="toy", images=clean, masks=masks, image_names=NAMES)
    result = poison_concept(keen_model, concept, quick("ea@lm"), 1, progress=False)
    assert torch.equal(result.images, poisoned["ea@lm"])
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
        ({"eta": 0.0}, "a number above 0"),
        ({"eta": -1 / 255}, "a number above 0"),
        ({"eta": float("nan")}, "eta is nan; give a"),
        ({"eta": 1.0}, r"eta is 1, but pixels .* divide by 255 \(0\.003922\)"),
        ({"direction": 0}, "1 or -1"),
        ({"start": "random"}, "'uniform' or 'zero'"),
        ({"decay": "cosine"}, "'constant' or 'linear'"),
        ({"repetitions": 0}, "at least 1"),
        ({"target": "blue"}, "pattern, zero, grey"),
        ({"prompt": "a photo of a {}"}, "surrogate"),
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


@pytest.mark.parametrize("name", ["adm+", "aspl"])
def test_a_set_in_company_equals_the_set_alone_to_the_bit(
    name: str, keen_model: Model, clean: Tensor, masks: Tensor, tmp_path: Path
) -> None:
    """Concepts whose images have the same names, one of them done before."""
    row = dataclasses.replace(quick(name), steps=11 if name == "adm+" else 2)
    sets = [
        Unpoisoned(clean.roll(k, dims=-1), NAMES, masks, Checkpoints(tmp_path / str(k), "key"))
        for k in range(3)
    ]

    def make(sets: list[Unpoisoned], batch_size: int) -> list[Tensor]:
        return poison_many([keen_model], sets, row, 1, batch_size=batch_size, progress=False)

    alone = [make([dataclasses.replace(each, checkpoints=None)], 3)[0] for each in sets]
    make(sets[1:2], 3)
    together = make(sets, 7)  # two whole sets in a pass, and not three
    assert all(map(torch.equal, together, alone))
