"""``safezone analyze`` and ``safezone figure`` on a tiny model, as a person would use them."""

import json
from dataclasses import fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from safezone.cli import main
from safezone.concepts import Concept, save_concept
from safezone.lab.bench import Bench
from safezone.lab.settings import BenchScope
from safezone.paper.measured.table import FIGURES
from safezone.paper.rows import Figure
from safezone.personalize import Adapter, save_embedding
from safezone.results.drawings.style import Drawing

SMALL = (
    *("--steps", "10", "--poisoning.steps", "1", "--sampling.steps", "1"),
    *("--vectors", "1", "--batch-size", "1", "--no-flip"),
)
SCOPE = {
    "timesteps": ("--timesteps", "3"),
    "rows": ("--rows", "2"),
    "draws": ("--draws", "1"),
    "candidates": ("--candidates", "1"),
    "poisons": ("--poison", "adm+"),
}


def small(number: int) -> list[str]:
    """Options that make the figure as small as it can be."""
    return [*SMALL, *chain.from_iterable(SCOPE.get(name, ()) for name in FIGURES[number].reads)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set of one concept, two noisy pictures with masks."""
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[:, 16:48, 16:48] = True
    generator = torch.Generator().manual_seed(1)
    concept = Concept(
        name="toy",
        class_word="toy",
        images=(torch.rand(2, 3, 64, 64, generator=generator) * 255).byte(),
        masks=masks,
        image_names=("a", "b"),
    )
    save_concept(concept, tmp_path / "data" / "toy")
    noise = torch.randint(-16, 17, concept.images.shape, generator=generator)
    changed = concept.with_images((concept.images.int() + noise).clamp(0, 255).byte())
    save_concept(changed, tmp_path / "changed")
    return tmp_path / "data"


def written(folder: Path, stem: str) -> dict[str, Any]:
    """The numbers of a figure whose three files are there, and the picture is not empty."""
    assert (folder / f"{stem}.svg").read_text().startswith("<?xml")
    with Image.open(folder / f"{stem}.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5
        assert min(picture.size) > 100
    numbers: dict[str, Any] = json.loads((folder / f"{stem}.json").read_text())
    return numbers


def test_histogram_and_spectrum_need_no_model(data: Path, tmp_path: Path) -> None:
    folders, out = (str(data / "toy"), str(tmp_path / "changed")), tmp_path / "out"
    assert main(["analyze", "histogram", *folders, "--out", str(out)]) == 0
    found = written(out, "histogram")["histograms"]["changed"]
    assert found["as given"]["bimodality"] == pytest.approx(5 / 9, abs=0.02)
    assert found["as given"]["values"] == 2 * 3 * 64 * 64
    assert main(["analyze", "spectrum", *folders, "--out", str(out)]) == 0
    distances = written(out, "spectrum")["distance_to_clean_db"]["as given"]
    assert distances["clean"] == 0 < distances["changed"]


def test_spectra_of_latents(data: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    folders, out = (str(data / "toy"), str(tmp_path / "changed")), tmp_path / "out"
    for vae in (tiny_model_folder, tiny_model_folder / "vae"):
        assert main(["analyze", "spectrum", *folders, "--vae", str(vae), "--out", str(out)]) == 0
        assert len(written(out, "spectrum")["frequencies"]) == 8 // 2 + 1


def test_timesteps_and_sensitivity_of_a_learned_word(
    data: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    embedding, out = tmp_path / "e.safetensors", tmp_path / "out"
    save_embedding(Adapter(vectors, "<toy>", "toy"), embedding)
    common = (
        *(str(data / "toy"), str(tmp_path / "changed"), "--model", str(tiny_model_folder)),
        *("--prompt", "a photo of a <toy>", "--embedding", str(embedding), "--out", str(out)),
    )
    short = ("--timesteps", "3", "--draws", "1")
    assert main(["analyze", "timesteps", *common, *short]) == 0
    numbers = written(out, "timesteps")
    assert numbers["timesteps"] == [0, 500, 999]
    assert set(numbers["loss"]) == {"toy", "changed"}
    gradient = written(out, "timesteps-gradient")["gradient"]["<toy>"]
    assert all(value > 0 for value in gradient["toy"]["median"])
    kept = sorted((out / "work").rglob("*.safetensors"))
    before = [path.stat().st_mtime_ns for path in kept]
    assert main(["analyze", "timesteps", *common, *short]) == 0  # nothing is left to measure
    assert [path.stat().st_mtime_ns for path in kept] == before
    maps = ("--rows", "2", "--timestep", "500", "--images", "1")
    assert main(["analyze", "sensitivity", *common, *maps]) == 0
    ratios = written(out, "sensitivity")["in_region_ratio"]
    assert set(ratios) == {"toy, a", "changed, a"}
    assert all(0 < each["t=500"]["R"] < 1 for each in ratios.values())
    assert all(0 <= each["t=500"]["standard_error"] < 0.5 for each in ratios.values())


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("analyze", "spectra"), "spectra"),
        (("analyze", "timesteps", "--out", "x"), "folder"),
        (("analyze", "sensitivity", "x", "--prompt", "a toy", "--out", "x"), "--word"),
        (("figure", "22", "--out", "x"), "figure 22"),
        (("figure", "7", "--concepts", "0", "--out", "x"), "concepts"),
        (("figure", "4", "--images", "1", "--out", "x"), "images"),
        (("figure", "7", "--concept", "PartyFsh", "--out", "x"), "PartyFish"),
        (("figure", "16", "--marks", "7000", "--out", "x"), "beyond its end"),
        (("figure", "7", "--rows", "3", "--out", "x"), "--rows changes nothing of figure 7;"),
        (("figure", "4", "--defense", "jpeg", "--out", "x"), "--defense changes nothing"),
        (("figure", "4", "--images", "9", "--data", "x", "--out", "x"), "of a data set"),
        (("figure", "6", "--defense", "jpeg", "--defense", "szt", "--out", "x"), "one defense"),
    ],
)
def test_wrong_input_is_told_in_one_sentence(
    arguments: tuple[str, ...],
    word: str,
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    model = ("--model", str(tiny_model_folder)) if arguments[1] not in ("spectra",) else ()
    assert main([*arguments, *model]) == 2
    said = capsys.readouterr().err
    assert word in said
    assert said.count("\n") == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("analysis", ["timesteps", "sensitivity"])
def test_an_embedding_of_another_kind_of_model_is_told(
    analysis: str,
    data: Path,
    tiny_model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_embedding(Adapter(torch.ones(1, 48), "<toy>", "toy"), tmp_path / "wide.safetensors")
    words = ("--embedding", str(tmp_path / "wide.safetensors"), "--prompt", "a <toy>")
    where = ("--model", str(tiny_model_folder), "--out", str(tmp_path / "out"))
    assert main(["analyze", analysis, str(data / "toy"), *words, *where]) == 2
    assert "wide.safetensors has 48 numbers a vector, the model" in capsys.readouterr().err


@pytest.mark.parametrize("number", [1, 8, 17, 20])
def test_generated_images_are_drawn_and_scored(
    number: int, data: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    encoders = ("--instance-encoder", "mini-instance", "--text-image-encoder", "mini-clip")
    few = ("--concepts", "1", "--defense", "nominal", "--sampling.prompts", "a {}", *small(number))
    model = ("--model", str(tiny_model_folder), "--data", str(data))
    assert main(["figure", str(number), *model, *encoders, *few, "--out", str(out)]) == 0
    numbers = written(out, f"figure-{number:02d}")
    values = numbers["points"]["nominal"] if number == 17 else numbers["similarity"].values()
    assert all(-1 <= value <= 2.5 for value in values)
    drawing = (out / f"figure-{number:02d}.svg").read_text(encoding="utf-8")
    if number != 17:
        assert numbers["prompts"] == ["a {}"]
        assert "“a R*”" in drawing
        assert ("original" if number in (1, 20) else "trained on") in drawing


def test_a_figure_is_drawn_from_what_its_grid_has_made(
    data: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    grids, out = tmp_path / "grids", tmp_path / "out"
    common = (
        *("--model", str(tiny_model_folder), "--data", str(data), "--steps", "2"),
        *("--poisoning.steps", "1", "--sampling.steps", "1"),
        *("--sampling.images-per-prompt", "2"),
        *("--instance-encoder", "mini-instance", "--text-image-encoder", "mini-clip"),
    )
    chosen = ("--only", "nominal", "--only", "szt")
    assert (
        main(["grid", "run", "figure8", *common, *chosen, "--seeds", "1", "--out", str(grids)]) == 0
    )
    made = sorted(path for path in (grids / "work").rglob("*") if path.is_file())
    images = [path for path in made if path.suffix == ".png" and "generate" in path.parts]
    assert len(images) == 2 * 2 * 2
    drawn = ("--defense", "nominal", "--defense", "szt", "--work", str(grids / "work"))
    assert main(["figure", "8", *common, *drawn, "--out", str(out)]) == 0
    assert len(written(out, "figure-08")["similarity"]) == 4
    after = sorted(path for path in (grids / "work").rglob("*") if path.is_file())
    assert after == made


MEASURED = [n for n, row in FIGURES.items() if not row.scores and n not in (9, 12)]
"""9 and 12 are 3 and 7 of another concept and of more poisons."""


@pytest.mark.parametrize("number", MEASURED)
def test_every_measured_figure_is_drawn(
    number: int,
    data: Path,
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, read, row = tmp_path / "out", set[str](), FIGURES[number]

    def look(scope: BenchScope, name: str) -> Any:
        read.add(name)
        return object.__getattribute__(scope, name)

    def draw(bench: Bench, figure: Figure) -> Drawing:
        with monkeypatch.context() as patch:
            patch.setattr(BenchScope, "__getattribute__", look)
            return row.draw(bench, figure)

    monkeypatch.setitem(FIGURES, number, replace(row, draw=draw))
    model = ("--model", str(tiny_model_folder), "--data", str(data))
    own = {
        5: ("--losses", "3"),  # of two images: two noises
        16: ("--marks", "0", "--marks", "4"),
        2: ("--sampling.prompts", "a {} beside a tree"),
        14: ("--concept", "toy"),
    }.get(number, ())
    few = () if "--concept" in own else ("--concepts", "1")
    assert main(["figure", str(number), *model, *small(number), *few, *own, "--out", str(out)]) == 0
    of_others = {"images", "moments", "seed", *(("draws",) if number == 5 else ())}
    assert read & {each.name for each in fields(BenchScope)} - {"seed"} == {*row.reads} - of_others
    numbers = written(out, f"figure-{number:02d}")
    if number == 5:
        assert "n = 4 losses" in numbers["n"]
        assert "the paper 1000" in numbers["n"]
        clean = numbers["gradient"]["after 2 steps"]["clean"]
        assert len(clean["mean"]) == len(clean["median"]) == 3
        assert "clean, mean" in (out / "figure-05.svg").read_text(encoding="utf-8")
    if number == 11:  # every fifth of ten steps
        assert list(numbers["gradient"]) == [f"after {step} steps" for step in (2, 4, 6, 8, 10)]
    if number == 16:
        assert numbers["steps"] == [0, 4]
    if number == 6:
        assert numbers["steps"] == list(range(11))
    if number == 2:
        assert numbers["prompts"] == {"toy": "a toy beside a tree"}
        assert set(numbers["in_region_ratio"]["toy"]) == {
            f"{kind}{column}"
            for kind in ("", "attention, ")
            for column in ("start token", "object", "other word")
        }
    if number == 10:
        assert set(numbers["closed_form_of_one_image"]) == {"clean", "adm+"}
        assert set(numbers["closed_form_left_out"]) == {"clean", "adm+"}
    assert not [path for path in out.rglob("*") if ".tmp" in path.name]
