"""``safezone mask``: makers, comparison with given masks, previews."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from safezone.cli import main
from safezone.images import read_image, read_mask
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
