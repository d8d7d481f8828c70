"""docs/adding-an-encoder.md to the letter: one file and one row in a copy of the package."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

import safezone
from processes import run
from safezone.arrays import stream
from safezone.concepts import Concept, save_concept

PAGE = Path(__file__).parents[2] / "docs" / "adding-an-encoder.md"
SOURCE = Path(safezone.__file__).parent
WEIGHTS = Path("models", "weights")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, with the page's file and the page's row."""
    copy = tmp_path / "copy" / "safezone"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("weights"))
    (copy / WEIGHTS).symlink_to(SOURCE / WEIGHTS)
    file, row = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len([line for line in file.splitlines() if line.strip()]) <= 22
    (copy / "scores" / "colour.py").write_text(file)
    table = copy / "scores" / "table.py"
    head, rows = table.read_text().split("\n_ROWS = (\n")
    rows, rest = rows.split("\n)\n", 1)
    words = "from safezone.scores.colour import ColourEncoder, measure_colour"
    table.write_text(f"{head}\n{words}\n_ROWS = (\n{rows}\n{row.strip()},\n)\n{rest}")
    return copy.parent


def test_the_example_is_an_option_and_a_number(package: Path, tmp_path: Path) -> None:
    for name, level in (("made", 100), ("clean", 151)):
        noise = torch.randint(level - 20, level + 21, (2, 3, 64, 64), generator=stream(name))
        concept = Concept(
            name=name, class_word="toy", images=noise.to(torch.uint8), image_names=("0", "1")
        )
        save_concept(concept, tmp_path / name)
    told = ["score", str(tmp_path / "made"), "--clean", str(tmp_path / "clean"), "--json"]
    result = run(package, *told, "--colour-encoder", "mean")
    assert result.status == 0, result.error
    scores = {score["metric"]: score for score in json.loads(result.out)["scores"]}
    assert scores["colour"]["value"] == pytest.approx(51 / 255 * 3**0.5, abs=0.01)
    assert (scores["colour"]["n_generated"], scores["colour"]["n_reference"]) == (2, 2)
    wrong = run(package, *told, "--colour-encoder", "median")
    assert wrong.status == 2
    assert "give mean or none" in wrong.error


def test_the_example_is_in_the_help(package: Path) -> None:
    assert "Compares mean colours: mean, or none." in run(package, "grid", "run", "--help").out
