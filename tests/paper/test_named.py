"""The rows of the paper's tables and figures: their runs, costs and headline numbers."""

import hashlib
import json
from pathlib import Path

import pytest

from safezone.cli import main
from safezone.lab.run import Scope
from safezone.paper.named import command, cost, finding, headline
from safezone.paper.rows import PAPER

GOLDEN = json.loads((Path(__file__).parent / "grids.json").read_text(encoding="utf-8"))
"""Of ten concepts and three seeds: model, metric, table, number of runs, hash of the runs."""
SCOPE = Scope("m", tuple("ABCDEFGHIJ"), (0, 1, 2))


def test_every_table_and_figure_has_a_row() -> None:
    assert list(PAPER) == list(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_row_has_the_runs_that_it_always_had(name: str) -> None:
    model, metric, table, count, digest = GOLDEN[name]
    row = PAPER[name]
    grid = row.build(SCOPE)
    assert (row.model, grid.metric, grid.table, len(grid)) == (model, metric, table, count)
    cells = [
        "|".join(map(str, (r.concept, r.poison, r.defense, r.method, r.model, r.seed)))
        for r in grid
    ]
    assert hashlib.sha256("\n".join(cells).encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("table2", "108 trainings and 3 poisonings for each concept and seed"),
        ("table9", "35 trainings and 6 poisonings for each concept and seed"),
        ("table16", "none after table1, whose runs these are"),
        ("table20", "63 trainings and 6 poisonings for each concept and seed"),
        ("table38", "70 trainings and 6 poisonings for each concept and seed"),
        ("figure3", "2 trainings of 500 of 5000 steps and 1 poisoning a seed"),
        ("figure6", "4 trainings and 3 poisonings for each concept and seed, none after table9"),
        (
            "figure8",
            "20 trainings and 1 poisoning a seed, none after table17; 4 images a training",
        ),
        ("figure17", "none after table1, whose runs these are"),
        (
            "figure19",
            "70 trainings and 6 poisonings a seed, none after table1; 4 images a training",
        ),
    ],
)
def test_costs_are_counted(name: str, expected: str) -> None:
    assert cost(PAPER[name]) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("table1", "clean 0.46; over the poisons Nominal 0.21, best SZT 0.46"),
        (
            "table2",
            "default and best: ADM+ 0.10, best 0.12 (schedule=cosine;lr=5e-4;steps=1k); EA 0.08, "
            "best 0.11 (schedule=constant;lr=5e-5;steps=1k)",
        ),
        ("table7", "default and best: ADM+ 453, best 336 (T800); EA 443, best 413 (T700)"),
        ("table19", "clean 0.51; over the poisons Nominal 0.46, best JPEG+T600 0.50, SZT 0.49"),
        ("table31", "clean 325; over the poisons Nominal 328, best LM 310, SZT 317"),
        ("table38", "clean 0.35; over the poisons Nominal 0.33, best JPEG+T600 0.34, SZT 0.30"),
    ],
)
def test_headline_numbers_are_the_printed_ones(name: str, expected: str) -> None:
    assert finding(PAPER[name]) == expected


def test_headlines_name_method_model_and_data() -> None:
    assert headline(PAPER["table15"]) == (
        "Poisons against ten defenses: FID, textual inversion, CustomConcept101."
    )
    assert headline(PAPER["table28"]).endswith("textual inversion, SD 2.1, velocity.")
    assert headline(PAPER["table39"]).endswith("FID, Custom Diffusion with crops.")


@pytest.mark.parametrize("name", ["table30", "table17", "figure8", "figure6"])
def test_the_command_that_is_shown_is_one_that_starts(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from safezone.commands.arguments import parse
    from safezone.commands.grid_run import GridRunCommand
    from safezone.paper.named import model_for

    assert main(["grid", "show", name]) == 0
    line = command(PAPER[name])
    assert f"    {line}\n" in capsys.readouterr().out
    options = parse(GridRunCommand, line.split()[3:])
    assert options.grid == name
    assert model_for(name, options.model)  # raises UserError where there is none
