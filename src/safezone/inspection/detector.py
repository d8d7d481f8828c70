"""From features to a score, a yes or no, what kind of poison it looks like, and what to do."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np
from pydantic import TypeAdapter

from safezone.errors import UserError

PoisonKind: TypeAlias = Literal["fine", "broad", "nothing"]
KIND_TEXTS: Final[Mapping[PoisonKind, str]] = {
    "fine": "high-frequency noise",
    "broad": "low-frequency tint or pattern",
    "nothing": "nothing",
}
ADVICE: Final[Mapping[PoisonKind, tuple[str, str]]] = {
    "fine": ("szt", "jpeg+t600"),
    "broad": ("lm+t600", "t600"),
    "nothing": ("nominal", "nominal"),
}
"""What to train with, where there are masks and where there are none: JPEG takes high frequencies
only; the timesteps and the mask help against both."""
FlagRate: TypeAlias = tuple[float, float, float, int]
"""A share of clean images that are flagged, its 95% interval, and of how many images."""

RATE: Final = 0.05
"""The share of clean development images, or of --clean, that thresholds let be flagged."""
FEWEST: Final = 19
"""Clean images from which a threshold can let through ``RATE`` of them: 1 / (n + 1)."""
FARTHEST: Final = 4
"""Standard deviations from the centre at which a feature's say ends."""
_FINE: Final = frozenset({"fine gain", "fine loss", "blurred", "compressed"})
_BROAD: Final = frozenset({"broad gain", "broad loss", "latents"})
"""The features of a model that speak of high and of low frequencies."""
DETECTORS: Final = Path(__file__).parent / "detectors.json"


@dataclass(frozen=True)
class Detector:
    """A logistic regression on features and their squares, with a threshold and what it costs.

    With z = (feature - centre) / scale, kept within +-4, the score is the sigmoid of
    bias + sum(weight z + square z^2). ``rates``: how many of the clean images that no threshold was
    chosen on are flagged, by what happened to them. ``model``: the fingerprint of the model whose
    features it was made for; None for features of pixels alone.
    """

    features: tuple[str, ...]
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    weight: tuple[float, ...]
    square: tuple[float, ...]
    bias: float
    threshold: float
    rates: Mapping[str, FlagRate]
    model: str | None = None

    def score(self, features: Mapping[str, float]) -> float:
        """In [0, 1]; KeyError where a feature is missing."""
        total = self.bias + sum(self._says(features).values())
        return 1 / (1 + math.exp(-total))

    def kind(self, features: Mapping[str, float]) -> PoisonKind:
        """Which frequencies the model's features speak for; nothing below the threshold.

        Pixels alone show high frequencies only.
        """
        if self.score(features) <= self.threshold:
            return "nothing"
        says = self._says(features)
        fine, broad = (
            sum(value for name, value in says.items() if name in names) for names in (_FINE, _BROAD)
        )
        return "broad" if broad > fine else "fine"

    def _says(self, features: Mapping[str, float]) -> dict[str, float]:
        values = np.array([features[name] for name in self.features])
        z = np.clip((values - self.centre) / np.array(self.scale), -FARTHEST, FARTHEST)
        return dict(zip(self.features, z * self.weight + z**2 * self.square, strict=True))

    def for_clean(self, clean: Sequence[Mapping[str, float]]) -> "Detector":
        """The same weights about other images: centre, scale and threshold are of clean ones.

        About ``RATE`` of further images of their kind are flagged, and a little more of few images:
        the threshold is the score of rank ceil((1 - RATE)(n + 1)) of the same images that centre
        and scale are of. Raises UserError for fewer than ``FEWEST``.
        """
        if len(clean) < FEWEST:
            raise UserError(
                f"{len(clean)} clean images are too few to choose a threshold on; give --clean a "
                f"folder of at least {FEWEST}"
            )
        values = np.array([[each[name] for name in self.features] for each in clean])
        centre = np.median(values, axis=0)
        spread = np.median(np.abs(values - centre), axis=0) / 0.6745
        spread = np.maximum(spread, 0.1 * np.array(self.scale))
        moved = replace(self, centre=tuple(centre.tolist()), scale=tuple(spread.tolist()))
        scores = sorted(moved.score(each) for each in clean)
        rank = min(math.ceil((1 - RATE) * (len(scores) + 1)), len(scores))
        return replace(moved, threshold=scores[rank - 1], rates={}, model=None)


def detectors(path: Path = DETECTORS) -> Mapping[str, Detector]:
    """Those that ship: ``mini`` for the built-in world, ``photographs`` for pixels alone."""
    return TypeAdapter(dict[str, Detector]).validate_json(path.read_bytes())


@dataclass(frozen=True)
class Finding:
    """What is told of one image. ``score``: in [0, 1]; ``flagged``: above the threshold."""

    name: str
    score: float
    flagged: bool
    kind: PoisonKind
    features: Mapping[str, float]


def findings(
    detector: Detector, features: Mapping[str, Mapping[str, float]]
) -> tuple[Finding, ...]:
    """One for each image, in the order of the files."""
    result = []
    for name, each in features.items():
        score = detector.score(each)
        flagged = score > detector.threshold
        result.append(Finding(name, score, flagged, detector.kind(each), each))
    return tuple(result)


def common_kind(found: Sequence[Finding]) -> PoisonKind:
    """The kind of most flagged images; nothing where none is."""
    kinds = [each.kind for each in found if each.flagged]
    return max(("fine", "broad"), key=kinds.count) if kinds else "nothing"


def personalize_command(folder: Path, kind: PoisonKind, model: str, *, masks: bool) -> str:
    """The command that trains on the folder, with ``masks`` or without, against that kind."""
    defense = ADVICE[kind][0 if masks else 1]
    words = ["safezone", "personalize", str(folder), "--defense", defense, "--model", model]
    return shlex.join([*words, "--out", f"runs/{folder.resolve().name}"])
