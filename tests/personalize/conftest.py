"""Concepts of noise with a mask in the middle, and runs on them."""

from collections.abc import Callable, Sequence

import pytest
import torch

from safezone.arrays import stream
from safezone.concepts import Concept
from safezone.defenses import Defense, defense
from safezone.personalize import TrainingRun


def make_concept(name: str, images: int = 3, size: int = 64, masked: bool = True) -> Concept:
    pixels = torch.randint(0, 256, (images, 3, size, size), generator=stream(name))
    masks = torch.zeros(images, size, size, dtype=torch.bool)
    masks[:, size // 4 : size // 2, size // 4 : size - 8] = True
    return Concept(
        name=name,
        class_word="dog",
        images=pixels.to(torch.uint8),
        masks=masks if masked else None,
        image_names=tuple(str(i) for i in range(images)),
    )


def make_run(concept: Concept, kind: str | Defense = "nominal", seed: int = 0) -> TrainingRun:
    kind = defense(kind) if isinstance(kind, str) else kind
    return TrainingRun(f"{concept.name}/{kind.name}/{seed}", concept, kind, seed)


@pytest.fixture(scope="session")
def concept() -> Concept:
    return make_concept("duck")


@pytest.fixture(scope="session")
def concept_named() -> Callable[..., Concept]:
    return make_concept


@pytest.fixture(scope="session")
def run_of() -> Callable[..., TrainingRun]:
    return make_run


@pytest.fixture(scope="session")
def sixteen() -> Sequence[TrainingRun]:
    """Two concepts with unequal numbers of images, four defenses, two seeds."""
    return [
        make_run(concept, kind, seed)
        for concept in (make_concept("duck"), make_concept("vase", images=4))
        for kind in ("nominal", "jpeg", "t600", "szt")
        for seed in (0, 1)
    ]
