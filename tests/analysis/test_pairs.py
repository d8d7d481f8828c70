"""Pairs of folders of any size."""

from pathlib import Path

import numpy as np
import pytest

from safezone.analysis.pairs import read_folder, read_pairs
from safezone.errors import UserError
from safezone.images import to_square, write_png


def folder(place: Path, **sizes: tuple[int, int]) -> Path:
    rng = np.random.default_rng(0)
    for name, (height, width) in sizes.items():
        write_png(place / f"{name}.png", rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return place


def test_images_of_different_sizes_are_paired_by_name(tmp_path: Path) -> None:
    clean = folder(tmp_path / "a", x=(20, 30), y=(9, 9))
    changed = folder(tmp_path / "b", y=(9, 9), x=(20, 30))
    pairs = list(read_pairs(clean, changed))
    assert [(p.name, tuple(p.clean.shape)) for p in pairs] == [("x", (3, 20, 30)), ("y", (3, 9, 9))]
    assert all(p.clean.shape == p.changed.shape for p in pairs)
    assert [tuple(image.shape) for image in read_folder(clean)] == [(3, 20, 30), (3, 9, 9)]


def test_a_clean_image_is_brought_to_its_poisoned_square(tmp_path: Path) -> None:
    clean = folder(tmp_path / "a", x=(40, 60))
    (pair,) = read_pairs(clean, folder(tmp_path / "b", x=(16, 16)))
    rng = np.random.default_rng(0)
    expected = to_square(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8), 16)
    assert (pair.clean.permute(1, 2, 0).numpy() == expected).all()


@pytest.mark.parametrize(
    ("sizes", "word"), [({"x": (9, 9)}, "called y"), ({"x": (9, 9), "y": (8, 7)}, "8")]
)
def test_folders_that_do_not_fit_are_told(
    tmp_path: Path, sizes: dict[str, tuple[int, int]], word: str
) -> None:
    clean = folder(tmp_path / "a", x=(9, 9), y=(9, 9))
    with pytest.raises(UserError, match=word):
        list(read_pairs(clean, folder(tmp_path / "b", **sizes)))
