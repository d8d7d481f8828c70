"""Rows survive their files; broken files are told apart in one sentence."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from safezone.errors import UserError
from safezone.scores.rows import Row, read_rows, summarise, write_rows

ROW = Row("vase, blue", "adm+", "szt", "textual-inversion", "mini", 1, "clip_score", 0.1, 12, 0)
HEAD = "concept,poison,defense,method,model,seed,metric,value,n_generated,n_reference,reason"
ROWS = [ROW, replace(ROW, value=1 / 3), replace(ROW, value=math.inf), replace(ROW, concept='"é"')]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_rows_come_back_as_they_were(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "deep" / f"rows{suffix}"
    write_rows(path, ROWS)
    assert read_rows(path) == ROWS
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_the_model_of_the_poison_is_a_column_where_a_row_has_one(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"rows{suffix}"
    write_rows(path, ROWS)
    assert "poison_model" not in path.read_text()
    carried = [ROW, replace(ROW, model="mini-v", poison_model="mini")]
    write_rows(path, carried)
    assert path.read_text().count("poison_model") == (1 if suffix == ".csv" else 2)
    assert read_rows(path) == carried


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_failed_value_comes_back_as_nan(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    write_rows(path, [replace(ROW, value=math.nan)])
    assert math.isnan(read_rows(path)[0].value)
    if suffix == ".jsonl":
        assert json.loads(path.read_text())["value"] == "nan"  # strict JSON has no NaN


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("rows.jsonl", "{", "line 1: not JSON"),
        ("rows.jsonl", "[]\n", "exactly the columns"),
        ("rows.jsonl", '{"concept": "a"}\n', "exactly the columns"),
        ("rows.csv", "concept,poison\na,b\n", "row 1"),
        ("rows.csv", f"{HEAD}\na,clean,nominal,lora,mini,0,fid,1.0,5,5\n", "row 1: .* columns"),
        ("rows.jsonl", json.dumps({**asdict(ROW), "poison_model": None}), "exactly the columns"),
        ("rows.jsonl", "[" * 100_000, "line 1: not JSON"),
        ("rows.jsonl", '{"seed": ' + "1" * 5000 + "}", "line 1: not JSON"),
        ("rows.jsonl", json.dumps({**asdict(ROW), "seed": math.inf}), "line 1: .*infinity"),
        ("rows.jsonl", json.dumps({**asdict(ROW), "seed": 0.5}), "seed is 0.5; give a whole"),
        ("rows.csv", f"{HEAD}\n{'a' * 200_000}\n", "rows.csv is not CSV"),
        ("rows.txt", "", "jsonl or .csv"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, text: str, told: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError, match=told) as raised:
        read_rows(path)
    assert str(path) in str(raised.value)


def test_a_wrong_number_is_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_rows(path, [ROW])
    path.write_text(path.read_text().replace(",0.1,", ",much,"))
    with pytest.raises(UserError, match="row 1"):
        read_rows(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="does not exist; check the spelling, or give a file of rows"
    ):
        read_rows(tmp_path / "none.csv")


def test_rows_of_an_unknown_suffix_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"jsonl or \.csv"):
        write_rows(tmp_path / "rows.xlsx", ROWS)
    assert list(tmp_path.iterdir()) == []


def test_summarise_groups_and_orders_seeds() -> None:
    rows = [
        replace(ROW, concept="b", seed=10, value=3.0),
        replace(ROW, concept="b", seed=2, value=2.0),
        replace(ROW, concept="a", seed=2, value=1.0),
        replace(ROW, concept="a", seed=3, value=math.nan),
        replace(ROW, poison="clean", value=0.5),
        replace(ROW, metric="frechet", value=9.0),
    ]
    assert summarise(rows, "clip_score") == {
        ("adm+", "szt"): {"b": {2: 2.0, 10: 3.0}, "a": {2: 1.0}},
        ("clean", "szt"): {"vase, blue": {ROW.seed: 0.5}},
    }
    assert list(summarise(rows, "clip_score")["adm+", "szt"]["b"]) == [2, 10]
    with pytest.raises(UserError, match="two rows hold clip_score of b, adm\\+, szt, seed 2"):
        summarise([*rows, rows[1]], "clip_score")
