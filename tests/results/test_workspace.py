"""Which results a workspace's page shows, and in which order."""

from pathlib import Path
from typing import Any

from safezone.files import write_json
from safezone.results.artifacts import INDEX
from safezone.results.folder import grids_in


def test_tables_come_in_the_papers_order_and_what_has_no_number_last(tmp_path: Path) -> None:
    numbers: dict[str, Any] = {"a": None, "b": "12", "c": 17, "d": 2}
    for name, number in numbers.items():
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / INDEX, {"grid": name, "table": number})
    (tmp_path / "claim").mkdir()
    write_json(tmp_path / "claim" / INDEX, {"grid": None, "table": None})
    assert [folder.name for folder in grids_in(tmp_path)] == ["d", "c", "a", "b"]
