"""What a picture shows: an object (its identity), its pose, the light and the background."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from safezone.miniworld.extras import EARS, EMBLEMS, HATS, TONES

EXTRAS: Final[dict[str, tuple[str, ...]]] = {
    "emblem": tuple(EMBLEMS),
    "hat": tuple(HATS),
    "ears": tuple(EARS),
    "tone": TONES,
}
"""The parts that an object may have, and the kinds of each."""


@dataclass(frozen=True)
class Extra:
    """One part: its kind (a word of `EXTRAS`) and its own colour."""

    kind: str
    color: str


@dataclass(frozen=True)
class ObjectSpec:
    """The identity of an object: all that stays the same from picture to picture.

    `second_color` is None exactly when the pattern is plain. `tone` is the other half of a
    two-tone body.
    """

    shape: str
    color: str
    pattern: str = "plain"
    second_color: str | None = None
    emblem: Extra | None = None
    hat: Extra | None = None
    ears: Extra | None = None
    tone: Extra | None = None

    def __post_init__(self) -> None:
        if (self.pattern == "plain") != (self.second_color is None):
            raise ValueError(f"pattern {self.pattern!r} with second colour {self.second_color!r}")

    @property
    def extras(self) -> frozenset[str]:
        """Names of the parts which the object has."""
        return frozenset(name for name in EXTRAS if getattr(self, name) is not None)

    @property
    def combination(self) -> tuple[str, str, frozenset[str]]:
        """What makes two objects alike enough to keep one of them out of the training data."""
        return self.shape, self.color, self.extras


@dataclass(frozen=True)
class Pose:
    """How the object lies in the frame.

    `scale` is the larger side of the object's bounding box over the image side. `x` and `y` in
    [0, 1] place that box in the free room: 0 at the left (top) margin, 1 at the right (bottom)
    margin, so that an object is always inside the frame. `angle` is in degrees, clockwise.
    """

    scale: float
    angle: float
    x: float
    y: float
    flip: bool


@dataclass(frozen=True)
class Scene:
    """All that determines a picture; `seed` fixes texture, colour jitter and caption."""

    spec: ObjectSpec
    background: str
    pose: Pose
    light: float
    """Where the light comes from, in degrees clockwise from +x; the light is above, (180, 360)."""
    seed: int


def sample_pose(rng: np.random.Generator) -> Pose:
    """A random pose: scale in [0.48, 0.78], angle in [-25, 25]."""
    return Pose(
        scale=float(rng.uniform(0.48, 0.78)),
        angle=float(rng.uniform(-25, 25)),
        x=float(rng.uniform(0.1, 0.9)),
        y=float(rng.uniform(0.1, 0.9)),
        flip=bool(rng.random() < 0.5),
    )


def sample_view(rng: np.random.Generator, spec: ObjectSpec, background: str) -> Scene:
    """The given object before the given background, with random pose, light and texture."""
    return Scene(
        spec=spec,
        background=background,
        pose=sample_pose(rng),
        light=float(rng.uniform(205, 335)),
        seed=int(rng.integers(2**31)),
    )
