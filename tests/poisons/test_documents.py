"""The example of docs/adding-a-poison.md runs as it stands, from its file to its row."""

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import ResNetConfig, ResNetModel

from safezone.arrays import stream
from safezone.cli import main
from safezone.concepts import Concept, load_concept, save_concept
from safezone.errors import UserError
from safezone.images import to_float
from safezone.lab.run import content_key
from safezone.lab.settings import Poisoning
from safezone.models import Model, load_model
from safezone.poisons import (
    POISONS,
    Budget,
    Poison,
    own_poisons,
    poison_fingerprints,
    poison_images,
)
from safezone.reading import load_own
from safezone.scores import read_rows
from tiny import write_tiny_folder

DOCUMENT = Path(__file__).parents[2] / "docs" / "adding-a-poison.md"
NAME = "flatten" if "flatten" not in POISONS else "flatten-of-a-file"
"""Of the example: the page ends with making it a row, which takes the name."""


def write_example(file: Path, index: int) -> Path:
    code = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[index]
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    file.write_text(code.replace('"flatten"', f'"{NAME}"'))
    return file


@pytest.fixture
def example(tmp_path: Path) -> Path:
    return write_example(tmp_path / "flatten.py", 0)


def _save_mug(folder: Path) -> None:
    images = torch.randint(0, 256, (1, 3, 64, 64), generator=stream("flatten")).to(torch.uint8)
    save_concept(Concept(name="mug", class_word="mug", images=images, image_names=("0",)), folder)


def test_the_example_poisons_a_folder_by_its_name(tmp_path: Path, example: Path) -> None:
    _save_mug(tmp_path / "mug")
    folder = write_tiny_folder(tmp_path / "model")
    told = ["--model", str(folder), "--poison", NAME, "--poison-file", str(example)]
    assert main(["poison", str(tmp_path / "mug"), *told, "--out", str(tmp_path / "flat")]) == 0
    before, after = (load_concept(tmp_path / n, 64).pixels() for n in ("mug", "flat"))
    assert 0 < (after - before).abs().max() <= 16.01 / 255
    model = load_model(folder)
    contrast = [model.encode(i).mean.flatten(2).std(dim=2).mean() for i in (before, after)]
    assert contrast[1] < 0.98 * contrast[0]


def test_an_example_with_a_network_moves_its_features_and_the_network_is_in_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    network = ResNetModel(config).eval()
    network.save_pretrained("resnet")
    model = load_model(write_tiny_folder(tmp_path / "model"))
    row = replace(own_poisons([write_example(tmp_path / "features.py", 1)])["features"], steps=5)
    clean = torch.rand(1, 3, 64, 64, generator=stream("features"))
    poisoned = to_float(poison_images(model, clean, row, 0, ["one"], progress=False))

    def shift(images: torch.Tensor) -> float:
        with torch.no_grad():
            now, before = (network(i).pooler_output for i in (images, clean))
        return float((now - before).square().mean())

    assert shift(poisoned) > 5 * shift(clean + (torch.rand_like(clean) - 0.5) / 255)
    keys = poison_fingerprints(row, model)
    assert (len(keys), keys[0]) == (2, model.fingerprint())
    assert poison_fingerprints(POISONS["adm+"], model) == keys[:1]
    with torch.no_grad():
        network.embedder.embedder.convolution.weight[0, 0, 0, 0] += 1e-3
    network.save_pretrained("resnet")
    assert poison_fingerprints(row, model) != keys


def _claim(folder: Path, file: Path, *poisons: str) -> list[str]:
    """Arguments of a claim with a poison of this file, as small as it can be."""
    told = ["claim", "--poisoning.poison-file", str(file), "--seeds", "1"]
    told += [word for poison in poisons for word in ("--poison", poison)]
    told += ["--model", str(write_tiny_folder(folder / "model")), "--concepts", "1"]
    told += ["--steps", "1", "--poisoning.steps", "2", "--sampling.steps", "1"]
    told += ["--instance-encoder", "mini-instance"]
    told += ["--text-image-encoder", "none", "--defense", "nominal"]
    return [*told, "--sampling.prompts", "a {}", "--out", str(folder / "o")]


@pytest.mark.slow
def test_the_example_gets_its_row(tmp_path: Path, example: Path) -> None:
    assert main(_claim(tmp_path, example, NAME)) == 0
    assert NAME.upper() in (tmp_path / "o" / "table.md").read_text().upper()


