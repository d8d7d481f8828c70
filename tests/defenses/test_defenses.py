"""One property for every row of DEFENSES, and how they compose."""

import io
import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from safezone.arrays import rand, stream
from safezone.concepts import Concept
from safezone.defenses import (
    DEFENSES,
    AtLeast,
    Below,
    Chain,
    Defense,
    Identity,
    Jpeg,
    LossMask,
    NoMask,
    Uniform,
    defend,
    defense,
)
from safezone.errors import UserError
from safezone.images import to_uint8

NAMES = ("one", "two", "three")


@dataclass(frozen=True)
class Noise:
    """A preprocess that draws: one level up or down."""

    def __call__(self, images: Tensor, seed: int) -> Tensor:
        coin = torch.randint(0, 2, images.shape, generator=stream(seed), dtype=torch.uint8)
        return images + coin


@pytest.fixture(scope="module")
def concept() -> Concept:
    coarse = rand([stream("images", name) for name in NAMES], (3, 16, 12)) * 1.4 - 0.2
    images = to_uint8(torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bilinear"))
    masks = torch.zeros(3, 64, 64, dtype=torch.bool)
    masks[:, 16:48, 16:48] = True
    return Concept(name="Toy", class_word="toy", images=images, masks=masks, image_names=NAMES)


def test_the_table_is_keyed_by_name() -> None:
    assert all(name == row.name for name, row in DEFENSES.items())
    wanted = {"nominal", "jpeg", "t600", "lm", "jpeg+t600", "jpeg+lm", "szt"}
    assert wanted <= set(DEFENSES)


@pytest.mark.parametrize("name", DEFENSES)
def test_images_keep_shape_range_and_type_and_the_rest_of_the_concept(
    name: str, concept: Concept
) -> None:
    before = concept.images.clone()
    result = defend(concept, DEFENSES[name], 1)
    assert result.images.shape == before.shape
    assert result.images.dtype == torch.uint8
    assert torch.equal(concept.images, before)
    assert result.masks is not None
    assert concept.masks is not None
    assert torch.equal(result.masks, concept.masks)
    assert (result.name, result.image_names) == (concept.name, NAMES)
    changed = not torch.equal(result.images, before)
    assert changed == (DEFENSES[name].preprocess != Identity())


@pytest.mark.parametrize("name", DEFENSES)
def test_the_same_seed_gives_the_same_bytes(name: str, concept: Concept) -> None:
    first, second = (defend(concept, DEFENSES[name], 5).images for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", DEFENSES)
def test_every_name_parses_to_its_row_and_does_what_its_parts_do(name: str) -> None:
    assert defense(name) == DEFENSES[name]
    assert defense(name.upper()) == DEFENSES[name]
    whole = Defense("nominal")
    for part in name.split("+"):
        whole = whole + defense(part)
    assert whole.parts == DEFENSES[name].parts


@pytest.mark.parametrize("name", DEFENSES)
def test_timesteps_and_weights_are_valid_for_training(name: str, concept: Concept) -> None:
    row = DEFENSES[name]
    assert abs(float(row.timesteps.probabilities(1000).sum()) - 1) < 1e-12
    weights = row.loss_mask.weights(concept.masks, 8, concept=concept.name)
    if row.loss_mask == NoMask():
        assert weights is None
    else:
        assert weights is not None
        assert weights.shape == (3, 1, 8, 8)
        assert 0 < float(weights.mean()) < 1


def test_szt_is_jpeg_and_t500_and_lm_d16_part_by_part() -> None:
    szt = DEFENSES["szt"]
    assert szt.parts == (Jpeg(25), AtLeast(0.5), LossMask(dilation_px_at_512=16))
    assert szt.parts == defense("jpeg+t500+lm-d16").parts


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("jpeg50", Defense("jpeg50", preprocess=Jpeg(50))),
        ("t700", Defense("t700", timesteps=AtLeast(0.7))),
        ("below300", Defense("below300", timesteps=Below(0.3))),
        ("lm-d8", DEFENSES["lm-d08"]),
        ("lm-d32", Defense("lm-d32", loss_mask=LossMask(dilation_px_at_512=32))),
        ("jpeg + T600", DEFENSES["jpeg+t600"]),
        (
            "t700+jpeg50+lm-d4",
            Defense("t700+jpeg50+lm-d04", Jpeg(50), AtLeast(0.7), LossMask(4)),
        ),
        ("nominal+szt", DEFENSES["szt"]),
    ],
)
def test_names_with_numbers(name: str, expected: Defense) -> None:
    assert defense(name) == expected


