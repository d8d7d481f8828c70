"""Pairs of folders of any size."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from safezone.analysis.spectra import read_pairs
from safezone.errors import Notice, UserError
from safezone.images import to_square, write_png


def folder(place: Path, **sizes: tuple[int, int]) -> Path:
    rng = np.random.default_rng(0)
    for name, (height, width) in sizes.items():
        write_png(place / f"{name}.png", rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return place


@pytest.mark.filterwarnings("ignore:.*belong together")  # they are noise
def test_images_of_different_sizes_are_paired_by_name(tmp_path: Path) -> None:
    clean = folder(tmp_path / "a", x=(20, 30), y=(9, 9))
    changed = folder(tmp_path / "b", y=(9, 9), x=(20, 30))
    pairs = list(read_pairs(clean, changed))
    assert [(p.name, tuple(p.clean.shape)) for p in pairs] == [("x", (3, 20, 30)), ("y", (3, 9, 9))]
    assert all(p.clean.shape == p.changed.shape for p in pairs)


@pytest.mark.filterwarnings("ignore:.*belong together")  # they are noise
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


def _folders(tmp_path: Path, order: tuple[int, ...]) -> tuple[Path, Path]:
    """Four pictures, and the same a little changed, in another order of names."""
    clean, changed = tmp_path / "clean", tmp_path / "changed"
    for place, seeds in ((clean, range(4)), (changed, order)):
        place.mkdir()
        for index, seed in enumerate(seeds):
            random = np.random.default_rng(seed)
            picture = random.integers(0, 256, (8, 8, 3)).repeat(8, 0).repeat(8, 1)
            if place is changed:
                picture = picture + np.random.default_rng(9).integers(-16, 17, picture.shape)
            write_png(place / f"{index}.png", picture.clip(0, 255).astype(np.uint8))
    return clean, changed


def test_pairs_that_belong_together_are_read_in_silence(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(read_pairs(*_folders(tmp_path, (0, 1, 2, 3))))) == 4


@pytest.mark.parametrize(
    ("order", "sentence"),
    [
        ((1, 0, 2, 3), "2 of 4 images .*: by content 0 fits 1, 1 fits 0"),
        ((3, 0, 1, 2), "4 of 4 images .*: by content 0 fits 1, 1 fits 2, 2 fits 3, 3 fits 0"),
        ((10, 11, 12, 13), "4 of 4 images .* do the two folders belong together?"),
        ((0, 1, 2, 13), "1 of 4 images .*, 3 for one: do the two folders belong together?"),
    ],
)
def test_folders_that_do_not_belong_together_are_told(
    order: tuple[int, ...], sentence: str, tmp_path: Path
) -> None:
    pairs = read_pairs(*_folders(tmp_path, order))
    with pytest.warns(Notice, match=sentence):
        assert len(list(pairs)) == 4