def test_a_poison_that_breaks_down_is_told_with_its_line_and_ends_its_own_runs_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from safezone.poisons import Poison\n"
        "def loss(model, images, generators, guide):\n"
        "    return {}['none']\n"
        "P = Poison('mine', loss, 1)\n"
    )
    fault = f"{file}, line 3: KeyError: 'none'; correct it"
    assert main(_claim(tmp_path, file, "mine", "ea")) == 1
    said = capsys.readouterr()
    assert fault in said.out + said.err
    rows = read_rows(tmp_path / "o" / "rows.csv")
    assert {row.poison: row.reason for row in rows} == {"clean": "", "ea": "", "mine": fault}
    _save_mug(tmp_path / "mug")
    told = ["--model", str(tmp_path / "model"), "--poison", "mine", "--poison-file", str(file)]
    assert main(["poison", str(tmp_path / "mug"), *told, "--out", str(tmp_path / "new")]) == 2
    assert capsys.readouterr().err.endswith(f"safezone: {fault}\n")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (None, "does not exist"),
        ("x = 1", "has no poison"),
        ("1 / 0", "fails with ZeroDivisionError"),
        ('P = Poison("adm+", f, 1)', "name that is taken"),
        ('P = Poison("a/b", f, 1)', "names a poison 'a/b'"),
        ('P = Poison("mine", f, 0)', "Poison 'mine': direction is 0; give 1 or -1"),
    ],
)
def test_a_file_that_is_wrong_is_told(tmp_path: Path, code: str | None, words: str) -> None:
    file = tmp_path / "own.py"
    if code is not None:
        head = "from safezone.poisons import Poison\ndef f(*parts): ...\n"
        file.write_text(head + code)
    with pytest.raises(UserError, match=f"own.py:? .*{words}"):
        own_poisons([file])


@pytest.mark.parametrize(
    ("change", "budget"),
    [
        ({}, Budget(2.0, "l2")),
        ({"kappa": 3.0}, Budget(3.0, "l2")),
        ({"norm": "l2", "eta": 0.5}, Budget(2.0, "l2")),
        ({"norm": "linf", "kappa": 8 / 255, "eta": 1 / 255}, Budget(8 / 255)),
        ({"norm": "linf", "kappa": 8 / 255}, None),
        ({"norm": "linf", "eta": 1 / 255}, None),
    ],
)
def test_the_budget_is_that_of_its_row(
    change: Mapping[str, Any], budget: Budget | None, tmp_path: Path
) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from safezone.poisons import Budget, Poison\n"
        "def f(*parts): ...\n"
        'OWN = Poison("own", f, 1, budget=Budget(2.0, "l2"), eta=0.2)\n'
    )
    poisoning = Poisoning(files=(str(file),), **change)
    if budget is not None:
        assert poisoning.poison("own").budget == budget
        return
    with pytest.raises(UserError, match=r"The norm is linf, but kappa and eta of own are of l2"):
        poisoning.poison("own")


def test_a_row_of_two_names_is_one_row(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    loop = 'ROWS = [Poison(name, print, 1) for name in ("a", "b")]\nfor last in ROWS:\n    pass\n'
    file.write_text(
        f"from safezone.poisons import Poison\n{loop}B = ROWS[1]\nA = DEFAULT = ROWS[0]"
    )
    assert {*own_poisons([file])} == {"a", "b"}


@pytest.mark.parametrize(
    ("gives", "told"),
    [
        (lambda images: images.mean(), r"gives float32 \(\) for 2 images"),
        (lambda images: images.flatten(1).mean(1, keepdim=True), r"gives float32 \(2, 1\)"),
        (lambda images: torch.ones(2, dtype=torch.int64), r"gives int64 \(2,\)"),
        (lambda images: None, "gives NoneType"),
        (lambda images: 3.0, "gives float for 2 images; give one floating-point number an image"),
    ],
)
def test_an_objective_gives_one_number_an_image(
    gives: Callable[[Tensor], object], told: str, tiny_model: Model
) -> None:
    clean = torch.zeros(2, 3, tiny_model.image_size, tiny_model.image_size)
    row = Poison("own", lambda model, images, generators, guide: gives(images), 1)  # type: ignore[arg-type, return-value]
    with pytest.raises(UserError, match=f"the objective of poison 'own' {told}"):
        poison_images(tiny_model, clean, row, 0, ["one", "two"], progress=False)


def test_an_edit_within_a_second_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "own.py"
    for value in (1, 2):
        file.write_text(f"value = {value}")
        os.utime(file, (0, 0))
        assert load_own(file).value == value


def test_another_content_is_another_key(tmp_path: Path, example: Path) -> None:
    def key() -> str:
        return content_key(Poisoning(files=(str(example),)).poison(NAME))

    first = key()
    assert key() == first
    example.write_text(example.read_text().replace("std(dim=2)", "var(dim=2)"))
    assert key() != first
