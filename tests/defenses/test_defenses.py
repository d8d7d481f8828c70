"""One property for every row of DEFENSES, and how they compose."""

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from safezone.arrays import rand, randn, stream
from safezone.concepts import Concept
from safezone.concepts.masks import iou
from safezone.defenses import (
    DEFENSES,
    AtLeast,
    Below,
    Chain,
    Defense,
    DiffPure,
    GaussianBlur,
    GridPure,
    Identity,
    Impress,
    Jpeg,
    LatentMask,
    LossInputMask,
    LossMask,
    NoMask,
    Power,
    Purifier,
    RandomJpeg,
    Tanh,
    Uniform,
    defend,
    defense,
    preprocessed,
)
from safezone.errors import UserError
from safezone.images import jpeg, to_uint8
from safezone.models import Model
from safezone.models.pixel import MINI_PIXEL, load_pixel_model
from tiny import write_tiny_pixel_folder

NAMES = ("one", "two", "three")


def networks_needed(name: str) -> bool:
    preprocess = DEFENSES[name].preprocess
    parts = preprocess.parts if isinstance(preprocess, Chain) else (preprocess,)
    return any(isinstance(part, Purifier) for part in parts)


# Neither hub names nor long optimisations in tests; the rest of these rows as they are.
QUICK = {
    name: (replace(preprocess, steps=3) if isinstance(preprocess, Impress) else preprocess)
    for name, preprocess in ((name, row.preprocess) for name, row in DEFENSES.items())
    if name not in ("pdmpure-if", "upscale")
} | {"gridpure": GridPure(start=3, rounds=2), "diffpure": DiffPure(start=20, stride=5)}
PLAIN = [name for name in QUICK if not networks_needed(name)]


def quick(name: str) -> Defense:
    return replace(DEFENSES[name], preprocess=QUICK[name])


@dataclass(frozen=True)
class Noise:
    """A preprocess that draws: one level up or down."""

    def __call__(self, images: Tensor, seed: int) -> Tensor:
        coin = torch.randint(0, 2, images.shape, generator=stream(seed), dtype=torch.uint8)
        return images + coin


