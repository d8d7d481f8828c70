"""How a detector of `safezone inspect` is fitted on features, and how well it does on others."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import binomtest

from safezone.inspection.detector import FARTHEST, RATE, Detector, FlagRate
from safezone.models import Model
from safezone.results.statistics import mean_interval

_PENALTY: Final = {"mini": 0.001, "photographs": 1.0}
"""Of squared weights; chosen on the development pictures, a fold of objects left out in turn."""
FOLDS: Final = 6

Rows: TypeAlias = Sequence[Mapping[str, float]]


@dataclass(frozen=True, eq=False)
class Cell:
    """Features of images that went one way. ``noise``: clean images with noise added.

    ``objects``: of which object each image is. ``high``: the share of a poison's change that lies
    at high frequencies.
    """

    way: str
    rows: Rows
    objects: tuple[str, ...]
    noise: bool = False
    high: tuple[float, ...] = ()


def _values(rows: Rows, features: Sequence[str]) -> NDArray[np.float64]:
    return np.array([[row[name] for name in features] for row in rows])


def fit(clean: Sequence[Cell], poisons: Sequence[Cell], model: Model | None) -> Detector:
    """A logistic regression in which every cell counts alike, and both sides do.

    The threshold lets ``RATE`` of the clean images be flagged in the version of which most are,
    each image scored by a regression that has not seen its object. Images with added noise are left
    out of the threshold, and out of the regression where there is no model to tell noise by.
    """
    if model is None:
        clean = [cell for cell in clean if not cell.noise]
    detector = _regression(clean, poisons, model)
    objects = sorted({key for cell in clean for key in cell.objects})
    scores: dict[str, list[float]] = {cell.way: [] for cell in clean if not cell.noise}
    for fold in range(FOLDS):
        left_out = set(objects[fold::FOLDS])
        if not left_out:
            continue
        blind = _regression(
            [_without(cell, left_out) for cell in clean],
            [_without(cell, left_out) for cell in poisons],
            model,
        )
        for cell in clean:
            if not cell.noise:
                seen = _without(cell, set(objects) - left_out)
                scores[cell.way] += [blind.score(row) for row in seen.rows]
    limits = [np.quantile(values, 1 - RATE) for values in scores.values()]
    return replace(detector, threshold=float(max(limits)))


def _without(cell: Cell, objects: Collection[str]) -> Cell:
    kept = [i for i, key in enumerate(cell.objects) if key not in objects]
    rows, keys = [cell.rows[i] for i in kept], tuple(cell.objects[i] for i in kept)
    return replace(cell, rows=rows, objects=keys, high=())


def _regression(clean: Sequence[Cell], poisons: Sequence[Cell], model: Model | None) -> Detector:
    features = tuple(clean[0].rows[0])
    centre = _values(clean[0].rows, features).mean(axis=0)
    everything = np.concatenate([_values(cell.rows, features) for cell in (*clean, *poisons)])
    scale = everything.std(axis=0) + 1e-3
    inputs, signs, weights = [], [], []
    for cells, sign in ((clean, -1.0), (poisons, 1.0)):
        for cell in cells:
            z = np.clip((_values(cell.rows, features) - centre) / scale, -FARTHEST, FARTHEST)
            inputs.append(np.concatenate([z, z**2, np.ones((len(z), 1))], axis=1))
            signs.append(np.full(len(z), sign))
            weights.append(np.full(len(z), 1 / (len(cells) * max(1, len(z)))))
    x, y, share = np.concatenate(inputs), np.concatenate(signs), np.concatenate(weights)
    penalty = _PENALTY["photographs" if model is None else "mini"]

    def loss(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margins = y * (x @ w)
        value = (share * np.logaddexp(0, -margins)).sum() + penalty * (w[:-1] ** 2).sum()
        slope = x.T @ (-share * y * expit(-margins))
        slope[:-1] += 2 * penalty * w[:-1]
        return float(value), slope

    w = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x
    count = len(features)
    return Detector(
        features,
        tuple(centre.tolist()),
        tuple(scale.tolist()),
        tuple(w[:count].tolist()),
        tuple(w[count:-1].tolist()),
        float(w[-1]),
        0.5,
        {},
        None if model is None else model.fingerprint(),
    )


def _scores(detector: Detector, cell: Cell) -> NDArray[np.float64]:
    return np.array([detector.score(row) for row in cell.rows])


def rate(detector: Detector, cell: Cell) -> FlagRate:
    """How many images of a cell are flagged, with Clopper and Pearson's interval."""
    count, total = int((_scores(detector, cell) > detector.threshold).sum()), len(cell.rows)
    interval = binomtest(count, total).proportion_ci()
    return (count / total, float(interval.low), float(interval.high), total)


def auc(detector: Detector, poison: Cell, clean: Cell) -> str:
    """The area under the curve with its interval over objects, in words."""
    below = np.sort(_scores(detector, clean))
    ranks = [
        (np.searchsorted(below, s, "left") + np.searchsorted(below, s, "right")) / (2 * len(below))
        for s in _scores(detector, poison)
    ]
    by_object: dict[str, dict[int, float]] = {}
    for image, (key, rank) in enumerate(zip(poison.objects, ranks, strict=True)):
        by_object.setdefault(key, {})[image] = float(rank)
    mean, low, high = mean_interval(by_object)
    return f"{mean:.2f} [{max(low, 0):.2f}, {min(high, 1):.2f}]"
