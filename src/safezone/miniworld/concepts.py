"""Objects that the model has never seen: ten to measure on, six to choose settings on."""

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

_DEVELOPMENT_SPECS: Final[dict[str, ObjectSpec]] = {
    "BowlerBottle": ObjectSpec(
        "bottle",
        "red",
        "striped",
        "pink",
        hat=Extra("bowler", "orange"),
        ears=Extra("pointed", "blue"),
    ),
    "BowlerMug": ObjectSpec(
        "mug",
        "brown",
        "striped",
        "yellow",
        emblem=Extra("disc", "white"),
        hat=Extra("bowler", "purple"),
    ),
    "PartyBox": ObjectSpec(
        "box",
        "white",
        "striped",
        "orange",
        hat=Extra("cone", "green"),
        tone=Extra("lower", "purple"),
    ),
    "CrossBoat": ObjectSpec(
        "boat",
        "pink",
        "zigzag",
        "black",
        emblem=Extra("cross", "gray"),
        ears=Extra("round", "yellow"),
    ),
    "SquareHeart": ObjectSpec(
        "heart",
        "yellow",
        "zigzag",
        "pink",
        emblem=Extra("square", "purple"),
        hat=Extra("bowler", "red"),
    ),
    "HattedRocket": ObjectSpec(
        "rocket",
        "purple",
        "striped",
        "pink",
        hat=Extra("top", "orange"),
        tone=Extra("lower", "white"),
    ),
}
# The first six objects of random stream [2025, 0] with a part and two colours, of six shapes and
# six colours, whose combination none of the 120,000 scenes had that the shipped model learned from.

NOVEL_COMBINATIONS: Final = frozenset(
    spec.combination for spec in (*_SPECS.values(), *_DEVELOPMENT_SPECS.values())
)
"""Shape, colour and set of extras of each of these objects: none of them is ever sampled."""


def novel_concepts() -> tuple[NovelConcept, ...]:
    """The ten concepts, each in five fixed scenes before five different backgrounds."""
    return _concepts(_SPECS, seed=2024)


def development_concepts() -> tuple[NovelConcept, ...]:
    """Six further ones, on which whatever is tuned is tuned; results are shown on the ten."""
    return _concepts(_DEVELOPMENT_SPECS, seed=2026)


def _concepts(specs: dict[str, ObjectSpec], seed: int) -> tuple[NovelConcept, ...]:
    return tuple(
        NovelConcept(name, spec.shape, spec, _scenes(np.random.default_rng([seed, index]), spec))
        for index, (name, spec) in enumerate(specs.items())
    )


def _scenes(rng: np.random.Generator, spec: ObjectSpec) -> tuple[Scene, ...]:
    order = rng.permutation(len(BACKGROUNDS))[:IMAGES_PER_CONCEPT]
    return tuple(sample_view(rng, spec, BACKGROUNDS[i]) for i in order)
