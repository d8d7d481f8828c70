"""The benchmarks that need a GPU run to their end on a processor, on tiny models."""

import json
from pathlib import Path

import pytest

from benchmarks import gpu


@pytest.mark.slow
def test_the_gpu_benchmark_measures_every_row(
    tmp_path: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tiny_model_folder)
    options = ["--folder", folder, "--small", folder, "--device", "cpu", "--tiny"]
    gpu.main([*options, "--json", str(tmp_path / "gpu.json")])
    numbers = json.loads((tmp_path / "gpu.json").read_text())
    rows = {(row["what"], row["precision"]): row["ms"] for row in numbers["rows"]}
    assert len(rows) == len(numbers["rows"]) == 14
    assert min(rows.values()) > 0
    assert numbers["tiny"]
    assert {what.split(",")[0] for what, _ in rows} >= {"adm+", "ea", "sds-", "da", "LoRA"}
    assert "| textual inversion, 1 in a pass, a run | bfloat16 |" in capsys.readouterr().out
