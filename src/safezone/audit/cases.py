"""What is audited: protected images and their clean originals, as runs of the lab."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from safezone.audit.posting import POSTINGS
from safezone.audit.suite import Attacker, Suite
from safezone.concepts import Concept, image_files, load_concept, mask_files
from safezone.concepts.masks import grabcut
from safezone.errors import UserError
from safezone.images import png_text, read_image, to_square
from safezone.lab.lab import Lab
from safezone.lab.run import Grid, Run
from safezone.lab.store import MANIFEST
from safezone.poisons import Budget, Poison
from safezone.reading import read_json
from safezone.scores.rows import CLEAN, NOMINAL

PROTECTED: Final = "protected"
"""What stands in the place of a poison's name."""
UNSEEN: Final[Mapping[str, str]] = MappingProxyType({"safezone": "drawn by GrabCut"})
"""The text in the PNG of a mask that was drawn and that nobody has looked at."""
LOSSY: Final = frozenset({".jpg", ".jpeg", ".webp", ".avif", ".heic"})


@dataclass(frozen=True, eq=False)
class Case:
    """One concept. ``clean``: its originals, where there are any. ``made``: the manifest."""

    folder: Path
    protected: Concept
    clean: Concept | None
    made: Mapping[str, Any]
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


def _folders(root: Path) -> list[Path]:
    """The folder itself, or those below it that hold images."""
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give the folder of the protected images")
    inner = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name != "masks"]
    inner = [path for path in inner if not path.name.startswith(".")]
    return inner if inner and not any(path.is_file() for path in _pictures(root)) else [root]


def _pictures(root: Path) -> Iterator[Path]:
    return (path for path in root.iterdir() if path.suffix.lower() in {*LOSSY, ".png"})


def read_cases(
    protected: Path, clean: Path | None, size: int, *, masks: bool = False
) -> tuple[Case, ...]:
    """The concepts of a folder of images, or of a folder of such folders, and their originals.

    ``masks``: draw masks with GrabCut where there are none. Raises UserError where originals are
    missing or do not belong to the protected images, image for image.
    """
    return tuple(
        _read_case(folder, _original(folder, protected, clean), size, masks)
        for folder in _folders(protected)
    )


def _original(folder: Path, protected: Path, clean: Path | None) -> Path | None:
    if clean is None or folder == protected:
        return clean
    return clean / folder.name


def _read_case(folder: Path, original: Path | None, size: int, masks: bool) -> Case:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a size is no reason here: every attacker has the same
        concept = load_concept(folder, size)
        clean = None if original is None else load_concept(original, size)
    if clean is not None and len(clean.images) != len(concept.images):
        raise UserError(
            f"{folder} holds {len(concept.images)} images and {original} {len(clean.images)}; "
            "--clean must hold the original of each"
        )
    if clean is not None:
        concept = replace(concept, name=clean.name, class_word=clean.class_word)
        concept = replace(concept, masks=clean.masks if concept.masks is None else concept.masks)
    generated = masks and concept.masks is None
    if generated:
        drawn = [torch.from_numpy(grabcut(i.permute(1, 2, 0).numpy())) for i in concept.images]
        concept = replace(concept, masks=torch.stack(drawn))
    generated = generated or any(map(_unseen_masks, filter(None, (folder, original))))
    manifest = folder / MANIFEST
    made = read_json(manifest) if manifest.is_file() else {}
    return Case(folder, concept, clean, made, generated)


def _unseen_masks(folder: Path) -> bool:
    """Whether one of a folder's masks says that it was drawn and not looked at."""
    files = mask_files(folder, image_files(folder)).values()
    return any(png_text(path).items() >= UNSEEN.items() for path in files)


def protected_name(attacker: Attacker) -> str:
    """What stands for the poison in the runs of an attacker."""
    return PROTECTED if attacker.posting is None else f"{PROTECTED} {attacker.posting}"


def partial_name(percent: int) -> str:
    """What stands for the poison where so many percent of the images are protected."""
    return f"{PROTECTED} {percent}%"


def budget_name(level: int) -> str:
    """Of the same poison with a budget of so many levels of 255."""
    return f"kappa {level}"


@dataclass(frozen=True, eq=False)
class Plan:
    """All that an audit runs. ``left_out``: attackers that cannot run here, and why."""

    cases: tuple[Case, ...]
    suite: Suite
    methods: tuple[str, ...]
    seeds: int
    partial: tuple[int, ...]
    budgets: Mapping[int, Poison]
    builtin: bool
    left_out: Mapping[str, str]

    @property
    def attackers(self) -> tuple[Attacker, ...]:
        return tuple(each for each in self.suite.attackers if each.name not in self.left_out)

    @property
    def given(self) -> dict[tuple[str, str], Concept]:
        """The images of every name that stands for a poison."""
        images: dict[tuple[str, str], Concept] = {}
        for case in self.cases:
            images[case.name, PROTECTED] = case.protected
            for attacker in self.attackers:
                if attacker.posting is not None:
                    images[case.name, protected_name(attacker)] = case.posted(attacker.posting)
            for percent in self.partial if case.clean is not None else ():
                images[case.name, partial_name(percent)] = case.partly(percent)
        return images

    def lab(self, lab: Lab) -> Lab:
        """The lab with the audit's concepts and images in it."""
        concepts = {case.name: case.reference for case in self.cases}
        rows = {budget_name(level): poison for level, poison in self.budgets.items()}
        return replace(lab, concepts=concepts, given=self.given, poisons=rows)

    def grid(self, model: str) -> Grid:
        """Every attacker on the protected images, and what it is compared with.

        With originals: every defense on them too (what it costs), plain training on partly
        protected ones, and plain and most careful training at every budget.
        """
        runs: dict[Run, None] = {}
        for case in self.cases:
            for method in self.methods:
                for seed in range(self.seeds):
                    for poison, defense in self._cells(case):
                        runs[Run(case.name, poison, defense, method, model, seed)] = None
        return Grid("audit", tuple(runs))

    def _cells(self, case: Case) -> Iterator[tuple[str, str]]:
        for attacker in self.attackers:
            yield protected_name(attacker), attacker.defense_for(self.builtin)
        if case.clean is None:
            return
        for attacker in self.attackers:
            yield CLEAN, attacker.defense_for(self.builtin)
        for percent in self.partial:
            yield partial_name(percent), NOMINAL
        for level in self.budgets:
            for attacker in (self.suite.plain, self.attackers[-1]):
                yield budget_name(level), attacker.defense_for(self.builtin)


def at_budgets(poison: Poison, levels: Sequence[int]) -> dict[int, Poison]:
    """The poison of the protected images at other budgets, in levels of 255."""
    return {level: replace(poison, budget=Budget(level / 255)) for level in levels}
