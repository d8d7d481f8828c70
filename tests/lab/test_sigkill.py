"""A grid that is killed at random moments and resumed has the rows and artifacts of another."""

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from safezone.lab.lab import Lab
from safezone.lab.run import Grid
from safezone.lab.store import WORK
from safezone.models import Model
from safezone.results.folder import measure
from small_lab import SETTINGS, grid, small_lab

KILLS = 20
_COMPARED = (".png", ".safetensors", ".csv", ".tex", ".jsonl")
_RECORDS = ("needs.json", "images.json", "key.json", "run.json", "manifest.json")


def _lab(workspace: Path, model: Model) -> Lab:
    training = replace(SETTINGS.training, steps=8, checkpoint_every=2, runs_per_pass=4)
    poisoning = replace(SETTINGS.poisoning, steps=3)
    settings = replace(SETTINGS, training=training, poisoning=poisoning)
    return replace(small_lab(workspace / WORK, model), settings=settings)


def _measure(lab: Lab, runs: Grid, workspace: Path) -> None:
    measure(lab, runs, workspace, workspace / runs.name, title="t", command="c", progress=False)


def _killed(lab: Lab, runs: Grid, workspace: Path, seconds: float) -> bool:
    """Whether the measurement, in a process of its own, was still at work after the time."""
    process = os.fork()
    if process == 0:
        os.closerange(0, 3)
        try:
            _measure(lab, runs, workspace)
        finally:
            os._exit(0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(process, os.WNOHANG) != (0, 0):
            return False
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def _files(workspace: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(workspace.rglob("*")):
        name = str(path.relative_to(workspace))
        if path.suffix in _COMPARED or path.name in _RECORDS:
            yield name, path.read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_twenty_kills_at_random_moments_change_nothing(tmp_path: Path, tiny_model: Model) -> None:
    whole = tmp_path / "whole"
    runs = grid(_lab(whole, tiny_model), seeds=2)
    started = time.monotonic()
    _measure(_lab(whole, tiny_model), runs, whole)
    duration = time.monotonic() - started
    expected = dict(_files(whole))
    assert sum(name.endswith("learned_embeds.safetensors") for name in expected) == len(runs)
    moments = random.Random(6)
    kills = grids = 0
    while kills < KILLS:
        workspace = tmp_path / f"halted-{grids}"
        lab = _lab(workspace, tiny_model)
        while kills < KILLS and _killed(
            lab, runs, workspace, moments.uniform(0.05, 0.3) * duration
        ):
            kills += 1
        _measure(lab, runs, workspace)
        found = dict(_files(workspace))
        assert found.keys() == expected.keys()
        assert [name for name, content in found.items() if content != expected[name]] == []
        assert not list((workspace / WORK / "training").iterdir())
        grids += 1
    assert kills == KILLS
