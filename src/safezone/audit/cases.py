"""What is audited: protected images and their clean originals, as runs of the lab."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from safezone.audit.suites import POSTINGS, Attacker, Suite
from safezone.concepts import (
    CONCEPT_FILE,
    MASK_FOLDER,
    Concept,
    image_files,
    load_concept,
    mask_files,
)
from safezone.concepts.folder import has_images, inner_folders
from safezone.concepts.masks import grabcut
from safezone.errors import UserError
from safezone.images import png_text, read_image, to_square
from safezone.lab.lab import Lab
from safezone.lab.run import Grid, Run
from safezone.lab.store import manifest, require_clean
from safezone.poisons import Poison
from safezone.scores.rows import CLEAN, NOMINAL

PROTECTED: Final = "protected"
"""What stands in the place of a poison's name."""
UNSEEN: Final[Mapping[str, str]] = {"safezone": "drawn by GrabCut"}
"""The text in the PNG of a mask that was drawn and that nobody has looked at."""
LOSSY: Final = frozenset({".jpg", ".jpeg", ".webp", ".avif", ".heic"})
_OWN: Final = 8.0
"""Root mean square difference, in levels of 255 at 16 x 16 pixels, that a protection may make of an
original without it being asked whether that is another image's."""
_OTHERS = 40.0
"""That difference which images of other objects have at least (240 pairs of sets were compared)."""


