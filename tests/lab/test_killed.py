"""A measurement that is killed at any moment and started again gives the same bytes."""

import signal
import time
from pathlib import Path

from processes import start
from safezone.cli import main


def _arguments(model: Path, out: Path) -> list[str]:
    return [
        *("claim", "--model", str(model), "--out", str(out), "--concepts", "1", "--seeds", "2"),
        *("--poison", "adm+", "--defense", "nominal", "--defense", "szt", "--steps", "8"),
        *("--checkpoint-every", "2", "--poisoning.steps", "4"),
        *("--sampling.prompts", "a {}", "--sampling.steps", "2"),
        *("--instance-encoder", "mini-instance", "--text-image-encoder", "mini-clip"),
    ]


def _results(folder: Path) -> dict[str, bytes]:
    """Rows, embeddings and images; folders by their content keys."""
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in (".safetensors", ".png") or path.name in ("rows.csv", "rows.jsonl")
    }
    assert found
    return found


def test_killed_and_resumed_equals_undisturbed(tmp_path: Path, tiny_model_folder: Path) -> None:
    assert main(_arguments(tiny_model_folder, tmp_path / "whole")) == 0
    halted = tmp_path / "halted"
    kills = 0
    for stage in ("poison", "personalize", "generate"):
        process = start(_arguments(tiny_model_folder, halted), tmp_path)
        # as soon as the stage before has left something, at a moment that is never the same
        while process.exitcode is None and not (halted / "work" / stage).exists():
            time.sleep(0.01)
        time.sleep(0.05)
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills >= 1
    assert main(_arguments(tiny_model_folder, halted)) == 0
    assert _results(halted) == _results(tmp_path / "whole")
