"""``safezone mask``: makers, comparison with given masks, previews."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from safezone.cli import main
from safezone.concepts.masks import iou
from safezone.images import read_image, read_mask
from safezone.miniworld import novel_concepts, render
from tiny_sam import write_tiny_sam


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures of a disc with their exact masks."""
    place = tmp_path / "set" / "disc"
    (place / "masks").mkdir(parents=True)
    y, x = np.mgrid[:96, :96]
    for i in range(3):
        disc = (y - 48) ** 2 + (x - 44 - 3 * i) ** 2 < 24**2
        picture = np.where(disc[..., None], (220, 40, 30), (40, 90, 60)).astype(np.uint8)
        Image.fromarray(picture).save(place / f"{i}.png")
        Image.fromarray(disc).save(place / "masks" / f"{i}.png")
    return place


@pytest.mark.parametrize("inner", [True, False])
def test_grabcut_is_compared_with_given_masks_and_nothing_is_written(
    folder: Path, inner: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cv2")
    before = sorted(folder.parent.rglob("*"))
    place = folder if inner else folder.parent
    assert main(["mask", str(place), "--compare", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["mean_iou"] > 0.95
    assert len(answer["folders"]["disc"]) == 3
    assert not answer["refused"]
    assert sorted(folder.parent.rglob("*")) == before


def test_the_preview_marks_the_cells_that_the_mask_keeps(folder: Path) -> None:
    assert main(["mask", str(folder), "--preview", "--size", "128"]) == 0
    preview = read_image(folder / "mask-previews" / "0.png")
    assert preview.shape == (512, 512, 3)
    mask = np.array(Image.fromarray(read_mask(folder / "masks" / "0.png")).resize((512, 512)))
    picture = np.array(Image.fromarray(read_image(folder / "0.png")).resize((512, 512)))
    inside, outside = mask & (picture[..., 0] > 200), ~mask & (picture[..., 0] < 60)
    assert preview[inside].mean() > 0.8 * picture[inside].mean()
    assert preview[outside].mean() < 0.7 * picture[outside].mean()


def test_sam_needs_its_weights_and_makes_masks_with_them(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mask", str(folder), "--source", "sam"]) == 2
    assert "--sam" in capsys.readouterr().err
    sam = write_tiny_sam(tmp_path / "sam")
    found = main(["mask", str(folder), "--source", "sam", "--sam", str(sam), "--compare", "--json"])
    assert found == 0
    answer = json.loads(capsys.readouterr().out)
    assert 0 <= answer["mean_iou"] <= 1  # random weights: only the way is tested


def test_comparing_without_masks_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    assert main(["mask", str(tmp_path), "--compare"]) == 2
    assert "no masks to compare with" in capsys.readouterr().err


@pytest.fixture
def drawn(tmp_path: Path) -> tuple[Path, dict[str, NDArray[np.bool_]]]:
    """Two pictures of the mini world, of which GrabCut gets the fish wrong, and the true masks."""
    pytest.importorskip("cv2")
    place, masks = tmp_path / "drawn", {}
    place.mkdir()
    for novel in novel_concepts():
        if novel.name in ("TwoToneHouse", "PartyFish"):
            picture = render(novel.scenes[0])
            Image.fromarray(picture.image).save(place / f"{novel.name}.png")
            masks[novel.name] = picture.mask >= 128
    return place, masks


def box_around(mask: NDArray[np.bool_]) -> list[int]:
    down, across = np.nonzero(mask)
    return [int(v) for v in (across.min(), down.min(), across.max() + 1, down.max() + 1)]


def agreement(place: Path, masks: dict[str, NDArray[np.bool_]]) -> dict[str, float]:
    """Intersection over union of what was written with the true masks."""
    return {n: iou(read_mask(place / "masks" / f"{n}.png"), mask) for n, mask in masks.items()}


def test_an_unsure_mask_is_told_and_its_hint_makes_it_right(
    drawn: tuple[Path, dict[str, NDArray[np.bool_]]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place, masks = drawn
    assert main(["mask", str(place)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"PartyFish: .*, sureness 0\.\d\d: look at it", said)
    assert re.search(r"TwoToneHouse: .*, sureness 0\.9\d$", said, re.MULTILINE)
    assert "1 of 2 are not sure" in said
    for way_out in ("--preview", "--box", "--point", "--hints", "--source sam"):
        assert way_out in said
    without = agreement(place, masks)
    assert without["TwoToneHouse"] > 0.95 > 0.8 > without["PartyFish"]

    before = (place / "masks" / "TwoToneHouse.png").read_bytes()
    hints = tmp_path / "hints.json"
    hints.write_text(json.dumps({"PartyFish.png": {"box": box_around(masks["PartyFish"])}}))
    assert main(["mask", str(place), "--hints", str(hints)]) == 2
    assert "has masks already; give --overwrite" in capsys.readouterr().err
    assert main(["mask", str(place), "--hints", str(hints), "--overwrite", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer["sureness"]) == {"PartyFish"}  # masks of other images stay
    assert answer["unsure"] == []
    assert (place / "masks" / "TwoToneHouse.png").read_bytes() == before
    assert agreement(place, masks)["PartyFish"] > 0.95


@pytest.mark.parametrize("way", ["--box", "--point"])
def test_a_box_or_a_point_is_for_every_image(tmp_path: Path, way: str) -> None:
    pytest.importorskip("cv2")
    y, x = np.mgrid[:120, :160]
    large, small = np.hypot(y - 60, x - 75) < 32, np.hypot(y - 22, x - 132) < 14
    picture = np.where((large | small)[..., None], (220, 60, 40), (50, 110, 70)).astype(np.uint8)
    for i in range(2):
        Image.fromarray(picture + np.uint8(i)).save(tmp_path / f"{i}.png")
    assert main(["mask", str(tmp_path)]) == 0
    assert agreement(tmp_path, {"0": large, "1": large}) == pytest.approx({"0": 1, "1": 1}, abs=0.1)
    hint = {"--box": ["114", "4", "150", "40"], "--point": ["132", "22"]}[way]
    assert main(["mask", str(tmp_path), way, *hint, "--overwrite", "--size", "64"]) == 0
    assert agreement(tmp_path, {"0": small, "1": small}) == pytest.approx({"0": 1, "1": 1}, abs=0.1)


@pytest.mark.parametrize(
    ("content", "more", "words"),
    [
        ({"9.png": {"point": [4, 4]}}, [], "names 9.png, which is no image of"),
        ({"0.png": {"point": [4]}}, [], "0.png.point"),
        ({"0.png": {"box": [4, 4, 2, 9]}}, [], "the box 4 4 2 9"),
        ({"0.png": {"point": [900, 4]}}, [], "is not in the image of 96 x 96 pixels"),
        ({"0.png": {"spot": [9, 9]}}, [], "0.png.spot"),
        ([], [], "hints.json"),
        ({}, [], "hints.json names no image"),
        ({"0.png": {"point": [4, 4]}}, ["--box", "0", "0", "9", "9"], "without --box and --point"),
        (None, ["--point", "96", "0"], "is not in the image of 96 x 96 pixels"),
        (None, ["--box", "0", "0", "9"], "--box"),
    ],
)
def test_wrong_hints_get_one_sentence_and_nothing_is_written(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: object,
    more: list[str],
    words: str,
) -> None:
    pytest.importorskip("cv2")
    hints = tmp_path / "hints.json"
    if content is not None:
        hints.write_text(json.dumps(content))
        more = ["--hints", str(hints), *more]
    before = {path: path.read_bytes() for path in folder.rglob("*.png")}
    assert main(["mask", str(folder), "--size", "64", "--overwrite", *more]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
    assert {path: path.read_bytes() for path in folder.rglob("*.png")} == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--compare --source given", "--compare changes no masks; leave --source given out"),
        ("--compare --box 0 0 9 9", "--compare changes no masks; leave --box out"),
        ("--compare --preview", "--compare changes no masks; leave --preview out"),
        ("--source given --point 0 0", "--source given changes no masks; leave --point out"),
        ("--source given --overwrite", "--source given changes no masks; leave --overwrite out"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    folder: Path, options: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mask", str(folder), *options.split()]) == 2
    assert words in capsys.readouterr().err


def test_masks_that_are_wrong_or_missing_can_be_made_anew(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cv2")
    true = {f"{i}": read_mask(folder / "masks" / f"{i}.png") for i in range(3)}
    Image.new("L", (9, 9), 255).save(folder / "masks" / "0.png")
    (folder / "masks" / "1.png").unlink()
    command = ["mask", str(folder), "--overwrite", "--size", "64"]
    hints = folder.parent / "hints.json"
    hints.write_text('{"0": {}}')
    assert main([*command, "--hints", str(hints)]) == 2
    assert "1.png has no mask and" in capsys.readouterr().err
    hints.write_text('{"0": {}, "1": {}}')
    assert main([*command, "--hints", str(hints)]) == 0
    assert min(agreement(folder, true).values()) > 0.95
    assert agreement(folder, true)["2"] == 1
    Image.new("L", (96, 96), 255).save(folder / "masks" / "2.png")
    assert main(command) == 0
    assert min(agreement(folder, true).values()) > 0.95


def test_a_wrong_mask_that_stays_is_named_and_not_its_image(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cv2")
    hints = folder.parent / "hints.json"
    hints.write_text('{"0": {}}')
    command = ["mask", str(folder), "--overwrite", "--hints", str(hints)]
    for size, problem in ((9, "has 9 x 9 pixels"), (96, "is empty; paint the object white")):
        Image.new("L", (size, size), 0).save(folder / "masks" / "1.png")
        assert main(command) == 2
        assert f"{folder / 'masks' / '1.png'} {problem}" in capsys.readouterr().err


def test_a_mask_of_a_picture_that_is_elsewhere_is_not_thrown_away(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cv2")
    (folder / "2.png").rename(folder.parent / "2.png")
    before = (folder / "masks" / "2.png").read_bytes()
    assert main(["mask", str(folder), "--overwrite"]) == 2
    assert "2.png is no mask of these images; move it out" in capsys.readouterr().err
    assert (folder / "masks" / "2.png").read_bytes() == before
    (folder / "masks" / "2.png").unlink()
    (folder / "masks" / "1.png").rename(folder / "masks" / "1-masklabel.png")
    assert main(["mask", str(folder), "--overwrite"]) == 0
    assert sorted(path.name for path in (folder / "masks").iterdir()) == ["0.png", "1.png"]
