"""What is audited: protected images and their clean originals, as runs of the lab."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from safezone.audit.suites import POSTINGS, Attacker, Suite
from safezone.concepts import Concept, image_files, load_concept, mask_files
from safezone.concepts.masks import grabcut
from safezone.errors import UserError
from safezone.images import png_text, read_image, to_square
from safezone.lab.lab import Lab
from safezone.lab.run import Grid, Run
from safezone.lab.store import MANIFEST
from safezone.poisons import Poison
from safezone.reading import read_json
from safezone.scores.rows import CLEAN, NOMINAL

PROTECTED: Final = "protected"
"""What stands in the place of a poison's name."""
UNSEEN: Final[Mapping[str, str]] = {"safezone": "drawn by GrabCut"}
"""The text in the PNG of a mask that was drawn and that nobody has looked at."""
LOSSY: Final = frozenset({".jpg", ".jpeg", ".webp", ".avif", ".heic"})


@dataclass(frozen=True, eq=False)
class Case:
    """One concept. ``clean``: its originals, if any. ``manifest``: the poison's, if it is ours."""

    folder: Path
    protected: Concept
    clean: Concept | None
    manifest: Mapping[str, Any]
    generated_masks: bool = False

    @property
    def name(self) -> str:
        return self.protected.name

    @property
    def reference(self) -> Concept:
        """What scores are against: the originals, else the protected images themselves."""
        return self.protected if self.clean is None else self.clean

    @property
    def lossy(self) -> bool:
        """Whether a file of the protected images is in a form that changes pixels."""
        return any(path.suffix.lower() in LOSSY for path in image_files(self.folder))

    def posted(self, name: str) -> Concept:
        """The protected images after a posting of their files, at the model's size."""
        size = self.protected.images.shape[-1]
        pictures = [
            torch.from_numpy(to_square(POSTINGS[name](read_image(path)), size))
            for path in image_files(self.folder)
        ]
        images = torch.stack(pictures).permute(0, 3, 1, 2).contiguous()
        return self.protected.with_images(images)

    def partly(self, percent: int) -> Concept:
        """The originals with that share of them, from the first, protected."""
        if self.clean is None:
            raise ValueError("there are no originals to leave unprotected")
        count = round(percent / 100 * len(self.protected.images))
        mixed = torch.cat([self.protected.images[:count], self.clean.images[count:]])
        return self.protected.with_images(mixed)


def read_cases(
    protected: Path, clean: Path | None, size: int, *, masks: bool = False
) -> tuple[Case, ...]:
    """The concepts of a folder of images, or of a folder of such folders, and their originals.

    ``masks``: draw masks with GrabCut where there are none. Raises UserError where originals are
    missing or do not belong to the protected images, image for image.
    """
    if not protected.is_dir():
        raise UserError(f"{protected} is not a folder; give the folder of the protected images")
    entries = sorted(protected.iterdir())
    inner = [path for path in entries if path.is_dir() and not path.name.startswith(".")]
    inner = [path for path in inner if path.name != "masks"]
    pictures = (path for path in entries if path.suffix.lower() in {*LOSSY, ".png"})
    if not inner or any(map(Path.is_file, pictures)):
        return (_read_case(protected, clean, size, masks),)
    originals = [None if clean is None else clean / folder.name for folder in inner]
    pairs = zip(inner, originals, strict=True)
    return tuple(_read_case(folder, original, size, masks) for folder, original in pairs)


def _read_case(folder: Path, original: Path | None, size: int, masks: bool) -> Case:
    with warnings.catch_warnings(action="ignore"):  # of sizes: every attacker has the same
        concept = load_concept(folder, size)
        clean = None if original is None else load_concept(original, size)
    if clean is not None and len(clean.images) != len(concept.images):
        raise UserError(
            f"{folder} holds {len(concept.images)} images and {original} {len(clean.images)}; "
            "--clean must hold the original of each"
        )
    if clean is not None:
        own = clean.masks if concept.masks is None else concept.masks
        concept = replace(concept, name=clean.name, class_word=clean.class_word, masks=own)
    generated = masks and concept.masks is None
    if generated:
        drawn = [torch.from_numpy(grabcut(i.permute(1, 2, 0).numpy())) for i in concept.images]
        concept = replace(concept, masks=torch.stack(drawn))
    for each in filter(None, (folder, original)):
        files = mask_files(each, image_files(each)).values()
        generated = generated or any(png_text(file).items() >= UNSEEN.items() for file in files)
    path = folder / MANIFEST
    return Case(folder, concept, clean, read_json(path) if path.is_file() else {}, generated)


def partial_name(percent: int) -> str:
    """What stands for the poison where so many percent of the images are protected."""
    return f"{PROTECTED} {percent}%"


def budget_name(level: int) -> str:
    """Of the same poison with a budget of so many levels of 255."""
    return f"kappa {level}"


@dataclass(frozen=True, eq=False)
class Plan:
    """All that an audit runs. ``left_out``: attackers that cannot run here, and why.

    ``levels``: budgets of the protection, in levels of 255. ``budgets``: the poison of those that
    are made here; the protected images themselves are of the other one.
    """

    cases: tuple[Case, ...]
    suite: Suite
    methods: tuple[str, ...]
    seeds: int
    partial: tuple[int, ...]
    levels: tuple[int, ...]
    budgets: Mapping[int, Poison]
    builtin: bool
    left_out: Mapping[str, str]

    @property
    def attackers(self) -> tuple[Attacker, ...]:
        return tuple(each for each in self.suite.attackers if each.name not in self.left_out)

    @property
    def of_levels(self) -> Mapping[int, str]:
        """What stands for the poison at each budget."""
        return {n: budget_name(n) if n in self.budgets else PROTECTED for n in self.levels}

    def lab(self, lab: Lab) -> Lab:
        """The lab with the audit's concepts in it, and all images that stand for poisons."""
        concepts = {case.name: case.reference for case in self.cases}
        rows = {budget_name(level): poison for level, poison in self.budgets.items()}
        images: dict[tuple[str, str], Concept] = {}
        for case in self.cases:
            images[case.name, PROTECTED] = case.protected
            for attacker in self.attackers:
                if attacker.posting is not None:
                    images[case.name, attacker.poison_name(PROTECTED)] = case.posted(
                        attacker.posting
                    )
            for percent in self.partial if case.clean is not None else ():
                images[case.name, partial_name(percent)] = case.partly(percent)
        return replace(lab, concepts=concepts, given=images, poisons=rows)

    def grid(self, model: str) -> Grid:
        """Every attacker on the protected images, and what it is compared with.

        With originals: every defense on them too (what it costs), plain training on partly
        protected ones, and plain and most careful training at every budget.
        """
        return Grid.of(
            "audit",
            (
                Run(case.name, poison, defense, method, model, seed)
                for case in self.cases
                for method in self.methods
                for seed in range(self.seeds)
                for poison, defense in self._cells(case)
            ),
        )

    def _cells(self, case: Case) -> Iterator[tuple[str, str]]:
        for attacker in self.attackers:
            yield attacker.poison_name(PROTECTED), attacker.defense_for(self.builtin)
        if case.clean is None:
            return
        for attacker in self.attackers:
            yield CLEAN, attacker.defense_for(self.builtin)
        for percent in self.partial:
            yield partial_name(percent), NOMINAL
        for poison in self.of_levels.values():
            for attacker in (self.suite.plain, self.attackers[-1]):
                yield poison, attacker.defense_for(self.builtin)