@pytest.fixture(scope="module", autouse=True)
def mini_pixel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A tiny random model in the place of the built-in one of pixels."""
    folder = tmp_path_factory.mktemp("weights")
    write_tiny_pixel_folder(folder / MINI_PIXEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("safezone.models.pixel.WEIGHTS", folder)
        load_pixel_model.cache_clear()
        yield
    load_pixel_model.cache_clear()


@pytest.fixture(scope="module")
def concept() -> Concept:
    coarse = rand([stream("images", name) for name in NAMES], (3, 16, 12)) * 1.4 - 0.2
    smooth = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bilinear")
    grain = randn([stream("grain", name) for name in NAMES], (3, 64, 64))
    images = to_uint8(smooth + 0.05 * grain)
    masks = torch.zeros(3, 64, 64, dtype=torch.bool)
    masks[:, 16:48, 16:48] = True
    return Concept(name="Toy", class_word="toy", images=images, masks=masks, image_names=NAMES)


def test_the_table_is_keyed_by_name() -> None:
    assert all(name == row.name for name, row in DEFENSES.items())
    wanted = {"nominal", "jpeg", "t600", "lm", "jpeg+t600", "jpeg+lm", "szt"}
    assert wanted <= set(DEFENSES)


@pytest.mark.parametrize("name", QUICK)
def test_images_keep_shape_range_and_type_and_the_rest_of_the_concept(
    name: str, concept: Concept, tiny_model: Model
) -> None:
    before = concept.images.clone()
    result = defend(concept, quick(name), 1, tiny_model)
    assert result.images.shape == before.shape
    assert result.images.dtype == torch.uint8
    assert torch.equal(concept.images, before)
    assert result.masks is not None
    assert concept.masks is not None
    assert result.masks.shape == concept.masks.shape
    assert result.masks.dtype == torch.bool
    moved = "crop" in name
    assert torch.equal(result.masks, concept.masks) != moved
    assert (result.name, result.image_names) == (concept.name, NAMES)
    changed = not torch.equal(result.images, before)
    assert changed == (DEFENSES[name].preprocess != Identity())


@pytest.mark.parametrize("name", QUICK)
def test_the_same_seed_gives_the_same_bytes(name: str, concept: Concept, tiny_model: Model) -> None:
    first, second = (defend(concept, quick(name), 5, tiny_model).images for _ in range(2))
    assert torch.equal(first, second)
    alone = quick(name).preprocess
    one = replace(concept, images=concept.images[:1], masks=None, image_names=NAMES[:1])
    assert torch.equal(preprocessed(one, alone, 5, tiny_model).images[0], first[0])


@pytest.mark.parametrize(
    ("gives", "told"),
    [
        (lambda images, seed: images.float(), "gives torch.float32; give uint8 images"),
        (lambda images, seed: None, "gives NoneType; give uint8 images"),
        (lambda images, seed: images[:, :, 8:], "give images of that shape"),
    ],
)
def test_a_preprocess_keeps_shape_and_type(gives: Any, told: str, concept: Concept) -> None:
    with pytest.raises(UserError, match=f"a preprocess of the defense .*{told}"):
        preprocessed(concept, gives, 0)


@pytest.mark.parametrize("name", [name for name in DEFENSES if networks_needed(name)])
def test_a_purifier_without_a_model_says_so(name: str, concept: Concept) -> None:
    with pytest.raises(UserError, match="needs a model"):
        DEFENSES[name].preprocess(concept.images, 0)


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
    masked = row.loss_mask(concept.images, concept.masks, 8, concept=concept.name)
    weights, latent_weights = masked.weights, masked.latent_weights
    for kind, found in ((LossMask, weights), (LatentMask, latent_weights)):
        if type(row.loss_mask) in (kind, LossInputMask) and (kind, found) != (LatentMask, None):
            assert found is not None
            assert found.shape == (3, 1, 8, 8)
            assert 0 < float(found.mean()) < 1
        else:
            assert found is None


@pytest.mark.parametrize("name", PLAIN)
def test_masks_follow_every_move_of_the_object(name: str, concept: Concept) -> None:
    """The object is white on black: whatever is done to the images, the mask still names it."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    masks = torch.stack([(y - 30).square() + (x - c).square() < 17**2 for c in (26, 32, 40)])
    images = (masks[:, None] * 255).to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    drawn = replace(concept, images=images, masks=masks)
    result = defend(drawn, DEFENSES[name], 2)
    assert result.masks is not None
    for image, mask in zip(result.images, result.masks, strict=True):
        assert iou((image.float().mean(0) >= 127.5).numpy(), mask.numpy()) > 0.9
    mirrored = defend(
        replace(drawn, images=images.flip(-1), masks=masks.flip(-1)), DEFENSES[name], 2
    )
    assert mirrored.masks is not None
    assert torch.equal(mirrored.masks.flip(-1), result.masks)


@pytest.mark.parametrize("name", [n for n in DEFENSES if DEFENSES[n].loss_mask != NoMask()])
def test_what_a_mask_does_follows_a_flip_and_a_rescaling(name: str, concept: Concept) -> None:
    mask, masks = DEFENSES[name].loss_mask, concept.masks
    assert masks is not None
    grown = masks.repeat_interleave(2, 1).repeat_interleave(2, 2)
    images = concept.images
    large_images = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    seen, flipped = mask(images, masks, 8), mask(images.flip(-1), masks.flip(-1), 8)
    large = mask(large_images, grown, 16)
    assert torch.equal(flipped.images.flip(-1), seen.images)
    for place in ("weights", "target_weights", "latent_weights"):
        own, turned, doubled = (getattr(each, place) for each in (seen, flipped, large))
        if own is None:
            assert turned is None and doubled is None
            continue
        assert torch.equal(turned.flip(-1), own)
        assert torch.equal(doubled, own)


def paper_columns() -> list[str]:
    """The settings of the paper's tables 1, 6, 9, 12 and 20, as printed there."""
    rho = {
        "tanh=": ("1", "3", "5", "10"),
        "power=": ("0.25", "0.5", "1", "2", "4"),
        "low<=": ("0.1", "0.2", "0.3", "0.4", "0.5"),
        "high>=": ("0.5", "0.6", "0.7", "0.8", "0.9"),
    }
    return [
        *(curve + value for curve, values in rho.items() for value in values),
        *("Nominal", "Regen", "PDMPure", "AdvClean", "JPEG", "T600", "LM", "JPEG+T600"),
        *("JPEG+LM", "SZT", "IM", "LIM", "ZM", "LM-D08", "LM-D16", "LM-D24", "JPEG+LM-D16"),
        *("T500+LM", "T500+LM-D16", "T600+LM", "T600+LM-D16"),
        *("JPEG+Regen", "JPEG+PDMPure", "JPEG+AdvClean"),
    ]


