"""AdvClean beside OpenCV's own filters, on real photographs where there are some."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from safezone.defenses.advclean import AdvClean, GuidedFilter, bilateral
from safezone.errors import UserError
from safezone.images import read_image, to_square

HERE = Path(__file__).resolve()
CANDIDATES = [parent / "shared" / "data" / "dreambooth" for parent in HERE.parents]


def photographs(size: int) -> list[NDArray[np.uint8]]:
    """Three of the folder beside the project, else scikit-image's; skips without either."""
    folder = next((each for each in CANDIDATES if each.is_dir()), None)
    if folder is not None:
        files = [
            sorted(each.glob("*.jpg"))[0] for each in sorted(folder.iterdir()) if each.is_dir()
        ]
        return [to_square(read_image(file), size) for file in files[:3]]
    data = pytest.importorskip("skimage.data")
    return [to_square(np.asarray(getattr(data, n)()), size) for n in ("astronaut", "chelsea")]


def psnr(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    error = np.square(first.astype(np.float64) - second).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-12)))


def test_it_is_opencvs_chain_of_filters_borders_included() -> None:
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "ximgproc"):
        pytest.skip("this OpenCV has no contributed filters")
    for photograph in photographs(128):
        levels = photograph.astype(np.float32)
        for _ in range(64):
            levels = cv2.bilateralFilter(levels, 5, 8, 8)
        for _ in range(4):
            levels = cv2.ximgproc.guidedFilter(photograph, levels, 4, 16)
        expected = levels.clip(0, 255).astype(np.uint8)
        found = AdvClean()(torch.from_numpy(photograph).permute(2, 0, 1)[None], 0)
        ours = found[0].permute(1, 2, 0).numpy()
        assert psnr(ours, expected) >= 45
        inner = slice(8, -8)
        rim = np.ones(ours.shape[:2], dtype=bool)
        rim[inner, inner] = False
        assert psnr(ours[rim], expected[rim]) >= 45
        assert psnr(ours, photograph) < 45  # it did something


def test_one_bilateral_pass_is_opencvs() -> None:
    cv2 = pytest.importorskip("cv2")
    for photograph in photographs(64):
        levels = photograph.astype(np.float32)
        found = bilateral(torch.from_numpy(levels).permute(2, 0, 1)[None])
        expected = cv2.bilateralFilter(levels, 5, 8, 8)
        assert np.abs(found[0].permute(1, 2, 0).numpy() - expected).max() < 1e-2


def test_a_flat_image_stays_and_an_edge_is_kept() -> None:
    flat = torch.full((1, 3, 32, 32), 77, dtype=torch.uint8)
    assert int((AdvClean()(flat, 0).int() - 77).abs().max()) <= 1  # truncated, as the original
    edge = flat.clone()
    edge[..., 16:] = 240
    assert int((AdvClean()(edge, 0).int() - edge.int()).abs().max()) <= 1


def test_a_guide_gives_itself_back_up_to_eps() -> None:
    photograph = np.random.default_rng(0).integers(0, 256, (3, 24, 24), dtype=np.uint8)
    found = GuidedFilter(photograph, eps=1e-6)(photograph[1].astype(np.float64))
    assert np.abs(found - photograph[1]).max() < 1e-3


def test_64_passes_at_512_pixels_take_seconds() -> None:
    image = torch.randint(0, 256, (1, 3, 512, 512), dtype=torch.uint8)
    started = time.process_time()
    AdvClean(bilateral_passes=4, guided_passes=1)(image, 0)
    assert (time.process_time() - started) * 16 < 60


def test_negative_passes_are_refused() -> None:
    with pytest.raises(UserError, match="passes"):
        AdvClean(bilateral_passes=-1)
