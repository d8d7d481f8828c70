"""Concepts: folders that are read, refused and written."""

import errno
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from safezone.concepts import Concept, image_files, load_concept, save_concept
from safezone.concepts.concept import default_class_word, default_placeholder
from safezone.errors import UserError


def picture(path: Path, height: int = 32, width: int = 32, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def mask(path: Path, height: int = 32, width: int = 32, value: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((height, width), dtype=np.uint8)
    pixels[height // 4 : height // 2, width // 4 :] = 255
    Image.fromarray(pixels if value is None else np.full_like(pixels, value)).save(path)


def duck(folder: Path, count: int = 3, masks: bool = True) -> Path:
    for index in range(count):
        picture(folder / f"{index}.png", seed=index)
        if masks:
            mask(folder / "masks" / f"{index}.png")
    return folder


def small_concept(**changes: object) -> Concept:
    generator = torch.Generator().manual_seed(0)
    concept = Concept(
        name="Duck",
        class_word="toy",
        images=torch.randint(0, 256, (3, 3, 16, 16), generator=generator, dtype=torch.uint8),
        masks=torch.rand(3, 16, 16, generator=generator) < 0.5,
        image_names=("a", "b2", "b10"),
    )
    return replace(concept, **changes)  # type: ignore[arg-type]


def test_a_folder_becomes_a_concept(tmp_path: Path) -> None:
    concept = load_concept(duck(tmp_path / "duck_toy"), 16)
    assert (concept.name, concept.class_word, concept.placeholder) == (
        "duck_toy", "duck toy", "<duck-toy>",
    )  # fmt: skip
    assert concept.images.shape == (3, 3, 16, 16)
    assert concept.images.dtype == torch.uint8
    assert concept.masks is not None
    assert concept.masks.shape == (3, 16, 16)
    assert concept.masks[0, 4:8, 4:].all()
    assert concept.masks.sum() == 3 * 4 * 12
    assert concept.pixels().max() <= 1


def test_files_are_sorted_as_people_count(tmp_path: Path) -> None:
    for name in ("img10.png", "img2.jpg", "IMG1.PNG", "a.webp", "b.jpeg", "c.bmp", "d.tiff"):
        picture(tmp_path / name)
    names = load_concept(tmp_path, 32).image_names
    assert names == ("a", "b", "c", "d", "IMG1", "img2", "img10")


def test_other_peoples_files_are_passed_over(tmp_path: Path) -> None:
    duck(tmp_path, masks=False)
    picture(tmp_path / "previews" / "0.png")
    for name in (
        ".hidden.png",
        "README.md",
        "LICENSE",
        "LICENSE.txt",
        "metadata.json",
        "Thumbs.db",
    ):
        (tmp_path / name).write_text("{}")
    with pytest.warns(UserWarning, match="left out") as caught:
        concept = load_concept(tmp_path, 32)
    told = [str(each.message).split(" is left out")[0] for each in caught]
    assert told == [str(tmp_path / ".hidden.png"), str(tmp_path / "previews")]
    assert concept.image_names == ("0", "1", "2")
    assert concept.masks is None


@pytest.mark.parametrize(
    ("arguments", "written", "expected"),
    [
        ({}, {}, ("duck_2", "duck", "<duck-2>")),
        ({}, {"name": "Bill"}, ("Bill", "bill", "<bill>")),
        ({}, {"class_word": "bird", "placeholder": "<b>"}, ("duck_2", "bird", "<b>")),
        ({"class_word": "toy"}, {"class_word": "bird"}, ("duck_2", "toy", "<duck-2>")),
        ({"placeholder": "sks"}, {"placeholder": "<b>"}, ("duck_2", "duck", "sks")),
    ],
)
def test_words_come_from_arguments_then_file_then_folder(
    arguments: dict[str, str],
    written: dict[str, str],
    expected: tuple[str, str, str],
    tmp_path: Path,
) -> None:
    folder = duck(tmp_path / "duck_2", masks=False)
    (folder / "concept.json").write_text(json.dumps(written))
    concept = load_concept(folder, 32, **arguments)  # type: ignore[arg-type]
    assert (concept.name, concept.class_word, concept.placeholder) == expected


@pytest.mark.parametrize(
    ("name", "class_word", "placeholder"),
    [
        ("BlueElephant", "blueelephant", "<blueelephant>"),
        ("dog6", "dog", "<dog6>"),
        ("duck2_toy", "duck2 toy", "<duck2-toy>"),
        ("rc car", "rc car", "<rc-car>"),
        ("2024", "2024", "<2024>"),
        ("10_toy", "toy", "<toy>"),
        ("3_sks dog", "sks dog", "<sks-dog>"),
        ("10_20", "10", "<10-20>"),
        ("Größe_{x}", "größe x", "<größe-x>"),
        ("___", "object", "<concept>"),
    ],
)
def test_default_words(name: str, class_word: str, placeholder: str) -> None:
    assert default_class_word(name) == class_word
    assert default_placeholder(name) == placeholder


def gone(folder: Path) -> None:
    for path in folder.glob("*.png"):
        path.unlink()


def with_note(folder: Path) -> None:
    (folder / "notes.txt").write_text("a duck")


def with_two_endings(folder: Path) -> None:
    picture(folder / "1.jpg")


def with_text_as_image(folder: Path) -> None:
    (folder / "1.png").write_text("a duck")


def with_mask_too_small(folder: Path) -> None:
    mask(folder / "masks" / "1.png", 32, 30)


def with_empty_mask(folder: Path) -> None:
    mask(folder / "masks" / "1.png", value=0)


def without_one_mask(folder: Path) -> None:
    (folder / "masks" / "1.png").unlink()


def with_two_masks_of_one_image(folder: Path) -> None:
    mask(folder / "masks" / "1.jpg")


def with_object_off_centre(folder: Path) -> None:
    picture(folder / "1.png", 32, 96)
    pixels = np.zeros((32, 96), dtype=np.uint8)
    pixels[:, :20] = 255
    Image.fromarray(pixels).save(folder / "masks" / "1.png")


def with_broken_json(folder: Path) -> None:
    (folder / "concept.json").write_text("{name: duck}")


def with_wrong_json(folder: Path) -> None:
    (folder / "concept.json").write_text('{"class_word": 3}')


def with_spaced_placeholder(folder: Path) -> None:
    (folder / "concept.json").write_text('{"placeholder": "my duck"}')


def with_escaping_name(folder: Path) -> None:
    (folder / "concept.json").write_text('{"name": "../../duck"}')


BAD_FOLDERS = [
    (gone, r"duck holds no images; put 3 to 15"),
    (with_note, r"notes\.txt is not an image .*move it out"),
    (with_two_endings, r"1\.jpg and 1\.png in .*duck differ only in their ending; rename"),
    (with_text_as_image, r"1\.png is not an image that can be read"),
    (with_mask_too_small, r"masks/1\.png has 30 x 32 pixels but its image 32 x 32; make"),
    (with_empty_mask, r"masks/1\.png is empty; paint"),
    (without_one_mask, r"masks/1\.png is missing while .*masks has others; add it"),
    (with_two_masks_of_one_image, r"masks of one image; remove one"),
    (with_object_off_centre, r"masks/1\.png is empty in the image's centre square .*crop"),
    (with_broken_json, r"concept\.json is not valid JSON .*make it again"),
    (with_wrong_json, r"concept\.json must be an object whose name, class_word, placeholder"),
    (with_spaced_placeholder, r"'my duck' holds a space, brace or slash; change"),
    (with_escaping_name, r"'\.\./\.\./duck' cannot be the name of a file; change"),
]


@pytest.mark.parametrize(("spoil", "sentence"), BAD_FOLDERS)
def test_bad_folders_get_one_sentence(
    spoil: Callable[[Path], None], sentence: str, tmp_path: Path
) -> None:
    folder = duck(tmp_path / "duck")
    spoil(folder)
    with pytest.raises(UserError, match=sentence) as told:
        load_concept(folder, 32)
    assert "\n" not in str(told.value)


def test_missing_folder_file_as_folder_and_size_are_told(tmp_path: Path) -> None:
    duck(tmp_path, masks=False)
    with pytest.raises(UserError, match="nowhere does not exist; give a folder"):
        load_concept(tmp_path / "nowhere", 32)
    with pytest.raises(UserError, match=r"0\.png is not a folder; give a folder"):
        image_files(tmp_path / "0.png")
    with pytest.raises(UserError, match="size 0 is not positive"):
        load_concept(tmp_path, 0)


def test_too_few_images_are_told(tmp_path: Path) -> None:
    folder = duck(tmp_path / "duck", count=2, masks=False)
    assert len(load_concept(folder, 32, min_images=2).images) == 2
    with pytest.raises(UserError, match="holds 2 images and 3 are needed; give 3 to 15"):
        load_concept(folder, 32, min_images=3)


@pytest.mark.parametrize("empty_folder", [False, True])
def test_required_masks_are_asked_for(empty_folder: bool, tmp_path: Path) -> None:
    folder = duck(tmp_path / "duck", masks=False)
    if empty_folder:
        (folder / "masks").mkdir()
    assert load_concept(folder, 32).masks is None
    with pytest.raises(UserError, match=r"has no masks; make them with `safezone mask .*duck`"):
        load_concept(folder, 32, require_masks=True)


def too_many(folder: Path) -> None:
    duck(folder, count=16)


def small(folder: Path) -> None:
    picture(folder / "0.png", 20, 20)
    mask(folder / "masks" / "0.png", 20, 20)


def full_mask(folder: Path) -> None:
    mask(folder / "masks" / "0.png", value=255)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (too_many, "holds 16 images; 3 to 15 are usual"),
        (small, r"0\.png is smaller than 32 px and is enlarged"),
        (full_mask, r"0\.png covers the whole image"),
    ],
)
def test_odd_folders_are_warned_of(
    change: Callable[[Path], None], sentence: str, tmp_path: Path
) -> None:
    folder = duck(tmp_path / "duck")
    change(folder)
    with pytest.warns(UserWarning, match=sentence) as caught:
        concept = load_concept(folder, 32)
    assert len(caught) == 1
    assert concept.images.shape[-2:] == (32, 32)


@pytest.mark.parametrize(("height", "width"), [(40, 60), (61, 40), (33, 33), (16, 31)])
@pytest.mark.filterwarnings("ignore:.*enlarged")
def test_masks_lie_on_their_objects(height: int, width: int, tmp_path: Path) -> None:
    """A white object on black with its own shape as the mask stays in place."""
    pixels = np.zeros((height, width), dtype=np.uint8)
    pixels[height // 3 :, width // 3 : width // 2 + 3] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "masks" / "a.png")
    concept = load_concept(tmp_path, 32)
    assert concept.masks is not None
    differs = (concept.images[0, 0] >= 128) != concept.masks[0]
    assert differs.float().mean() <= 0.04


@pytest.mark.parametrize("masked", [True, False])
def test_saved_concepts_are_read_back_exactly(masked: bool, tmp_path: Path) -> None:
    concept = small_concept(placeholder="<q>") if masked else small_concept(masks=None)
    save_concept(concept, tmp_path / "out", extra={"poison": {"eps": 0.1}}, png_text={"by": "me"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = load_concept(tmp_path / "out", 16)
    assert again.content_key() == concept.content_key()
    assert json.loads((tmp_path / "out" / "concept.json").read_text())["poison"] == {"eps": 0.1}
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.info["by"] == "me"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_save_does_not_overwrite(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    save_concept(small_concept(), tmp_path / "out")  # an empty folder may be filled
    with pytest.raises(UserError, match="out exists and is not empty; choose another place"):
        save_concept(small_concept(), tmp_path / "out")


def test_extra_may_not_hide_the_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="class_word"):
        save_concept(small_concept(), tmp_path / "out", extra={"class_word": "cat"})
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.replace, []

    def full_at_third(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "replace", full_at_third)
    with pytest.raises(UserError, match=r"cannot write .*out.\w+\.png \(No space left on device\)"):
        save_concept(small_concept(), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def flipped(concept: Concept) -> Concept:
    images = concept.images.clone()
    images[0, 0, 0, 0] ^= 1
    return concept.with_images(images)


CHANGES: list[Callable[[Concept], Concept]] = [
    flipped,
    lambda c: replace(c, name="Goose"),
    lambda c: replace(c, class_word="bird"),
    lambda c: replace(c, placeholder="<goose>"),
    lambda c: replace(c, masks=None),
    lambda c: replace(c, masks=~c.masks),  # type: ignore[operator]
    lambda c: replace(c, image_names=("a", "b2", "c")),
]


@pytest.mark.parametrize("change", CHANGES)
def test_content_key_tells_every_change(change: Callable[[Concept], Concept]) -> None:
    assert small_concept().content_key() == small_concept().content_key()
    assert change(small_concept()).content_key() != small_concept().content_key()


INVALID: list[dict[str, object]] = [
    {"images": torch.zeros(3, 3, 16, 16)},
    {"images": torch.zeros(3, 3, 16, 8, dtype=torch.uint8)},
    {"masks": torch.zeros(3, 16, 16)},
    {"masks": torch.zeros(2, 16, 16, dtype=torch.bool)},
    {"image_names": ("a", "b")},
    {"image_names": ("a", "a", "b")},
    {"image_names": ("a", "b", "../c")},
    {"image_names": ("a", "b", ".c")},
    {"name": ""},
    {"placeholder": "a {}"},
    {"class_word": " "},
]


@pytest.mark.parametrize("change", INVALID)
def test_parts_that_do_not_fit_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        small_concept(**change)


def test_with_images_keeps_the_shape() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 16, 16\)"):
        small_concept().with_images(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
