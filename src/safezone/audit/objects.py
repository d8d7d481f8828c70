"""Suites of objects: concepts, attackers and settings that results of others are measured with."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import torch
from torch.nn.functional import avg_pool2d

from safezone.audit.posting import POSTINGS
from safezone.audit.suite import SUITES, Attacker, Suite
from safezone.concepts import Concept
from safezone.defenses import defense
from safezone.errors import UserError
from safezone.files import digest
from safezone.lab.run import TEXTUAL_INVERSION
from safezone.lab.settings import PRESETS, Cells, Poisoning, Sampling, Settings
from safezone.lab.training import Training


@dataclass(frozen=True)
class ObjectSuite:
    """What a poison is measured with, under one name and version.

    ``concepts``: names of built-in ones, of which the first ``images`` images are used. Every
    attacker trains on each concept with ``seeds`` seeds; the poison is made once for a concept.
    ``spread``: the standard deviation of the similarity between seeds of poison, training and
    generation, of one training of one concept; ``verify`` rests on it.
    """

    name: str
    concepts: tuple[str, ...]
    images: int
    attackers: Suite
    seeds: int
    poisoning: Poisoning
    training: Training
    sampling: Sampling
    spread: float

    def settings(self, model: str, seed: int) -> Settings:
        """For the lab; ``seed``: of the poison, and the first of training."""
        return replace(
            PRESETS["mini"],
            model=model,
            poisoning=self.poisoning,
            training=self.training,
            sampling=self.sampling,
            cells=Cells(poison_seed=seed),
        )

    def chosen(self, concepts: Iterable[Concept]) -> dict[str, Concept]:
        """The suite's concepts with their first images, by name."""
        return {each.name: _first(each, self.images) for each in concepts if each.name in self}

    def __contains__(self, concept: str) -> bool:
        return concept in self.concepts

    def parts(self) -> list[Any]:
        """All that the suite sets, for a content key."""
        method = self.training.personalization()
        attackers = [_steps_of(each) for each in self.attackers.attackers]
        sampling = {**asdict(self.sampling), "prompts": self.sampling.texts()}
        of_poisons = asdict(self.poisoning)
        learned = [TEXTUAL_INVERSION, method.name, method.content()]
        return [self.concepts, self.images, attackers, self.seeds, of_poisons, *learned, sampling]


def picture_key(concept: Concept) -> str:
    """SHA-256 of what a concept shows: its words, and means of 8 x 8 pixels in steps of 4 levels.

    Not of the bytes: a processor without fused multiplication rounds a value in millions otherwise.
    """
    words = [concept.name, concept.class_word, concept.placeholder, concept.image_names]
    masks = torch.zeros(0) if concept.masks is None else 255 * concept.masks[:, None].float()
    means = [
        avg_pool2d(each, 8) if each.numel() else each for each in (concept.images.float(), masks)
    ]
    return digest(json.dumps(words), *((each / 4).floor().to(torch.uint8) for each in means))


def _steps_of(attacker: Attacker) -> list[Any]:
    """What an attacker does, without its title."""
    posting = None if attacker.posting is None else POSTINGS[attacker.posting]
    return [attacker.name, posting, *defense(attacker.defense).parts]


def _first(concept: Concept, count: int) -> Concept:
    masks = None if concept.masks is None else concept.masks[:count]
    names = concept.image_names[:count]
    return replace(concept, images=concept.images[:count], masks=masks, image_names=names)


_STANDARD: Final = Suite(
    "standard-1",
    tuple(each for each in SUITES["standard-1"].attackers if each.name != "upscale"),
)
"""Without noisy upscaling, whose network does not ship."""

OBJECT_SUITES: Final[Mapping[str, ObjectSuite]] = MappingProxyType(
    {
        "objects-1": ObjectSuite(
            "objects-1",
            concepts=(
                *("HattedMug", "EmblemBottle", "EaredBell", "PartyFish", "TwoToneHouse"),
                *("CrossStar", "CatHeart", "MoonVase", "ZigzagRocket", "CheckedBoat"),
            ),
            images=5,
            attackers=_STANDARD,
            seeds=2,
            poisoning=Poisoning(kappa=16 / 255),
            training=Training(
                steps=200, batch_size=2, learning_rate=2e-2, checkpoint_every=20, runs_per_pass=32
            ),
            sampling=Sampling(prompts=("mini",), steps=25, guidance=4.0),
            spread=0.13,
        ),
        "objects-quick-1": ObjectSuite(
            "objects-quick-1",
            concepts=("BowlerMug", "PartyBox", "CrossBoat"),
            images=3,
            attackers=SUITES["quick-1"],
            seeds=1,
            poisoning=Poisoning(kappa=16 / 255, eta=2 / 255, steps=20, repetitions=1),
            training=Training(
                steps=60, batch_size=2, learning_rate=2e-2, checkpoint_every=60, runs_per_pass=32
            ),
            sampling=Sampling(
                prompts=(
                    *("a photo of a {}", "a photo of a {} on grass"),
                    *("a photo of a {} in the snow", "a photo of a {} at night"),
                ),
                steps=8,
                guidance=4.0,
            ),
            spread=0.15,
        ),
    }
)
"""By name; the number is the version. A suite never changes: other settings are another name."""


def object_suite(name: str) -> ObjectSuite:
    """The suite of that name; UserError for another."""
    if name not in OBJECT_SUITES:
        raise UserError(
            f"there is no suite of objects {name!r}; choose one of: {', '.join(OBJECT_SUITES)}"
        )
    return OBJECT_SUITES[name]
