"""What a table is run with on the paper's models, beside what the paper says it was run with."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from safezone.cli import main
from safezone.commands.arguments import parse
from safezone.commands.grid_run import GridRunCommand
from safezone.commands.paper import DemoCommand, FigureCommand
from safezone.lab.presets import DEMO, own_cells, preset, settings_yaml, training_preset
from safezone.models.known import KNOWN
from safezone.paper.named import paper_settings
from safezone.paper.rows import PAPER


@dataclass(frozen=True)
class Said:
    """What the paper's text says of some of its tables; ``where``: which part says it."""

    tables: tuple[int, ...]
    where: str
    model: str = "sd15"  # 5.1.2: "all experiments with Stable Diffusion v1.5"
    image_size: int = 512  # E: "resized to 512x512"
    dataset: str = "NovelConcepts10"
    method: str = "ti"
    steps: Any = 5000  # 5.1.2
    batch_size: int = 1  # 5.1.2
    accumulation: int = 1
    learning_rate: Any = 5e-4  # 5.1.2: "no decay, no warmup"
    schedule: Any = "constant"

    @property
    def values(self) -> dict[str, Any]:
        names = ("image_size", "dataset", "method", "steps", "batch_size", "accumulation")
        said = {name: getattr(self, name) for name in names}
        if self.method == "ti":  # of the other methods the paper states no rate
            said |= {"learning_rate": self.learning_rate, "schedule": self.schedule}
        return {**said, "model": KNOWN[self.model].hub}


COMMON = {
    "poisons_made_on": [KNOWN["sd15"].hub],  # O: "poison transferability from SD15"
    "purified_on": KNOWN["sd15"].hub,  # 5.2.4: "Regen default settings with Stable Diffusion 1.5"
    "kappa": "16/255",  # F: 16/256, for images of 256 levels
    "eta": "1/255",  # F: 1/256
    "poison_steps": 100,  # F
    "prompts": 24,  # 5.1.2: "five images for each of the 24 object prompts"
    "images_per_prompt": 5,
}
"""Of all tables."""

SAID = (
    Said((1, 15, 16), "5.1.2, K", dataset="CustomConcept101", steps=2500),
    Said(
        (2, 4, 5),
        "5.2.1, G",
        steps=[1000, 5000, 10000],
        learning_rate=[5e-5, 5e-4, 5e-3],
        schedule=["constant", "linear", "cosine"],
    ),
    Said((6, 7, 8), "H"),
    Said((9, 10, 11), "I"),
    Said((12, 13, 14), "J"),
    Said((17, 18, 19), "L"),
    Said((20, 21, 22), "N"),
    Said((23, 24, 25), "O", model="sd15-rf", steps=2500),
    Said((26, 27), "O", model="sd21", steps=2500),
    Said((28, 29), "O", model="sd21-v", steps=2500),
    Said((30, 31), "O", model="sdxl", image_size=1024, steps=500, accumulation=5),
    Said((32, 33, 34), "P", method="lora", steps=1000),
    Said((35, 36, 37, 38, 39, 40), "P", method="custom-diffusion", steps=1000),
)
"""The paper's settings, written down once."""

BY_TABLE = {table: said for said in SAID for table in said.tables}


def test_the_paper_says_something_of_every_table() -> None:
    tables = [row.table for row in PAPER.values() if row.figure is None]
    assert sorted(BY_TABLE) == tables
    assert len(tables) == 39


