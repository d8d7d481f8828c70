"""SAM and SAM 2 from folders with tiny random weights, and the command that uses them."""

from pathlib import Path

import numpy as np
import pytest

from safezone.errors import UserError
from safezone.models.segment import Segmenter, load_segmenter
from tiny_sam import write_tiny_sam, write_tiny_sam2


@pytest.fixture(scope="module", params=[write_tiny_sam, write_tiny_sam2])
def segmenter(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Segmenter:
    return load_segmenter(str(request.param(tmp_path_factory.mktemp("sam"))))


@pytest.mark.parametrize("shape", [(48, 96), (90, 60), (64, 64)])
def test_a_mask_has_the_images_size_and_is_the_same_every_time(
    segmenter: Segmenter, shape: tuple[int, int]
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    first, sureness = segmenter(image)
    assert first.shape == shape
    assert first.dtype == np.bool_
    assert np.isfinite(sureness)
    assert np.array_equal(first, segmenter(image)[0])
    middle = (shape[1] // 2, shape[0] // 2)
    assert np.array_equal(first, segmenter(image, middle)[0])
    assert segmenter(image, None, (2, 3, 30, 40))[0].shape == shape
    assert segmenter(image, (8, 9), (2, 3, 30, 40))[0].shape == shape


def test_sam_keeps_the_aspect_and_sam_2_does_not(segmenter: Segmenter) -> None:
    fitted = segmenter._fitted(50, 100)
    side = segmenter.side
    assert fitted == ((side // 2, side) if segmenter.keeps_aspect else (side, side))


def test_other_models_and_folders_are_refused(tmp_path: Path, tiny_model_folder: Path) -> None:
    with pytest.raises(UserError, match="cannot be opened as SAM"):
        load_segmenter(str(tmp_path))
    with pytest.raises(UserError, match="clip_text_model; give a SAM"):
        load_segmenter(str(tiny_model_folder / "text_encoder"))
