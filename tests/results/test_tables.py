"""Tables order, count and rank; their three forms hold the same numbers."""

import csv
import io
import math
from dataclasses import replace

import pytest

from safezone.results.tables import (
    WIDEST,
    WRITERS,
    label,
    number,
    score_table,
    to_csv,
    to_latex,
    to_markdown,
    with_limits,
)
from safezone.scores.rows import Row


def test_clean_and_nominal_come_first(rows: list[Row]) -> None:
    table = score_table(rows, "instance_similarity")
    assert table.poisons == ("clean", "adm+")
    assert table.defenses == ("nominal", "t600", "szt")


def test_ties_and_counts(rows: list[Row]) -> None:
    table = score_table(rows, "instance_similarity")
    cells = {key: (cell.best, cell.tied) for key, cell in table.cells.items()}
    assert cells["adm+", "nominal"] == (False, False)
    assert cells["adm+", "szt"] == cells["adm+", "t600"] == (True, True)
    cell = table.cells["adm+", "szt"]
    assert (cell.n_concepts, cell.n_runs) == (6, 12)
    assert (cell.n_generated, cell.n_reference) == ((12, 12), (5, 5))
    assert cell.interval.low < cell.interval.mean < cell.interval.high


def test_a_sole_best_is_not_tied(rows: list[Row]) -> None:
    table = score_table([row for row in rows if row.defense != "t600"], "instance_similarity")
    assert (table.cells["adm+", "szt"].best, table.cells["adm+", "szt"].tied) == (True, False)


def test_lower_distances_are_better(rows: list[Row]) -> None:
    table = score_table([row for row in rows if row.defense != "t600"], "frechet")
    assert table.cells["adm+", "szt"].best and not table.cells["adm+", "nominal"].best


def test_failed_runs_are_left_out(rows: list[Row]) -> None:
    failed = [replace(row, value=math.nan) if row.seed else row for row in rows]
    assert score_table(failed, "clip_score").cells["clean", "szt"].n_runs == 6


def test_mixed_models_are_refused(rows: list[Row]) -> None:
    with pytest.raises(ValueError, match="one model and method"):
        score_table([*rows, replace(rows[0], model="other")], "clip_score")


def test_csv_holds_the_full_numbers(rows: list[Row]) -> None:
    table = score_table(rows, "instance_similarity")
    records = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert len(records) == 6
    for record in records:
        cell = table.cells[record["poison"], record["defense"]]
        assert float(record["mean"]) == cell.interval.mean
        assert (record["n_generated"], record["n_reference"]) == ("12", "5")


def test_markdown_and_latex_hold_the_same_cells(rows: list[Row]) -> None:
    table = score_table(rows, "instance_similarity")
    markdown, latex = to_markdown(table), to_latex(table)
    assert markdown.splitlines()[0] == "| Poison | Nominal | T600 | SZT |"
    for cell in table.cells.values():
        assert with_limits(cell.interval) in markdown
        assert with_limits(cell.interval).replace("−", "$-$") in latex
    assert "5 reference images a run" in markdown
    assert latex.count(r"\\") == 3 and r"95\% interval" in latex
    assert latex.count("{") == latex.count("}")


def test_of_many_settings_each_has_a_line(rows: list[Row]) -> None:
    (row, *_), steps = rows, range(1, WIDEST + 2)
    many = [
        replace(row, poison=poison, defense=f"steps={n}k")
        for n in steps
        for poison in ("clean", "adm+")
    ]
    table = score_table(many, row.metric, {("adm+", "steps=1k"): 0.4})
    markdown, latex = to_markdown(table).splitlines(), to_latex(table)
    assert markdown[0] == "| Setting | Clean | ADM+ |"
    assert [line.split(" | ")[0] for line in markdown[2:-2]] == [f"| steps={n}k" for n in steps]
    assert markdown[2].endswith(" = (0.40) |") and "best of a column" in markdown[-1]
    assert r"\begin{tabular}{lcc}" in latex and r"Setting & Clean & ADM+ \\" in latex
    few = score_table(many[:-2], row.metric)
    assert to_markdown(few).startswith("| Poison | steps=1k |")
    assert to_markdown(replace(few, paper={("adm+", "szt"): 0.4})).startswith("| Setting |")


def test_a_sole_best_is_bold(rows: list[Row]) -> None:
    table = score_table([row for row in rows if row.defense != "t600"], "instance_similarity")
    text = with_limits(table.cells["adm+", "szt"].interval)
    assert f"**{text}**" in to_markdown(table)
    assert rf"\textbf{{{text}}}" in to_latex(table)
    assert "bold is the best" in table.caption()


def test_the_caption_explains_the_marks_that_are_there(rows: list[Row]) -> None:
    alone = score_table([row for row in rows if row.defense == "szt"], "instance_similarity")
    assert not any(cell.best for cell in alone.cells.values())
    assert "bold" not in alone.caption() and "=" not in alone.caption()
    twins = [replace(row, defense="twin") for row in rows if row.defense == "szt"]
    tied = score_table([*twins, *(row for row in rows if row.defense == "szt")], alone.metric)
    assert "= is the best" in tied.caption() and "bold" not in tied.caption()


def test_special_characters_of_latex(rows: list[Row]) -> None:
    odd = [replace(row, defense="my_50%&{x}\\^~#$") for row in rows if row.defense == "szt"]
    latex = to_latex(score_table(odd, "clip_score"))
    expected = r"MY\_50\%\&\{X\}\textbackslash{}\textasciicircum{}\textasciitilde{}\#\$"
    assert expected in latex


@pytest.mark.parametrize("suffix", [".csv", ".md", ".tex"])
def test_tables_are_written(rows: list[Row], suffix: str) -> None:
    assert "SZT" in WRITERS[suffix](score_table(rows, "clip_score")).upper()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("adm+", "ADM+"),
        ("jpeg+t600", "JPEG+T600"),
        ("clean", "Clean"),
        ("advclean+lm-d16", "AdvClean+LM-D16"),
    ],
)
def test_labels(name: str, text: str) -> None:
    assert label(name) == text


@pytest.mark.parametrize(
    ("value", "text"), [(-0.001, "0.00"), (-0.25, "−0.25"), (1.005e3, "1005.00"), (math.nan, "–")]
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text
