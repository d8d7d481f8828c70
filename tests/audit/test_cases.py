"""What is audited: which folders, which originals and masks, how many images are protected."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from safezone.audit import cases as module
from safezone.audit.audit import audit, plan_audit
from safezone.audit.cases import UNSEEN, Case, Plan, read_cases
from safezone.audit.suites import SUITES
from safezone.concepts import CONCEPT_FILE, Concept, save_concept
from safezone.errors import UserError
from safezone.files import write_json
from safezone.images import write_png
from safezone.lab.schedule import run_grid
from safezone.models import Model
from small_lab import small_lab

SIDE = 64


def _concept(count: int, name: str = "One", *, masks: bool = False) -> Concept:
    """Images of a bright disc, each on another ground."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    disc = (x - 32) ** 2 + (y - 32) ** 2 < 16**2
    grounds = torch.linspace(0, 150, count)[:, None, None, None].expand(-1, 3, SIDE, SIDE)
    noise = torch.randint(0, 30, grounds.shape, generator=torch.Generator().manual_seed(0))
    return Concept(
        name=name,
        class_word="toy",
        images=torch.where(disc, 220 + noise, grounds + noise).clamp(0, 255).to(torch.uint8),
        masks=disc.expand(count, -1, -1).clone() if masks else None,
        image_names=tuple(f"{index:03}" for index in range(count)),
    )


def _protect(concept: Concept, amount: int = 16) -> Concept:
    """Each pixel is changed by as much as a budget of ``amount`` allows."""
    generator = torch.Generator().manual_seed(1)
    signs = 2 * torch.randint(0, 2, concept.images.shape, generator=generator) - 1
    images = concept.images.to(torch.int16) + amount * signs
    return concept.with_images(images.clamp(0, 255).to(torch.uint8))


def _folders(
    root: Path, count: int = 3, *, of: str = "", masks: Sequence[str] = ()
) -> tuple[Path, Path]:
    """Protected images and originals; ``masks``: which of the folders have some."""
    sides = {}
    for name in ("protected", "clean"):
        concept = _concept(count, of or "One", masks=name in masks)
        sides[name] = root / name / of
        save_concept(_protect(concept) if name == "protected" else concept, sides[name])
    return sides["protected"], sides["clean"]


# Originals


def _rename(folder: Path, names: Sequence[str]) -> None:
    files = sorted(folder.glob("*.png"))
    for path in files:
        path.rename(path.with_suffix(".moved"))
    for path, name in zip(files, names, strict=True):
        path.with_suffix(".moved").rename(folder / name)


def test_originals_in_another_order_are_refused(tmp_path: Path) -> None:
    protected, clean = _folders(tmp_path)
    _rename(clean, ("z.png", "b.png", "c.png"))
    with pytest.raises(UserError) as told:
        read_cases(protected, clean, SIDE)
    assert str(told.value) == (
        f"{protected / '000.png'} looks like {clean / 'z.png'} but is paired, in the order of "
        f"names, with {clean / 'b.png'}; give each protected image the name of its original"
    )


def test_the_two_folders_in_the_wrong_order_are_refused(tmp_path: Path) -> None:
    protected, clean = _folders(tmp_path)
    write_json(protected / "manifest.json", {"poison": "adm+"})
    with pytest.raises(UserError, match=r"is poisoned \(adm\+\); give --clean"):
        read_cases(clean, protected, SIDE)