@pytest.mark.parametrize("table", BY_TABLE)
def test_what_grid_show_prints_agrees_with_the_paper(
    table: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["grid", "show", f"table{table}", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["settings"]
    said = {**BY_TABLE[table].values, **COMMON}
    assert {name: shown[name] for name in said} == said
    if table in (32, 33, 34):
        assert shown["rank"] == 4  # P
    if table >= 35:
        assert shown["crop_rescale"] is (table >= 38)  # P


@pytest.mark.parametrize("table", [1, 17, 30, 34, 38])
def test_what_is_shown_is_what_is_run(table: int) -> None:
    name = f"table{table}"
    options = parse(GridRunCommand, [name, "--model", "sd15"], "grid run")
    shown = paper_settings(PAPER[name])
    for each in ("method", "steps", "batch_size", "accumulation", "learning_rate"):
        assert getattr(options.training, each) == shown[each]
    assert len(options.sampling.texts()) == shown["prompts"]
    assert options.sampling.images_per_prompt == shown["images_per_prompt"]


def test_steps_belong_to_the_data_set_of_a_figure_too() -> None:
    def steps(number: int, model: str) -> int:
        out = ["--out", "x"]
        return parse(FigureCommand, [str(number), "--model", model, *out], "figure").training.steps

    assert [steps(n, "sd15") for n in (17, 18, 19, 20, 21)] == [2500, 2500, 2500, 5000, 5000]
    assert {steps(n, "mini") for n in (17, 20)} == {preset("mini").training.steps}
    assert PAPER["figure6"].concepts == 7


@pytest.mark.parametrize(
    ("number", "prompt"),
    [
        (1, "a {} with a wheat field in the background"),
        (8, "a {} on the beach"),
        (18, "a {} in the snow"),
        (19, "a {} in the snow"),
        (20, "a {} on the beach"),
        (21, "a {} on the beach"),
    ],
)
def test_prompts_are_those_of_the_captions_unless_told(number: int, prompt: str) -> None:
    words = ["--model", "sd15", "--out", "x"]
    assert parse(FigureCommand, [str(number), *words], "figure").sampling.prompts == (prompt,)
    assert parse(GridRunCommand, [f"figure{number}", *words], "grid run").sampling.prompts == (
        prompt,
    )
    own = ["--sampling.prompts", "a {} at night"]
    assert parse(FigureCommand, [str(number), *words, *own], "figure").sampling.prompts == (
        "a {} at night",
    )


def test_a_file_of_some_settings_leaves_the_others_the_table_s_or_figure_s_own(
    tmp_path: Path,
) -> None:
    file = tmp_path / "mine.yaml"
    words = ["--out", "x", "--config", str(file)]
    file.write_text("sampling: {steps: 10}\n")
    flow = parse(GridRunCommand, ["table23", *words], "grid run")
    assert (flow.poison_model, flow.purify_model, flow.sampling.steps) == (("mini",), "mini", 10)
    grid = parse(GridRunCommand, ["figure8", *words], "grid run")
    figure = parse(FigureCommand, ["8", *words], "figure")
    assert grid.sampling == figure.sampling
    assert (figure.sampling.prompts, figure.sampling.steps) == (("a {} on the beach",), 10)
    file.write_text("model: sd15\n")
    assert parse(GridRunCommand, ["table1", *words], "grid run").training.steps == 2500
    assert parse(FigureCommand, ["18", *words], "figure").training.steps == 2500
    assert parse(GridRunCommand, ["table32", *words], "grid run").training.method == "lora"


def _refused(
    command: str, settings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> str:
    """What a command says of a file of settings that it does not take, without the file's name."""
    file = tmp_path / "mine.yaml"
    file.write_text(f"{settings}\n")
    words = ["--out", str(tmp_path / "out"), "--config", str(file)]
    assert main([*command.split(), *words]) == 2
    assert not (tmp_path / "out").exists()
    said = capsys.readouterr().err
    assert f"{file}: " in said
    return said.partition(f"{file}: ")[2]


@pytest.mark.parametrize("command", ["grid run table17 --dry-run", "figure 7", "audit x"])
@pytest.mark.parametrize("cell", ["seeds: 5", "concepts: 2", "poisons: [da]", "defenses: [lm]"])
def test_cells_of_a_file_that_would_be_passed_over_are_refused(
    command: str, cell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = _refused(command, f"cells: {{{cell}, poison_seed: 3}}", tmp_path, capsys)
    assert said.startswith(f"cells.{cell.partition(':')[0]} is for")


@pytest.mark.parametrize(
    ("command", "setting"),
    [("poison x", "poison_model: [mini]"), ("audit x", "purify_model: mini")],
)
def test_models_of_a_file_that_would_be_passed_over_are_refused(
    command: str, setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = _refused(command, setting, tmp_path, capsys)
    assert said.startswith(f"{setting.partition(':')[0]} is for grids")


def test_the_seed_of_poisons_in_a_file_counts_for_grids_and_figures(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("cells: {poison_seed: 3}\n")
    assert own_cells(file, "mini").poison_seed == 3
    file.write_text(settings_yaml(preset("mini")))
    assert own_cells(file, "mini") == preset("mini").cells


def test_a_preset_is_of_what_is_asked_for_not_of_an_options_value() -> None:
    beach = parse(FigureCommand, ["--concepts", "1", "--json", "8", "--out", "x"], "figure")
    assert beach.sampling.prompts == ("a {} on the beach",)
    words = parse(FigureCommand, ["2", "--concepts", "1", "--out", "x"], "figure")
    assert words.sampling == preset("mini").sampling
    own = parse(GridRunCommand, ["mine.yaml", "--no-flip", "--name", "table32"], "grid run")
    assert own.training == replace(preset("mini").training, flip=False)


def test_the_demo_trains_and_scores_as_its_model_does() -> None:
    builtin, real = (parse(DemoCommand, ["--model", name], "demo") for name in ("mini", "sd15"))
    assert (builtin.training, builtin.sampling) == (DEMO.training, DEMO.sampling)
    assert (real.training, real.scoring) == (preset("sd15").training, preset("sd15").scoring)
    assert real.cells == builtin.cells == DEMO.cells
    lora = parse(DemoCommand, ["--method", "lora"], "demo")
    assert lora.training == training_preset("mini", "lora")


def test_models_lists_all_that_have_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {"mini", "mini-v", "mini-rf", "mini-clip"} <= {m["name"] for m in answer["models"]}
    known = {each["name"]: each for each in answer["known"]}
    assert {"sd15", "sd15-rf", "sd21", "sd21-v", "sdxl"} <= set(known)
    assert known["sd15"]["hub"] == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert (known["sdxl"]["image_size"], known["sdxl"]["training"]) == (
        1024,
        "500 steps of 1 image at 0.0005, each of 5 passes",
    )
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert all(each["hub"] in text for each in answer["known"])
