"""Fixed, versioned suites: what posting does to files, which attackers train, on which objects."""

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import avg_pool2d

from safezone.concepts import Concept
from safezone.defenses import defense
from safezone.errors import UserError
from safezone.files import digest
from safezone.lab.presets import PRESETS
from safezone.lab.run import TEXTUAL_INVERSION
from safezone.lab.settings import Cells, Poisoning, Sampling, Settings
from safezone.lab.training import Training
from safezone.scores.rows import NOMINAL

# What a platform makes of a file


@dataclass(frozen=True)
class Posting:
    """An image file's pixels as they come back; settings are of the pixels in the file.

    ``long_side``: a longer picture is made that small. ``scale``: a screenshot's, away from the
    file's size and back. ``gamma``: of the screen. ``form`` and ``quality``: how it is compressed.
    """

    long_side: int | None = None
    scale: float = 1.0
    gamma: float = 1.0
    form: Literal["JPEG", "WEBP", "PNG"] = "PNG"
    quality: int = 100

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB uint8 [h, w, 3] to the same kind; smaller where ``long_side`` says so."""
        image = Image.fromarray(pixels)
        if self.long_side is not None and max(image.size) > self.long_side:
            image.thumbnail((self.long_side, self.long_side), Image.Resampling.LANCZOS)
        if self.scale != 1:
            size = image.size
            shown = (max(1, round(size[0] * self.scale)), max(1, round(size[1] * self.scale)))
            image = image.resize(shown, Image.Resampling.BICUBIC)
            image = image.resize(size, Image.Resampling.BICUBIC)
        if self.gamma != 1:
            levels = 255 * (np.arange(256) / 255) ** self.gamma
            image = image.point([round(level) for level in levels] * 3)
        if self.form != "PNG":
            file = io.BytesIO()
            image.save(file, self.form, quality=self.quality)
            with Image.open(file) as back:
                image = back.convert("RGB")
        return np.array(image, dtype=np.uint8)


POSTINGS: Final[Mapping[str, Posting]] = {
    "posted-1080": Posting(long_side=1080, form="JPEG", quality=75),
    "posted-2048": Posting(long_side=2048, form="JPEG", quality=90),
    "webp": Posting(form="WEBP", quality=80),
    "screenshot": Posting(scale=0.8, gamma=1.1),
}
"""By the name that the audit's tables show. Platforms change their settings; these are fixed."""


# Attackers


@dataclass(frozen=True)
class Attacker:
    """One way to train on protected images. ``defense``: a name of the defenses' table.

    ``posting``: what happens to the files before, a name of ``POSTINGS``. ``needs_masks``: it is
    left out, and the page says so, where there are none. ``on_photographs``: what takes its place
    on a real model, where ``defense`` belongs to the built-in one.
    """

    name: str
    title: str
    defense: str = NOMINAL
    posting: str | None = None
    needs_masks: bool = False
    on_photographs: str | None = None

    def poison_name(self, poison: str) -> str:
        """What stands for the poison in its runs: the poison, or its images after posting."""
        return poison if self.posting is None else f"{poison} {self.posting}"

    def defense_for(self, builtin: bool) -> str:
        """The defense on the built-in model or on another."""
        return self.defense if builtin or self.on_photographs is None else self.on_photographs


@dataclass(frozen=True)
class Suite:
    """Attackers under one name and version; the first one is plain training."""

    name: str
    attackers: tuple[Attacker, ...]

    @property
    def plain(self) -> Attacker:
        """What is compared with: training without care."""
        return self.attackers[0]


_PLAIN: Final = Attacker("plain", "plain training")
_JPEG: Final = Attacker("jpeg", "JPEG of quality 25", "jpeg")
_T600: Final = Attacker("t600", "high timesteps only", "t600")
_SZT: Final = Attacker("szt", "Safe-Zone Training", "szt", needs_masks=True)

SUITES: Final[Mapping[str, Suite]] = {
    "quick-1": Suite("quick-1", (_PLAIN, _JPEG, _T600, _SZT)),
    "standard-1": Suite(
        "standard-1",
        (
            _PLAIN,
            Attacker("posted-1080", "posted, JPEG 75", posting="posted-1080"),
            Attacker("posted-2048", "posted, JPEG 90", posting="posted-2048"),
            Attacker("webp", "posted as WebP", posting="webp"),
            Attacker("screenshot", "a screenshot of it", posting="screenshot"),
            _JPEG,
            Attacker("vae", "through the autoencoder and back", "vae"),
            Attacker("upscale", "noise, then an upscaler", "upscale"),
            Attacker("purifier", "purified", "pdmpure", on_photographs="pdmpure-if"),
            _T600,
            Attacker("jpeg+t600", "JPEG 25 and high timesteps", "jpeg+t600"),
            _SZT,
        ),
    ),
}
"""By name; the number is the version. A suite never changes: another ensemble is another name."""


def suite(name: str) -> Suite:
    """The newest suite of that name (``standard``), or the very one (``standard-1``)."""
    versions = [each for each in SUITES if name in (each, each.rpartition("-")[0])]
    if not versions:
        raise UserError(f"there is no suite {name!r}; choose one of: {', '.join(SUITES)}")
    return SUITES[versions[-1]]


# Objects


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
        return {
            each.name: replace(
                each,
                images=each.images[: self.images],
                masks=None if each.masks is None else each.masks[: self.images],
                image_names=each.image_names[: self.images],
            )
            for each in concepts
            if each.name in self.concepts
        }

    def parts(self) -> list[Any]:
        """All that the suite sets, for a content key: of attackers all but their titles."""
        method = self.training.personalization()
        attackers = [
            [
                each.name,
                None if each.posting is None else POSTINGS[each.posting],
                *defense(each.defense).parts,
            ]
            for each in self.attackers.attackers
        ]
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


_TRAINING: Final = Training(
    steps=200, batch_size=2, learning_rate=2e-2, checkpoint_every=20, runs_per_pass=32
)

OBJECT_SUITES: Final[Mapping[str, ObjectSuite]] = {
    "objects-1": ObjectSuite(
        "objects-1",
        concepts=(
            *("HattedMug", "EmblemBottle", "EaredBell", "PartyFish", "TwoToneHouse"),
            *("CrossStar", "CatHeart", "MoonVase", "ZigzagRocket", "CheckedBoat"),
        ),
        images=5,
        attackers=Suite(  # without noisy upscaling, whose network does not ship
            "standard-1",
            tuple(each for each in SUITES["standard-1"].attackers if each.name != "upscale"),
        ),
        seeds=2,
        poisoning=Poisoning(kappa=16 / 255, norm="linf"),
        training=_TRAINING,
        sampling=Sampling(prompts=("mini",), steps=25, guidance=4.0),
        spread=0.13,
    ),
    "objects-quick-1": ObjectSuite(
        "objects-quick-1",
        concepts=("BowlerMug", "PartyBox", "CrossBoat"),
        images=3,
        attackers=SUITES["quick-1"],
        seeds=1,
        poisoning=Poisoning(kappa=16 / 255, norm="linf", eta=2 / 255, steps=20, repetitions=1),
        training=replace(_TRAINING, steps=60, checkpoint_every=60),
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
"""By name; the number is the version. A suite never changes: other settings are another name."""


def object_suite(name: str) -> ObjectSuite:
    """The suite of that name; UserError for another."""
    if name not in OBJECT_SUITES:
        raise UserError(
            f"there is no suite of objects {name!r}; choose one of: {', '.join(OBJECT_SUITES)}"
        )
    return OBJECT_SUITES[name]
