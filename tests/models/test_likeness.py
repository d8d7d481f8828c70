"""How alike two objects are, which the instance encoder learns to tell."""

import numpy as np
import pytest
import torch

from safezone import miniworld
from safezone.miniworld import Extra, ObjectSpec
from training.instance import TRAITS, likeness

MUG = ObjectSpec("mug", "red", "striped", "blue", hat=Extra("top", "green"))
WHOLE = 3 + 3 + 1.5 + 1.5 + 1


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (MUG, 1.0),
        (ObjectSpec("mug", "red", "striped", "blue"), (WHOLE - 1) / WHOLE),
        (ObjectSpec("mug", "red"), 6 / WHOLE),
        (ObjectSpec("mug", "red", "dotted", "blue"), 7.5 / WHOLE),
        (ObjectSpec("mug", "pink", "dotted", "white", hat=Extra("top", "red")), 3 / WHOLE),
        (ObjectSpec("star", "pink", "dotted", "white", ears=Extra("round", "red")), 0.0),
    ],
)
def test_the_share_of_common_traits(other: ObjectSpec, expected: float) -> None:
    assert likeness([MUG, other])[0, 1] == pytest.approx(expected)


def test_random_objects_are_mostly_unlike_and_the_kernel_has_features() -> None:
    rng = np.random.default_rng(0)
    objects = [miniworld.instance_pair(rng)[0].spec for _ in range(100)]
    kernel = likeness(objects)
    assert torch.equal(kernel, kernel.T)
    assert torch.allclose(kernel.diag(), torch.ones(100))
    assert kernel[~torch.eye(100, dtype=torch.bool)].mean() < 0.2
    assert torch.linalg.eigvalsh(kernel).min() > -1e-4


def test_every_trait_is_a_field_of_an_object() -> None:
    assert set(TRAITS) <= set(MUG.__dataclass_fields__)
