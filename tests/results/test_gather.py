"""scripts/gather.py: rows measured in parts become one result, or a sentence says why not."""

import math
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from safezone.files import write_text
from safezone.lab.presets import PRESETS, settings_yaml
from safezone.lab.settings import Settings
from safezone.scores import Row, read_rows, write_rows

SCRIPT = Path(__file__).parents[2] / "scripts" / "gather.py"


def row(poison: str, value: float, concept: str = "Mug", defense: str = "nominal") -> Row:
    cell = (concept, poison, defense, "textual inversion", "mini", 0)
    return Row(*cell, "instance_similarity", value, 12, 5)


def part(folder: Path, rows: list[Row], settings: Settings = PRESETS["mini"]) -> str:
    folder.mkdir()
    write_rows(folder / "rows.csv", rows)
    write_text(folder / "settings.yaml", settings_yaml(settings))
    return str(folder)


def gather(*arguments: str) -> None:
    main: Any = runpy.run_path(str(SCRIPT))["main"]
    main([*arguments, "--title", "Both"])


def test_parts_are_one_result(tmp_path: Path) -> None:
    failed = replace(row("clean", math.nan, "Fork"), reason="it became NaN")
    shared = [row("clean", 0.7), row("clean", 0.6, "Bell"), failed]
    first = part(tmp_path / "one", [*shared, row("adm+", 0.4), row("adm+", 0.3, "Bell")])
    mini = PRESETS["mini"]
    other = replace(mini, poisoning=replace(mini.poisoning, steps=100))
    second = part(tmp_path / "two", [*shared, row("da", 0.5), row("da", 0.2, "Bell")], other)
    gather(first, second, "--out", str(tmp_path / "all"))
    rows = read_rows(tmp_path / "all" / "rows.csv")
    assert [each.poison for each in rows] == ["clean"] * 3 + ["adm+"] * 2 + ["da"] * 2
    assert "| DA |" in (tmp_path / "all" / "table.md").read_text()
    assert "steps: 100" in (tmp_path / "all" / "settings-2.yaml").read_text()
    gather(first, "--out", str(tmp_path / "all"))
    assert not (tmp_path / "all" / "settings-2.yaml").exists()


def test_a_table_of_the_paper_has_its_rows_and_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    concepts = ("Mug", "Bell", "Boat")
    own = [row("clean", 0.7, each) for each in concepts] + [row("adm+", 0.4, "Mug", "szt")]
    first = part(tmp_path / "one", [*own, row("mist", 0.3), row("adm+", 0.1, "Mug", "mpp")])
    table = tmp_path / "table17"
    gather(first, "--out", str(table), "--grid", "table17", "--concepts", "2")
    assert "3 of 140 runs of table17 are there" in capsys.readouterr().out
    cells = [(r.concept, r.poison, r.defense) for r in read_rows(table / "rows.csv")]
    assert cells == [
        ("Mug", "clean", "nominal"), ("Mug", "adm+", "szt"), ("Bell", "clean", "nominal")
    ]  # fmt: skip
    assert "(0.44)" in (table / "table.md").read_text()  # the paper's clean similarity
    with pytest.raises(SystemExit, match="2"):
        gather(first, "--out", str(tmp_path / "no"), "--grid", "table77")
    assert "there is no grid 'table77'" in capsys.readouterr().err


def test_a_grid_of_one_s_own_has_its_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.yaml"
    axes = "{poisons: [adm+, clean], defenses: [nominal], methods: [lora], concepts: [Bell]}"
    own.write_text(f"name: own\naxes: {axes}\n")
    rows = [replace(row("clean", 0.7, "Bell"), method="lora"), row("clean", 0.6, "Bell")]
    first = part(tmp_path / "one", [*rows, replace(rows[0], concept="Mug")])
    gather(first, "--out", str(tmp_path / "all"), "--grid", str(own))
    assert "1 of 2 runs of own are there" in capsys.readouterr().out
    assert [each.value for each in read_rows(tmp_path / "all" / "rows.csv")] == [0.7]
    own.write_text("name: own\naxes: {poisons: [nothing], defenses: [nominal]}\n")
    with pytest.raises(SystemExit, match="2"):
        gather(first, "--out", str(tmp_path / "no"), "--grid", str(own))
    assert f"{own}, line 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "rate", "sentence"),
    [
        (0.700001, 2e-2, "two has another instance_similarity of Mug,clean,nominal,0"),
        (0.7, 1e-2, "two was measured with other settings"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(
    value: float, rate: float, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = part(tmp_path / "one", [row("clean", 0.7)])
    mini = PRESETS["mini"]
    other = replace(mini, training=replace(mini.training, learning_rate=rate))
    second = part(tmp_path / "two", [row("clean", value), row("da", 0.5)], other)
    with pytest.raises(SystemExit, match="2"):
        gather(first, second, "--out", str(tmp_path / "all"))
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "all").exists()


def test_what_would_be_lost_or_empty_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, empty = part(tmp_path / "one", [row("clean", 0.7)]), part(tmp_path / "two", [])
    before = (tmp_path / "one" / "rows.csv").read_text()
    for parts, out, sentence in (
        ([first, empty], first, "is a part and would be lost"),
        ([empty], str(tmp_path / "all"), "hold no rows"),
    ):
        with pytest.raises(SystemExit, match="2"):
            gather(*parts, "--out", out, "--grid", "table17")
        assert sentence in capsys.readouterr().err
    assert (tmp_path / "one" / "rows.csv").read_text() == before
    assert not (tmp_path / "all").exists()
