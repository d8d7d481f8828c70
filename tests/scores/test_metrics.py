"""Metrics against closed forms and against independent implementations."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from safezone.scores import metrics

FEATURES = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
OTHER = torch.randn(7, 5, generator=torch.Generator().manual_seed(1)) + 0.5


def test_cosine_of_all_pairs() -> None:
    result = metrics.cosine_similarity(FEATURES, OTHER)
    a, b = FEATURES.numpy(), OTHER.numpy()
    expected = a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_similarity_ignores_the_scale_of_features(scale: float) -> None:
    torch.testing.assert_close(
        metrics.similarity(FEATURES * scale, OTHER), metrics.similarity(FEATURES, OTHER)
    )


def test_similarity_is_one_number_a_generated_image() -> None:
    pairs = metrics.cosine_similarity(FEATURES, OTHER)
    torch.testing.assert_close(metrics.similarity(FEATURES, OTHER, "mean"), pairs.mean(1))
    torch.testing.assert_close(metrics.similarity(FEATURES, OTHER, "max"), pairs.max(1).values)


def test_a_zero_feature_is_similar_to_nothing() -> None:
    assert metrics.similarity(torch.zeros(1, 5), OTHER).tolist() == [0.0]


@pytest.mark.parametrize(("cosine", "score"), [(-0.4, 0.0), (0.0, 0.0), (0.2, 0.5), (1.0, 2.5)])
def test_clip_score(cosine: float, score: float) -> None:
    assert float(metrics.clip_score(torch.tensor([cosine]))[0]) == pytest.approx(score)


def classical_frechet(a: np.ndarray, b: np.ndarray) -> float:
    covariance_a, covariance_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(covariance_a @ covariance_b)
    shift = a.mean(0) - b.mean(0)
    return float(shift @ shift + np.trace(covariance_a + covariance_b - 2 * np.real(root)))


def test_frechet_agrees_with_the_matrix_square_root() -> None:
    a, b = FEATURES.double(), torch.cat([OTHER, OTHER * 1.3 + 0.2]).double()
    expected = classical_frechet(a.numpy(), b.numpy())
    assert float(metrics.frechet_distance(a, b)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "m", "width"), [(4, 5, 64), (5, 200, 64), (200, 5, 64), (80, 80, 8)])
def test_frechet_with_more_and_fewer_rows_than_dimensions(n: int, m: int, width: int) -> None:
    generator = torch.Generator().manual_seed(n + m)
    a = torch.randn(n, width, generator=generator, dtype=torch.float64)
    b = torch.randn(m, width, generator=generator, dtype=torch.float64) * 0.7 + 0.1
    a_full, b_full = (x - x.mean(0) for x in (a, b))
    # The trace of the root through the symmetric form S_a^(1/2) S_b S_a^(1/2).
    values, vectors = torch.linalg.eigh(a_full.T @ a_full / (n - 1))
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    inner = torch.linalg.eigvalsh(root @ (b_full.T @ b_full / (m - 1)) @ root)
    expected = (
        (a.mean(0) - b.mean(0)).square().sum()
        + a.var(0).sum()
        + b.var(0).sum()
        - 2 * inner.clamp(min=0).sqrt().sum()
    )
    assert float(metrics.frechet_distance(a, b)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("rows", [2, 4, 12])
def test_frechet_of_a_set_with_itself_is_zero(rows: int) -> None:
    assert float(metrics.frechet_distance(FEATURES[:rows], FEATURES[:rows])) < 1e-6


def test_frechet_of_shifted_features_is_the_squared_shift() -> None:
    assert float(metrics.frechet_distance(FEATURES, FEATURES + 2)) == pytest.approx(20, rel=1e-5)


def test_kernel_distance_is_the_double_sum() -> None:
    a, b = FEATURES.double().numpy(), OTHER.double().numpy()

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 5 + 1) ** 3)

    def within(rows: np.ndarray) -> float:
        n = len(rows)
        pairs = [kernel(rows[i], rows[j]) for i in range(n) for j in range(n) if i != j]
        return float(np.mean(pairs))

    expected = within(a) + within(b) - 2 * np.mean([kernel(x, y) for x in a for y in b])
    assert float(metrics.kernel_distance(FEATURES, OTHER)) == pytest.approx(expected, rel=1e-6)


def test_kernel_distance_is_unbiased() -> None:
    generator = torch.Generator().manual_seed(5)
    draws = torch.randn(300, 2, 4, 6, generator=generator)
    values = np.array([float(metrics.kernel_distance(pair[0], pair[1])) for pair in draws])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(len(values))
    assert values.min() < 0


@pytest.mark.parametrize("distance", [metrics.frechet_distance, metrics.kernel_distance])
def test_distances_need_two_rows_on_both_sides(distance: object) -> None:
    with pytest.raises(ValueError, match="two rows"):
        distance(FEATURES[:1], OTHER)  # type: ignore[operator]
