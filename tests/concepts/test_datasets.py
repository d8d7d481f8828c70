"""Data sets: DreamBooth, CustomConcept101, plain folders, the mini world."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from safezone.concepts import load_concept
from safezone.concepts.datasets import (
    export_concept,
    export_concepts,
    load_dataset,
    load_readable,
    miniworld_concepts,
)
from safezone.errors import UserError
from safezone.miniworld import novel_concepts

PHOTOS = Path(
    os.environ.get("SAFEZONE_PHOTOS", Path(__file__).parents[2] / "shared/data/dreambooth")
)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(path)


def dreambooth(root: Path) -> None:
    table = (
        "Classes\n\nsubject_name,class\nplushie,stuffed animal\nrc_car,toy\nvase,vase\n\nPrompts\n"
    )
    (root / "prompts_and_classes.txt").write_text(table)
    (root / "references_and_licenses.txt").write_text("x")
    for name in ("rc_car", "plushie", "my_own6"):
        picture(root / name / "00.jpg")
    picture(root / "__MACOSX" / "plushie" / "._00.jpg")
    picture(root / "@eaDir" / "00.jpg")


def custom_concept(root: Path) -> None:
    entries = [
        {"instance_data_dir": f"./benchmark/{name}", "class_prompt": word, "instance_prompt": "x"}
        for name, word in (("plushie", "stuffed animal"), ("rc_car", "toy"))
    ]
    (root / "dataset.json").write_text(json.dumps(entries))
    for name in ("rc_car", "plushie"):
        picture(root / "benchmark" / name / "00.jpg")


def plain(root: Path) -> None:
    for name, word in (("plushie", "stuffed animal"), ("rc_car", "toy")):
        picture(root / name / "00.png")
        (root / name / "concept.json").write_text(json.dumps({"class_word": word}))


@pytest.mark.parametrize("build", [dreambooth, custom_concept, plain])
def test_data_sets_give_concepts_with_class_words(
    build: Callable[[Path], None], tmp_path: Path
) -> None:
    build(tmp_path)
    words = {concept.name: concept.class_word for concept in load_dataset(tmp_path, 32)}
    assert words.pop("my_own6", "my own") == "my own"
    assert words == {"plushie": "stuffed animal", "rc_car": "toy"}


LOADERS: list[Callable[[Path, int], object]] = [load_dataset, load_readable]


@pytest.mark.parametrize("load", LOADERS)
def test_two_concepts_of_one_name_are_refused(
    load: Callable[[Path, int], object], tmp_path: Path
) -> None:
    plain(tmp_path)
    (tmp_path / "rc_car" / "concept.json").write_text('{"name": "plushie"}')
    with pytest.raises(UserError, match="two concepts of the name plushie"):
        load(tmp_path, 32)


def test_absent_concepts_of_a_manifest_are_warned_of(tmp_path: Path) -> None:
    custom_concept(tmp_path)
    content = (tmp_path / "dataset.json").read_bytes()
    (tmp_path / "dataset.json").write_bytes(b"\xef\xbb\xbf" + content)  # as Windows marks UTF-8
    (tmp_path / "benchmark" / "rc_car" / "00.jpg").unlink()
    (tmp_path / "benchmark" / "rc_car").rmdir()
    with pytest.warns(UserWarning, match="1 of the 2 concepts listed in .* are absent"):
        assert [concept.name for concept in load_dataset(tmp_path, 32)] == ["plushie"]
    with pytest.warns(UserWarning, match="1 of the 2 concepts listed in .* are absent"):
        assert [concept.name for concept in load_readable(tmp_path, 32)[0]] == ["plushie"]


@pytest.mark.parametrize("directory", ["../elsewhere", "/etc", "benchmark/../../elsewhere"])
def test_manifest_paths_may_not_lead_out(directory: str, tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "00.png")
    (tmp_path / "set").mkdir()
    entry = {"instance_data_dir": directory, "class_prompt": "toy"}
    (tmp_path / "set" / "dataset.json").write_text(json.dumps([entry]))
    with pytest.raises(UserError, match=r"dataset\.json names .*outside its own folder; mend"):
        load_dataset(tmp_path / "set", 32)


@pytest.mark.parametrize("content", ["[", '{"a": 1}', '[{"class_prompt": "toy"}]', "[[1]]", "3"])
def test_a_bad_manifest_is_told(content: str, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(UserError, match=r"dataset\.json is not a list of objects with instance"):
        load_dataset(tmp_path, 32)


def test_bad_roots_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no concept folders"):
        load_dataset(tmp_path, 32)
    with pytest.raises(UserError, match="nowhere is not a folder"):
        load_dataset(tmp_path / "nowhere", 32)
    (tmp_path / "prompts_and_classes.txt").write_bytes(b"subject_name,class\ncaf\xe9,cup\n")
    with pytest.raises(UserError, match=r"prompts_and_classes\.txt is not UTF-8 text"):
        load_dataset(tmp_path, 32)
    (tmp_path / "prompts_and_classes.txt").write_text("Classes\n")
    with pytest.raises(UserError, match="has no line subject_name,class"):
        load_dataset(tmp_path, 32)


@pytest.mark.skipif(
    not (PHOTOS / "prompts_and_classes.txt").is_file(), reason="no photographs here"
)
def test_the_real_photographs_are_a_data_set() -> None:
    concepts = {concept.name: concept for concept in load_dataset(PHOTOS, 64, min_images=3)}
    assert concepts["duck_toy"].class_word == "toy"
    assert concepts["duck_toy"].images.shape == (4, 3, 64, 64)
    assert concepts["vase"].placeholder == "<vase>"


def test_the_mini_worlds_concepts() -> None:
    concepts = miniworld_concepts()
    assert len({concept.name for concept in concepts}) == len(novel_concepts()) == 10
    for concept in concepts:
        assert concept.masks is not None
        assert concept.images.shape[1:] == (3, 128, 128)
        assert 0.02 < concept.masks.float().mean() < 0.7


def test_a_mini_concept_by_name_and_size(tmp_path: Path) -> None:
    name = novel_concepts()[0].name
    concept = load_concept(export_concept(name.upper(), tmp_path / "one"), 128)
    assert concept.name == name
    assert concept.content_key() == miniworld_concepts()[0].content_key()
    first, again = (miniworld_concepts(64)[0] for _ in range(2))
    assert first.images.shape[-2:] == (64, 64)
    assert first.content_key() == again.content_key()
    with pytest.raises(UserError, match=f"'cat' is unknown; give one of {name}"):
        export_concept("cat", tmp_path / "cat")


def test_exported_concepts_are_read_back(tmp_path: Path) -> None:
    folders = export_concepts(tmp_path / "out")
    assert len(folders) == 10
    again = load_dataset(tmp_path / "out", 128, require_masks=True)
    assert {c.content_key() for c in again} == {c.content_key() for c in miniworld_concepts()}
    words = json.loads((tmp_path / "out" / again[0].name / "concept.json").read_text())
    assert [scene["image"] for scene in words["scenes"]] == list(again[0].image_names)
    assert words["scenes"][0]["spec"]["shape"] == again[0].class_word
    assert again[0].class_word in words["scenes"][0]["caption"]
