"""PSNR and SSIM are scikit-image's."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from safezone import image_metrics as metrics


def images(seed: int, side: int = 24) -> torch.Tensor:
    return torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_psnr_agrees_with_scikit_image() -> None:
    first, second = images(0), images(1)
    expected = [
        peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1.0)
        for a, b in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(metrics.psnr(first, second), expected, rtol=1e-5)


def test_psnr_of_equal_images_is_infinite() -> None:
    assert torch.isinf(metrics.psnr(images(0), images(0))).all()


@pytest.mark.parametrize("strength", [0.02, 0.2, 1.0])
def test_ssim_agrees_with_scikit_image(strength: float) -> None:
    first = images(0)
    second = first.lerp(images(1), strength)
    expected = [
        structural_similarity(
            a.numpy().astype(np.float64),
            b.numpy().astype(np.float64),
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for a, b in zip(first, second, strict=True)
    ]
    result = metrics.ssim(first, second)
    assert result.shape == (3,)
    np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
@pytest.mark.usefixtures("unchecked_shapes")
def test_image_metrics_refuse_integers_and_other_shapes(metric: object) -> None:
    with pytest.raises(ValueError, match="float"):
        metric(images(0).byte(), images(0).byte())  # type: ignore[operator]
    with pytest.raises(ValueError, match="shapes"):
        metric(images(0), images(0)[:1])  # type: ignore[operator]
