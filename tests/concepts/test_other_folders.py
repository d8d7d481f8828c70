"""Folders as people and programs leave them: read as they are meant, or one sentence."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cases.masks import NONE, SAME
from cases.pictures import photograph, picture_folder
from safezone.arrays import stream
from safezone.cli import main
from safezone.concepts import load_concept, save_concept
from safezone.concepts.masks import iou
from safezone.errors import UserError
from safezone.reading import read_json, read_yaml


def tree(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("form", SAME)
def test_masks_are_read_in_every_form(form: str, tmp_path: Path) -> None:
    expected = load_concept(picture_folder(tmp_path / "plain", masks=True), 64).masks
    folder = picture_folder(tmp_path / "other", masks=True)
    SAME[form](folder)
    concept = load_concept(folder, 64, require_masks=True)
    assert concept.masks is not None and expected is not None
    assert len(concept.images) == 3
    for mask, same in zip(concept.masks.numpy(), expected.numpy(), strict=True):
        assert iou(mask, same) > 0.97


@pytest.mark.parametrize("form", NONE)
def test_a_folder_without_masks_gets_them_made(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cv2")
    folder = picture_folder(tmp_path / "toy", masks=True)
    NONE[form](folder)
    assert load_concept(folder, 64).masks is None
    assert main(["mask", str(folder), "--source", "given"]) == 2
    assert "has no masks; leave --source out" in capsys.readouterr().err
    assert main(["mask", str(folder), "--size", "64"]) == 0
    assert {path.name for path in (folder / "masks").iterdir()} == {"00.png", "01.png", "02.png"}


def test_two_kinds_of_masks_are_told(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, masks=True)
    photograph(1)[1].save(folder / "00-masklabel.png")
    with pytest.warns(UserWarning, match=r"masks of .*masks are used, not .*00-masklabel\.png"):
        assert len(load_concept(folder, 64).images) == 3


def test_pictures_for_conditioning_are_not_trained_on(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path)
    photograph(1)[0].save(folder / "00-condlabel.png")
    with pytest.warns(UserWarning, match=r"00-condlabel\.png is left out"):
        assert load_concept(folder, 64).image_names == ("00", "01", "02")


# Nothing that is an image is left out without a word.


@pytest.mark.parametrize(
    "name",
    ["license-plate.jpg", "licence plate.png", "readme2.jpg", "README.webp", "Readme-toy.bmp"],
)
def test_an_image_is_one_whatever_its_name_begins_with(name: str, tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, ("0.png", name))
    assert set(load_concept(folder, 64).image_names) == {"0", Path(name).stem}


@pytest.mark.parametrize("name", [".0.png", "inner/0.jpg", "Bilder/0.JPEG"])
def test_images_that_are_left_out_are_named(name: str, tmp_path: Path) -> None:
    folder = picture_folder(tmp_path)
    (folder / name).parent.mkdir(exist_ok=True)
    photograph()[0].save(folder / name)
    left = name.split("/")[0]
    with pytest.warns(UserWarning, match=f"{left} is left out: images are read from"):
        assert len(load_concept(folder, 64).images) == 3


@pytest.mark.parametrize("name", ["._0.png", "@eaDir/0.png", "__MACOSX/0.png", ".git/0.png"])
def test_what_systems_leave_is_passed_over(name: str, tmp_path: Path) -> None:
    folder = picture_folder(tmp_path)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_concept(folder, 64).images) == 3


def test_a_folder_of_folders_names_one_to_give(tmp_path: Path) -> None:
    picture_folder(tmp_path / "10_toy")
    with (
        pytest.warns(UserWarning, match="10_toy is left out"),
        pytest.raises(UserError, match=r"holds no images; put .*, or give .*10_toy"),
    ):
        load_concept(tmp_path, 64)


# Names


def test_a_link_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = picture_folder(tmp_path / "IMG_2024_final")
    (tmp_path / "teapot").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    for place in (Path("teapot"), Path("teapot/"), Path("teapot/../teapot"), tmp_path / "teapot"):
        concept = load_concept(place, 64)
        assert (concept.name, concept.class_word) == ("teapot", "teapot")
        assert concept.placeholder == "<teapot>"
    monkeypatch.chdir(tmp_path / "IMG_2024_final")
    assert load_concept(Path("."), 64).name == "IMG_2024_final"


def test_a_folder_of_kohya_s_scripts_is_of_its_class(tmp_path: Path) -> None:
    concept = load_concept(picture_folder(tmp_path / "10_toy"), 64)
    assert (concept.class_word, concept.placeholder) == ("toy", "<toy>")


def latin_1(folder: Path) -> Path:
    """A folder and an image whose names are bytes of Latin-1."""
    place = Path(os.fsdecode(os.fsencode(folder) + b"/K\xe4se"))
    return picture_folder(place, (os.fsdecode(b"K\xe4fer.png"), "é.png"))


def test_names_that_are_no_utf_8_are_read_and_written(tmp_path: Path) -> None:
    concept = load_concept(latin_1(tmp_path), 64)
    assert (concept.name, set(concept.image_names)) == ("Käse", {"Käfer", "é"})
    save_concept(concept, tmp_path / "copy")
    assert load_concept(tmp_path / "copy", 64).content_key() == concept.content_key()
    assert read_json(tmp_path / "copy" / "concept.json")["name"] == "Käse"


def test_odd_names_have_streams_of_their_own() -> None:
    names = [os.fsdecode(b"\xe4"), os.fsdecode(b"\xe5"), "ä", "a"]
    assert len({stream(name).initial_seed() for name in names}) == len(names)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
def test_a_command_prints_any_name_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    folder = latin_1(tmp_path)
    shutil.copyfile(folder / "é.png", folder / "雪.png")
    (folder / "masks").mkdir()
    for path in folder.glob("*.png"):
        photograph()[1].save(folder / "masks" / f"{path.stem}.png")
    code = "import sys; from safezone.cli import main; told = ['mask', sys.argv[1]]; "
    code += "assert main(told) == 0; print('=='); sys.exit(main([*told, '--json']))"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    for_people, for_programs = done.stdout.decode(encoding).split("==")
    assert "masks" in for_people
    answer = json.loads(for_programs)
    assert set(answer["shares"]) >= {"é", "雪"}
    assert answer["masks"] == str(folder / "masks")


@pytest.mark.parametrize("length", [200, 251])
def test_long_names_are_written_as_they_were_read(length: int, tmp_path: Path) -> None:
    stem = ("a toy on a table, " * 20)[: length - 1].strip() + "x"
    concept = load_concept(picture_folder(tmp_path / "toy", (f"{stem}.png",), masks=True), 64)
    save_concept(concept, tmp_path / "copy")
    assert load_concept(tmp_path / "copy", 64).image_names == (stem,)


# Pipes, links to nothing, sockets: nothing is waited for.


def complete(folder: Path) -> Path:
    for stem in ("00", "01", "02"):
        (folder / f"{stem}.txt").write_text("a {}")
    return picture_folder(folder, masks=True)


@pytest.mark.parametrize("name", ["00.png", "concept.json", "00.txt", "masks/00.png"])
def test_a_pipe_is_refused_and_not_waited_for(name: str, tmp_path: Path) -> None:
    folder = complete(tmp_path)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(UserError, match=rf"{name} is no file; give"):
        load_concept(folder, 64, require_captions=True)


@pytest.mark.parametrize("name", ["00.png", "concept.json", "00.txt", "masks/00.png"])
def test_a_link_to_nothing_is_named(name: str, tmp_path: Path) -> None:
    folder = complete(tmp_path)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("/nowhere")
    with pytest.raises(UserError, match=rf"{name} (is a link to nothing|does not exist)"):
        load_concept(folder, 64, require_captions=True)


PIPES: dict[str, Callable[[str], list[str]]] = {
    "a grid": lambda pipe: ["grid", "run", pipe],
    "settings": lambda pipe: ["generate", "x", "--config", pipe],
    "prompts": lambda pipe: ["prompts", pipe],
    "hints": lambda pipe: ["mask", "toy", "--hints", pipe],
}


@pytest.mark.parametrize("what", PIPES)
def test_commands_wait_for_no_pipe(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture_folder(tmp_path / "toy")
    os.mkfifo(tmp_path / "pipe.yaml")
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    assert main(PIPES[what]("pipe.yaml")) == 2
    assert "pipe.yaml" in capsys.readouterr().err
    assert tree(tmp_path) == before


# Repeated keys


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("training:\n  steps: 3\ntraining:\n  seed: 1\n", "training"),
        ("training:\n  steps: 3\n  steps: 4\n", "steps"),
        ("model: mini\nmodel: mini-v\n", "model"),
    ],
)
def test_repeated_keys_of_settings_are_refused(
    text: str, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.yaml").write_text(text)
    folder = picture_folder(tmp_path / "toy")
    out = tmp_path / "out"
    config = str(tmp_path / "s.yaml")
    assert main(["personalize", str(folder), "--config", config, "--out", str(out)]) == 2
    assert f"{key} is there twice, remove one" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    "text",
    [
        "a: &a {steps: 1, rate: 2}\nd: {<<: *a, steps: 3}\n",
        # built before its inner part
        "x: {y: {z: &z {<<: {steps: 1}, steps: 3, rate: 2}}}\nd: {<<: *z}\n",
    ],
)
def test_merged_keys_may_be_overridden(text: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(text)
    assert read_yaml(tmp_path / "s.yaml", "settings")["d"] == {"steps": 3, "rate": 2}


def test_repeated_keys_of_grids_and_of_json_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "g.yaml"
    grid.write_text("name: a\naxes: {poisons: [clean], poisons: [ea], defenses: [nominal]}\n")
    assert main(["grid", "run", str(grid), "--out", str(tmp_path / "out")]) == 2
    assert "poisons is there twice, remove one" in capsys.readouterr().err
    folder = picture_folder(tmp_path / "toy")
    (folder / "concept.json").write_text('{"name": "a", "name": "b"}')
    with pytest.raises(UserError, match="name is there twice, remove one"):
        load_concept(folder, 64)


@pytest.mark.parametrize("name", ["../up", "/tmp/up", "a/b", "..", ".hidden", "x" * 101, "a\\b"])
def test_a_grid_stays_inside_its_folder(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "g.yaml"
    axes = {"poisons": ["clean"], "defenses": ["nominal"]}
    grid.write_text(json.dumps({"name": name, "axes": axes}))
    before = tree(tmp_path)
    assert main(["grid", "run", str(grid), "--out", str(tmp_path / "deep" / "out")]) == 2
    assert "name is " in capsys.readouterr().err
    grid.write_text(json.dumps({"name": "well", "axes": axes}))
    command = ["grid", "run", str(grid), "--out", str(tmp_path / "out"), "--name", name]
    assert main(command) == 2
    assert "name is " in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_a_grid_does_not_write_among_the_artifacts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["grid", "run", "table17", "--out", str(tmp_path / "out"), "--name", "work"]
    assert main(command) == 2
    assert "--name is work" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# Captions that nobody asked for


@pytest.mark.parametrize(
    "content", [b"toy, grass, simple background", b"", b"\xff\xfea\x00", b"two\nlines {}"]
)
def test_captions_that_nobody_asked_for_harm_nobody(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = picture_folder(tmp_path / "toy", masks=True)
    (folder / "00.txt").write_bytes(content)
    before = tree(folder)
    assert main(["mask", str(folder), "--size", "64"]) == 0
    assert "no captions are read" in capsys.readouterr().err
    assert tree(folder) == before


def test_a_mask_that_cannot_be_used_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from safezone.concepts import masks

    def corner(image: np.ndarray, hint: object = None) -> masks.Cutout:
        mask = np.zeros(image.shape[:2], dtype=np.bool_)
        mask[:10, :10] = True
        return masks.Cutout(mask, 1.0)

    monkeypatch.setattr(masks, "cut_out", corner)
    folder = picture_folder(tmp_path / "toy")
    before = tree(folder)
    assert main(["mask", str(folder), "--size", "64", "--preview"]) == 2
    assert "is empty in the image's centre square" in capsys.readouterr().err
    assert tree(folder) == before


def test_colour_pictures_are_not_masks_painted_in_black_and_white(tmp_path: Path) -> None:
    """A grey photograph that is cut out keeps its opacity as the mask."""
    picture, mask = photograph()
    grey = picture.convert("L").convert("RGBA")
    grey.putalpha(mask)
    folder = picture_folder(tmp_path, ("00.png",), masks=True)
    expected = load_concept(folder, 64).masks
    grey.save(folder / "masks" / "00.png")
    found = load_concept(folder, 64).masks
    assert found is not None and expected is not None
    assert torch.equal(found, expected)


def test_an_image_of_one_colour_is_no_mask_of_all(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, ("00.png",), masks=True)
    Image.new("RGBA", (200, 160), (0, 0, 0, 0)).save(folder / "masks" / "00.png")
    with pytest.raises(UserError, match="is empty"):
        load_concept(folder, 64)