PARTS = [
    Defense("nominal"),
    DEFENSES["jpeg"],
    DEFENSES["t500"],
    DEFENSES["lm-d16"],
    Defense("noise", preprocess=Noise()),
    Defense("jpeg+noise", preprocess=Chain((Jpeg(25), Noise()))),
]


def outcome(*summands: Defense, right: bool = False) -> Defense | str:
    """The sum from the left or from the right, or the word conflict."""
    try:
        first, second, third = summands
        return first + (second + third) if right else (first + second) + third
    except UserError:
        return "conflict"


@pytest.mark.parametrize("summands", list(itertools.product(PARTS, repeat=3)))
def test_addition_is_associative(summands: tuple[Defense, ...]) -> None:
    assert outcome(*summands) == outcome(*summands, right=True)


@pytest.mark.parametrize("name", DEFENSES)
def test_nominal_is_the_identity(name: str) -> None:
    nominal, row = DEFENSES["nominal"], DEFENSES[name]
    assert nominal + row == row
    assert row + nominal == row


def test_preprocesses_run_in_order(concept: Concept) -> None:
    both = Defense("a", preprocess=Jpeg(25)) + Defense("b", preprocess=Noise())
    assert both.preprocess == Chain((Jpeg(25), Noise()))
    assert both.name == "a+b"
    compressed = Jpeg(25)(concept.images, 0)
    change = defend(concept, both, 3).images - compressed
    assert set(change.flatten().tolist()) == {0, 1}
    assert not torch.equal(defend(concept, both, 3).images, defend(concept, both, 4).images)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("t500+t600", "'t500' and 't600' both choose timesteps"),
        ("szt+t600", "'szt' and 't600' both choose timesteps"),
        ("lm+lm-d16", "'lm' and 'lm-d16' both choose a loss mask"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(name: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        defense(name)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("jepg", "did you mean.*jpeg"),
        ("sztt", "did you mean.*szt"),
        ("jpeg+ml-d16", "no defense 'ml-d16'; did you mean.*lm-d16"),
        ("zzzz", "choose from nominal"),
        ("jpeg+", "no defense ''"),
        ("", "no defense ''"),
        ("t1000", "threshold"),
        ("jpeg0", "quality"),
        ("jpeg101", "quality"),
    ],
)
def test_an_unknown_name_lists_near_ones(name: str, suggestion: str) -> None:
    with pytest.raises(UserError, match=suggestion):
        defense(name)


@pytest.mark.parametrize(("subsampling", "code"), [("4:2:0", 2), ("4:4:4", 0)])
@pytest.mark.parametrize("quality", [10, 25, 90])
def test_jpeg_is_pillows_with_the_stated_subsampling(
    quality: int, subsampling: str, code: int, concept: Concept
) -> None:
    found = Jpeg(quality, subsampling)(concept.images, 0)  # type: ignore[arg-type]
    for before, after in zip(concept.images, found, strict=True):
        buffer = io.BytesIO()
        image = Image.fromarray(before.permute(1, 2, 0).contiguous().numpy())
        image.save(buffer, "JPEG", quality=quality, subsampling=code)
        expected = np.array(Image.open(buffer))
        assert np.array_equal(after.permute(1, 2, 0).numpy(), expected)


def test_a_bare_defense_is_nominal() -> None:
    assert Defense("x").parts == (Identity(), Uniform(), NoMask())


@pytest.mark.parametrize("settings", [{"quality": 0}, {"subsampling": "4:1:1"}])
def test_jpeg_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UserError, match="JPEG"):
        Jpeg(**settings)  # type: ignore[arg-type]
