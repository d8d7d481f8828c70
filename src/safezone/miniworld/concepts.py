"""Ten objects that the model has never seen, in the spirit of NovelConcepts10."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from safezone.miniworld.backgrounds import BACKGROUNDS
from safezone.miniworld.scenes import Extra, ObjectSpec, Scene, sample_view

IMAGES_PER_CONCEPT: Final = 5


@dataclass(frozen=True)
class NovelConcept:
    """An object to teach: its name, the word for its class, and the scenes that show it."""

    name: str
    class_word: str
    spec: ObjectSpec
    scenes: tuple[Scene, ...]


_SPECS: Final[dict[str, ObjectSpec]] = {
    "HattedMug": ObjectSpec(
        "mug",
        "yellow",
        "striped",
        "blue",
        hat=Extra("top", "purple"),
        emblem=Extra("disc", "red"),
    ),
    "EmblemBottle": ObjectSpec(
        "bottle",
        "green",
        "zigzag",
        "white",
        emblem=Extra("disc", "orange"),
        ears=Extra("round", "pink"),
    ),
    "EaredBell": ObjectSpec(
        "bell",
        "orange",
        "dotted",
        "black",
        ears=Extra("pointed", "blue"),
        tone=Extra("lower", "white"),
    ),
    "PartyFish": ObjectSpec(
        "fish",
        "purple",
        "striped",
        "yellow",
        hat=Extra("cone", "red"),
        emblem=Extra("ring", "white"),
    ),
    "TwoToneHouse": ObjectSpec(
        "house",
        "pink",
        "checked",
        "purple",
        tone=Extra("left", "green"),
        hat=Extra("bowler", "blue"),
    ),
    "CrossStar": ObjectSpec(
        "star",
        "red",
        "dotted",
        "yellow",
        emblem=Extra("cross", "blue"),
        ears=Extra("round", "green"),
    ),
    "CatHeart": ObjectSpec(
        "heart",
        "blue",
        "checked",
        "pink",
        ears=Extra("pointed", "black"),
        tone=Extra("lower", "orange"),
    ),
    "MoonVase": ObjectSpec(
        "vase",
        "white",
        "striped",
        "red",
        emblem=Extra("crescent", "blue"),
        hat=Extra("cone", "green"),
        ears=Extra("round", "yellow"),
    ),
    "ZigzagRocket": ObjectSpec("rocket", "orange", "zigzag", "purple"),
    "CheckedBoat": ObjectSpec("boat", "green", "checked", "yellow"),
}

NOVEL_COMBINATIONS: Final = frozenset(spec.combination for spec in _SPECS.values())
"""Shape, colour and set of extras of each concept: none of them is ever sampled."""


def novel_concepts() -> tuple[NovelConcept, ...]:
    """The ten concepts, each in five fixed scenes before five different backgrounds."""
    return tuple(
        NovelConcept(name, spec.shape, spec, _scenes(index, spec))
        for index, (name, spec) in enumerate(_SPECS.items())
    )


def _scenes(index: int, spec: ObjectSpec) -> tuple[Scene, ...]:
    rng = np.random.default_rng([2024, index])
    order = rng.permutation(len(BACKGROUNDS))[:IMAGES_PER_CONCEPT]
    return tuple(sample_view(rng, spec, BACKGROUNDS[i]) for i in order)