@dataclass(frozen=True, eq=False)
class Case:
    """One concept. ``clean``: its originals, if any, which lie in ``original``. ``manifest``: the
    poison's, if it is ours."""

    folder: Path
    protected: Concept
    clean: Concept | None
    manifest: Mapping[str, Any]
    generated_masks: bool = False
    original: Path | None = None

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

    @property
    def several(self) -> bool:
        """Whether some images can be protected and some not."""
        return self.clean is not None and len(self.protected.images) > 1

    def count(self, percent: int) -> int:
        """How many of several images are that share, rounded: one or more, and never all."""
        total = len(self.protected.images)
        return min(total - 1, max(1, (percent * total + 50) // 100))

    def partly(self, percent: int) -> Concept:
        """The originals with that share of them, from the first, protected."""
        if self.clean is None or not self.several:
            raise ValueError("there are not several originals to leave some of them unprotected")
        count = self.count(percent)
        mixed = torch.cat([self.protected.images[:count], self.clean.images[count:]])
        return self.protected.with_images(mixed)


def read_cases(
    protected: Path, clean: Path | None, size: int, *, masks: bool = False
) -> tuple[Case, ...]:
    """The concepts of a folder of images, or of a folder of such folders, and their originals.

    ``masks``: draw masks with GrabCut where there are none. Folders inside without images are
    passed over. Raises UserError where originals are missing or do not belong to the protected
    images, image for image, where two folders are of one concept, and where no mask can be drawn.
    """
    if not protected.is_dir():
        raise UserError(f"{protected} is not a folder; give the folder of the protected images")
    inner = [] if has_images(protected) else inner_folders(protected)
    if not inner:
        return (_read_case(protected, clean, size, masks),)
    cases: dict[str, Case] = {}
    for folder in inner:
        case = _read_case(folder, None if clean is None else clean / folder.name, size, masks)
        if case.name in cases:
            raise UserError(
                f"{cases[case.name].folder} and {folder} are both of the concept {case.name}; "
                "audit each by itself or, if they show two objects, give one another name in its "
                f"{CONCEPT_FILE}, with --clean in that of its originals"
            )
        cases[case.name] = case
    return tuple(cases.values())


def _read_case(folder: Path, original: Path | None, size: int, draw: bool) -> Case:
    with warnings.catch_warnings(action="ignore"):  # of sizes: every attacker has the same
        parts = {each: load_concept(each, size) for each in (original, folder) if each is not None}
        protected, clean = parts[folder], None
        if original is not None:
            if folder.samefile(original):
                raise UserError(
                    f"{folder} is given as the protected images and as their originals; give "
                    "--clean the folder of the images as they were before"
                )
            require_clean(original, "--clean")
            clean = parts[original]
            if torch.equal(protected.images, clean.images):
                raise UserError(
                    f"the pictures in {folder} are those in {original}, to the pixel at {size} "
                    "pixels, so that there is no protection to audit; give the protected ones "
                    "first, and with --clean what they were before"
                )
            _require_pairs(folder, protected, original, clean)
            protected = replace(protected, name=clean.name, class_word=clean.class_word)
        masks, generated = _masks(parts, draw)
    if clean is not None:
        clean = replace(clean, masks=masks)
    protected = replace(protected, masks=masks)
    return Case(folder, protected, clean, manifest(folder), generated, original)


def _require_pairs(folder: Path, protected: Concept, original: Path, clean: Concept) -> None:
    """Raises UserError unless each protected image stands where its original does.

    They are compared at 16 x 16 pixels, where a protection hardly shows.
    """
    if len(clean.images) != len(protected.images):
        raise UserError(
            f"{folder} holds {len(protected.images)} images and {original} {len(clean.images)}; "
            "--clean must hold the original of each"
        )
    changed, own = (
        interpolate(each.images.float(), size=(16, 16), mode="area").flatten(1)
        for each in (protected, clean)
    )
    apart = torch.cdist(changed, own) / own.shape[1] ** 0.5  # [n, n], in levels of 255
    for index, nearest in enumerate(apart.argmin(1).tolist()):
        paired = apart[index, index]
        if paired > _OWN and apart[index, nearest] < paired / 2:
            originals = image_files(original)
            raise UserError(
                f"{image_files(folder)[index]} looks like {originals[nearest]} but is paired, in "
                f"the order of names, with {originals[index]}; give each protected image the name "
                "of its original"
            )
    if apart.diagonal().min() > _OTHERS:
        raise UserError(
            f"no image of {folder} looks like its original in {original}; give --clean the same "
            "images as they were before"
        )


def _masks(parts: Mapping[Path, Concept], draw: bool) -> tuple[Tensor | None, bool]:
    """The masks of the first folder that has some, else drawn of the first folder's images.

    And whether one of them was drawn and nobody has looked at it.
    """
    for folder, concept in parts.items():
        if concept.masks is not None:
            files = mask_files(folder, image_files(folder)).values()
            return concept.masks, any(png_text(each).items() >= UNSEEN.items() for each in files)
    return (_drawn(*next(iter(parts.items()))), True) if draw else (None, False)


def _drawn(folder: Path, concept: Concept) -> Tensor:
    """GrabCut's masks; UserError, naming the image, where it finds no object."""
    masks = []
    for path, image in zip(image_files(folder), concept.images, strict=True):
        try:
            masks.append(torch.from_numpy(grabcut(image.permute(1, 2, 0).numpy())))
        except UserError as error:
            raise UserError(
                f"{path}: {error}; --masks takes no hints: put a mask file of each image into "
                f"{folder / MASK_FOLDER}, or draw them with `safezone mask`"
            ) from error
    return torch.stack(masks)


def partial_name(percent: int, *, mean: bool = False) -> str:
    """What stands for the poison where so many percent of the images are protected.

    ``mean``: over concepts of which each has a share of its own.
    """
    return f"{PROTECTED} {percent}%{' on average' if mean else ''}"


def budget_name(level: int) -> str:
    """Of the same poison with a budget of so many levels of 255."""
    return f"kappa {level}"


@dataclass(frozen=True, eq=False)
class Plan:
    """All that an audit runs. ``left_out``: attackers that cannot run here, and why.

    ``partial``: the percents of protected images that were asked for; ``shares`` has the real ones.
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
    def shares(self) -> Mapping[int, int]:
        """What was asked for, by the real percent of protected images: the mean over concepts.

        Of concepts with several images alone. What comes to the same percent is trained once.
        """
        several = [case for case in self.cases if case.several]
        shares: dict[int, int] = {}
        for asked in self.partial if several else ():
            real = fmean(case.count(asked) / len(case.protected.images) for case in several)
            shares.setdefault(round(100 * real), asked)
        return shares

    @property
    def of_shares(self) -> Mapping[int, str]:
        """What stands for the poison at each real percent of protected images."""
        mean = len({len(case.protected.images) for case in self.cases if case.several}) > 1
        return {percent: partial_name(percent, mean=mean) for percent in self.shares}

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
            for percent, name in self.of_shares.items() if case.several else ():
                images[case.name, name] = case.partly(self.shares[percent])
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
        for poison in self.of_shares.values() if case.several else ():
            yield poison, NOMINAL
        for poison in self.of_levels.values():
            for attacker in (self.suite.plain, self.attackers[-1]):
                yield poison, attacker.defense_for(self.builtin)