def test_a_copy_of_the_originals_is_no_protection(tmp_path: Path) -> None:
    _, clean = _folders(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(clean, copy)
    with pytest.raises(UserError, match=r"copy are those in .*clean, to the pixel at 64 pixels"):
        read_cases(copy, clean, SIDE)
    pixels = np.asarray(Image.open(copy / "001.png")).copy()
    pixels[0, 0, 0] ^= 1
    write_png(copy / "001.png", pixels)
    assert len(read_cases(copy, clean, SIDE)) == 1


def test_originals_of_another_object_are_refused(tmp_path: Path) -> None:
    protected, clean = _folders(tmp_path)
    for path in clean.glob("*.png"):
        write_png(path, 255 - np.asarray(Image.open(path)))
    with pytest.raises(UserError, match=r"no image of .*protected looks like its original in"):
        read_cases(protected, clean, SIDE)


@pytest.mark.parametrize("change", ["other names", "alike", "much changed"])
def test_originals_in_one_order_are_taken(change: str, tmp_path: Path) -> None:
    protected, clean = _folders(tmp_path)
    if change == "other names":
        _rename(clean, ("x.png", "y.png", "z.png"))
    if change == "alike":  # nobody can tell which is whose, and it does not matter
        for folder in (protected, clean):
            for name in ("001.png", "002.png"):
                (folder / name).write_bytes((folder / "000.png").read_bytes())
    if change == "much changed":
        for path in protected.glob("*.png"):
            pixels = np.asarray(Image.open(path)).astype(int)
            write_png(path, (pixels + 25).clip(0, 255).astype(np.uint8))
    assert read_cases(protected, clean, SIDE)[0].clean is not None


# Masks


@pytest.mark.parametrize("having", [("protected",), ("clean",), ("protected", "clean"), ()])
def test_both_sides_get_the_same_masks(having: tuple[str, ...], tmp_path: Path) -> None:
    (case,) = read_cases(*_folders(tmp_path, masks=having), SIDE, masks=True)
    assert case.clean is not None and case.clean.masks is not None
    assert case.protected.masks is not None
    assert torch.equal(case.clean.masks, case.protected.masks)
    disc = _concept(3, masks=True).masks
    assert disc is not None
    assert (case.clean.masks != disc).float().mean() < 0.02
    assert case.generated_masks == (not having)


def test_masks_are_drawn_on_the_originals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protected, clean = _folders(tmp_path)
    seen = []

    def grabcut(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
        seen.append(torch.from_numpy(image.copy()).permute(2, 0, 1))
        return np.ones(image.shape[:2], dtype=bool)

    monkeypatch.setattr(module, "grabcut", grabcut)
    read_cases(protected, clean, SIDE, masks=True)
    assert torch.equal(torch.stack(seen), _concept(3).images)


@pytest.mark.parametrize("side", ["protected", "clean"])
def test_masks_that_nobody_looked_at_are_told(side: str, tmp_path: Path) -> None:
    protected, clean = _folders(tmp_path, masks=(side,))
    assert not read_cases(protected, clean, SIDE)[0].generated_masks
    path = tmp_path / side / "masks" / "001.png"
    write_png(path, np.asarray(Image.open(path)) > 0, UNSEEN)
    assert read_cases(protected, clean, SIDE)[0].generated_masks


@pytest.mark.parametrize("originals", [True, False])
def test_the_picture_without_an_object_is_named(originals: bool, tmp_path: Path) -> None:
    protected, clean = _folders(tmp_path)
    owner = clean if originals else protected
    write_png(owner / "001.png", np.full((SIDE, SIDE, 3), 75, dtype=np.uint8))
    with pytest.raises(UserError) as told:
        read_cases(protected, clean if originals else None, SIDE, masks=True)
    assert str(told.value).startswith(f"{owner / '001.png'}: GrabCut found no clear object")
    assert f"put a mask file of each image into {owner / 'masks'}" in str(told.value)


def _plan(root: Path, model: Model, cases: tuple[Case, ...], partial: Sequence[int] = ()) -> Plan:
    lab = small_lab(root / "out" / "work", model)
    suite, methods = SUITES["quick-1"], ("textual inversion",)
    return plan_audit(lab, cases, suite, methods, seeds=1, partial=partial)


@pytest.mark.parametrize("having", [("protected",), ()])
def test_safe_zone_training_runs_on_the_originals_too(
    having: tuple[str, ...], tmp_path: Path, tiny_model: Model
) -> None:
    cases = read_cases(*_folders(tmp_path, masks=having), SIDE, masks=True)
    lab, plan = small_lab(tmp_path / "work", tiny_model), _plan(tmp_path, tiny_model, cases)
    grid = plan.grid("tiny")
    szt = replace(grid, runs=tuple(run for run in grid if run.defense == "szt"))
    assert {run.poison for run in szt} == {"clean", "protected"}
    assert not run_grid(plan.lab(lab), szt, progress=False).failed


# Shares of protected images


@pytest.mark.parametrize(
    ("counts", "asked", "told"),
    [
        ([3], (25, 50, 75), {33: "protected 33%", 67: "protected 67%"}),
        ([4], (25, 50, 75), {25: "protected 25%", 50: "protected 50%", 75: "protected 75%"}),
        ([2], (1, 99), {50: "protected 50%"}),
        ([5], (50, 50), {60: "protected 60%"}),
        ([1], (25, 50, 75), {}),
        ([3, 3], (50,), {67: "protected 67%"}),
        ([4, 3], (50,), {58: "protected 58% on average"}),
        ([4, 1], (50,), {50: "protected 50%"}),
    ],
)
def test_the_share_that_is_told_is_the_one_that_is_trained(
    counts: list[int],
    asked: tuple[int, ...],
    told: Mapping[int, str],
    tmp_path: Path,
    tiny_model: Model,
) -> None:
    for index, count in enumerate(counts):
        _folders(tmp_path, count, of=f"Thing{index}")
    cases = read_cases(tmp_path / "protected", tmp_path / "clean", SIDE)
    plan = _plan(tmp_path, tiny_model, cases, asked)
    assert plan.of_shares == told
    lab = plan.lab(small_lab(tmp_path / "work", tiny_model))
    runs = {(run.concept, run.poison) for run in plan.grid("tiny")}
    several = [case for case in cases if len(case.protected.images) > 1]
    for percent, name in told.items():
        shares = []
        for case in several:
            assert (case.name, name) in runs
            assert case.clean is not None
            changed = (lab.given[case.name, name].images != case.clean.images).flatten(1).any(1)
            shares.append(changed.float().mean().item())
            assert 0 < shares[-1] < 1
        assert abs(100 * sum(shares) / len(shares) - percent) <= 0.5
    partly = {run for run in runs if "%" in run[1]}
    assert partly == {(case.name, name) for case in several for name in told.values()}


def test_the_page_and_the_numbers_tell_the_real_share(tmp_path: Path, tiny_model: Model) -> None:
    cases = read_cases(*_folders(tmp_path, masks=("clean",)), SIDE)
    lab = small_lab(tmp_path / "out" / "work", tiny_model)
    plan = _plan(tmp_path, tiny_model, cases, (25, 50, 75))
    done = audit(plan.lab(lab), plan, tmp_path / "out", title="Mine", command="", progress=False)
    (method,) = json.loads((tmp_path / "out" / "audit.json").read_text())["methods"].values()
    assert list(method["partial"]) == ["33", "67"]
    page = done.page.read_text()
    assert "protected, by their share: 33%: " in page
    assert "; 67%: " in page


# Folders


def test_two_folders_of_one_concept_are_refused(tmp_path: Path) -> None:
    protected, clean = tmp_path / "protected", tmp_path / "clean"
    for name in ("mug-adm", "mug-ea"):
        _folders(tmp_path, of=name)
        for side in (protected, clean):
            write_json(side / name / CONCEPT_FILE, {"name": "Mug"})
    for originals in (clean, None):
        with pytest.raises(UserError) as told:
            read_cases(protected, originals, SIDE)
        words = f"{protected / 'mug-adm'} and {protected / 'mug-ea'} are both of the concept Mug"
        assert str(told.value).startswith(words)


@pytest.mark.parametrize("suffix", [".tiff", ".tif", ".bmp", ".webp", ".png"])
@pytest.mark.parametrize("inside", ["mask-previews", "Mask-Previews", "Masks", "masks", "more"])
def test_a_folder_with_pictures_is_one_concept(suffix: str, inside: str, tmp_path: Path) -> None:
    protected, _ = _folders(tmp_path, masks=("protected",))
    for path in protected.glob("*.png"):
        Image.open(path).save(path.with_suffix(suffix))
        if suffix != ".png":
            path.unlink()
    if inside.lower() == "masks":
        (protected / "masks").rename(protected / inside)
    else:
        save_concept(_concept(3), protected / inside)
    (case,) = read_cases(protected, None, SIDE)
    assert (case.folder, len(case.protected.images)) == (protected, 3)
    assert case.protected.masks is not None


def _picture(path: Path) -> None:
    write_png(path, _concept(2).images[0])


ASIDE: Mapping[str, Callable[[Path], None]] = {
    "a hidden picture": lambda folder: _picture(folder / "._x.png"),
    "what a NAS leaves": lambda folder: _picture(folder / "@eaDir" / "x.png"),
    "the same in other letters": lambda folder: _picture(folder / "@EADIR" / "x.png"),
    "what a Mac leaves": lambda folder: _picture(folder / "__MACOSX" / "x.png"),
    "previews": lambda folder: _picture(folder / "Mask-Previews" / "x.png"),
    "no pictures": lambda folder: write_json(folder / "notes" / "note.json", {}),
    "hidden pictures alone": lambda folder: _picture(folder / "notes" / "._x.png"),
    "nothing": lambda folder: (folder / "empty").mkdir(),
    "a folder named like a picture": lambda folder: (folder / "x.png").mkdir(),
}


@pytest.mark.parametrize("name", ASIDE)
def test_what_lies_beside_the_folders_is_passed_over(name: str, tmp_path: Path) -> None:
    for each in ("Thing1", "Thing2"):
        _folders(tmp_path, of=each)
    ASIDE[name](tmp_path / "protected")
    cases = read_cases(tmp_path / "protected", tmp_path / "clean", SIDE)
    assert [case.folder.name for case in cases] == ["Thing1", "Thing2"]


def test_a_folder_of_no_pictures_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        read_cases(tmp_path, None, SIDE)