@pytest.mark.parametrize("name", paper_columns())
def test_every_column_of_the_paper_has_its_defense(name: str) -> None:
    found = defense(name)
    assert (found.parts == Defense("").parts) == (name == "Nominal")
    assert defense(found.name) == found


def test_no_two_columns_of_the_paper_are_the_same_defense() -> None:
    parts = [defense(name).parts for name in paper_columns()]
    twice = [name for i, name in enumerate(paper_columns()) if parts[i] in parts[:i]]
    assert twice == ["T600"]  # table 6 has it as high>=0.6


def test_a_list_is_a_sum() -> None:
    assert defense(["jpeg", "T500", "lm-d16"]).parts == defense("szt").parts
    assert defense(("szt",)) == DEFENSES["szt"]


def test_szt_is_jpeg_and_t500_and_lm_d16_part_by_part() -> None:
    szt = DEFENSES["szt"]
    assert szt.parts == (Jpeg(25), AtLeast(0.5), LossMask(dilation_px_at_512=16), "")
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
        ("low<=0.1", Defense("below100", timesteps=Below(0.1))),
        ("high>=0.6", DEFENSES["t600"]),
        ("tanh=10", Defense("tanh10", timesteps=Tanh(10))),
        ("power=0.25", Defense("power0.25", timesteps=Power(0.25))),
        ("jpeg+tanh5", Defense("jpeg+tanh5", Jpeg(25), Tanh(5))),
        ("zm-d16", Defense("zm-d16", loss_mask=LatentMask(16))),
        ("blur1.5", Defense("blur1.5", preprocess=GaussianBlur(1.5))),
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


def test_words_are_a_part_of_their_own() -> None:
    both = defense("noise-word+t600")
    assert (both.words, both.timesteps) == (", noisy", AtLeast(0.6))
    with pytest.raises(UserError, match="both choose words"):
        Defense("a", words=", grainy") + defense("noise-word")


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
        ("zzzz", r"choose from nominal, .*, crop\. Parts are joined by"),
        ("blur1e9", r"did you mean blur or pdmpure or"),
        ("t", "no defense 't'; did you mean t<number> or"),
        ("jpeg+", "no defense ''"),
        ("", "no defense ''"),
        ("t1000", "no defense t1000: fraction is 1.0; give a number below 1"),
        ("pdmpure5", "no defense pdmpure5: start is 5; give at least 10, which is stride"),
        ("t600.5", "not whole"),
        ("high>=0.6005", "t600.5 has a number that is not whole"),
        ("t<=600", "no defense 't<=600'"),
        ("high<=0.6", "no defense 'high<=0.6'"),
        ("low>=0.1", "no defense 'low>=0.1'"),
        ("jpeg>=50", "no defense 'jpeg>=50'"),
        ("tanhh3", "did you mean.*tanh"),
        ("power101", "rho"),
        ("median4", "odd"),
        ("bits9", "bits is 9; give at most 8"),
        ("noise0", "noise"),
        ("jpeg0", "quality"),
        ("jpeg101", "quality is 101; give at most 100"),
    ],
)
def test_an_unknown_name_lists_near_ones(name: str, suggestion: str) -> None:
    with pytest.raises(UserError, match=suggestion):
        defense(name)


@pytest.mark.parametrize(("subsampling", "code"), [("4:2:0", 2), ("4:2:2", 1), ("4:4:4", 0)])
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
    assert Defense("x").parts == (Identity(), Uniform(), NoMask(), "")


@pytest.mark.parametrize("settings", [{"quality": 0}, {"subsampling": "4:1:1"}])
def test_jpeg_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"(quality|subsampling) is .*; give"):
        Jpeg(**settings)  # type: ignore[arg-type]


def test_random_jpeg_draws_a_quality_for_every_image(concept: Concept) -> None:
    same = concept.images[:1].expand(3, -1, -1, -1).contiguous()
    found = RandomJpeg(10, 90)(same, 0)
    assert len({image.numpy().tobytes() for image in found}) == 3
    qualities = [jpeg(same[:1], q)[0] for q in range(10, 91)]
    assert all(any(torch.equal(image, each) for each in qualities) for image in found)
    assert torch.equal(RandomJpeg(50, 50)(same, 7), Jpeg(50)(same, 0))
    with pytest.raises(UserError, match="lower bound"):
        RandomJpeg(60, 20)
