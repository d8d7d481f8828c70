"""Pass sizes: what is measured, reckoned and remembered, and that no row depends on them."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from safezone.files import write_json
from safezone.lab import memory, trainings
from safezone.lab.lab import Lab
from safezone.lab.memory import MEMORY, Capacity, ItemBytes, OutOfMemory, memory_left
from safezone.lab.schedule import run_grid
from safezone.lab.settings import PRESETS
from safezone.lab.stage import named
from safezone.models import Model, load_model
from safezone.personalize import train
from safezone.personalize.checkpoints import CHECKPOINT
from safezone.reading import read_json
from small_lab import grid, small_lab

GIGABYTE = 10**9


def full(size: int) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The memory that is left, to be changed."""
    bytes_left = [1000]
    monkeypatch.setattr(memory, "memory_left", lambda: bytes_left[0])
    return bytes_left


@pytest.mark.parametrize(
    ("free", "item", "size"),
    [(1000, 40, 16), (500, 40, 10), (100, 40, 2), (100, 60, 1), (100, 500, 1)],
)
def test_a_pass_on_the_processor_surely_fits(
    free: int, item: int, size: int, tmp_path: Path, tiny_model: Model, left: list[int]
) -> None:
    left[0] = free
    tried: list[int] = []
    Capacity(tmp_path, tiny_model).fit("poison", 16, item, tried.append)
    assert tried == [size]


def test_a_pass_on_a_gpu_starts_with_the_wanted_size(tmp_path: Path, left: list[int]) -> None:
    model: Any = SimpleNamespace(name="big", device=torch.device("cuda"))
    assert Capacity(tmp_path, model).size("poison", 16, 10**9) == 16


def test_what_ran_out_is_not_tried_again_however_much_there_seems_to_be(
    tmp_path: Path, tiny_model: Model, left: list[int]
) -> None:
    seen: list[int] = []

    def attempt(size: int) -> None:
        seen.append(size)
        if size > 5:
            full(size)

    capacity = Capacity(tmp_path, tiny_model)
    capacity.fit("train", 16, 1, attempt)
    left[0] = 10**6
    assert capacity.size("train", 32, 1) == capacity.known("train") == 4
    assert seen == [16, 8, 4]
    assert read_json(tmp_path / MEMORY) == {"train tiny": 4}
    assert capacity.size("other", 16, 1) == 16


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path: Path, tiny_model: Model) -> None:
    def attempt(size: int) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        Capacity(tmp_path, tiny_model).fit("poison", 16, 1, attempt)
    with pytest.raises(OutOfMemory, match="poison tiny: out of memory with a single item"):
        Capacity(tmp_path, tiny_model).fit("poison", 16, 1, full)


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = SimpleNamespace(available=17_000_000)
    monkeypatch.setattr("psutil.virtual_memory", lambda: there)
    assert memory_left(tmp_path) == 17_000_000
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 1000000\n")
    assert memory_left(tmp_path) == 17_000_000
    (tmp_path / "memory.max").write_text("8000000\n")
    assert memory_left(tmp_path) == 4_000_000  # files counted as free


def test_the_built_in_models_passes_stay_as_large(tmp_path: Path, left: list[int]) -> None:
    left[0] = 16 * GIGABYTE  # of a machine of 23
    model, training = load_model("mini"), PRESETS["mini"].training
    capacity, item = Capacity(tmp_path, model), ItemBytes.of(model)
    assert training.runs_per_pass == 32
    assert capacity.size("train", 32, item.trained * training.batch_size) == 32
    assert capacity.size("poison", 5, item.poisoned) == 5
    assert capacity.size("generate", 32, item.drawn) == 32


def test_no_item_takes_more_than_was_reckoned(tiny_model: Model) -> None:
    """Against what torch's own profiler says that one sample's gradient takes."""
    latents = torch.zeros(1, 4, 8, 8, requires_grad=True)
    words = tiny_model.embed_text(tiny_model.tokenize(["a toy"]))
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        tiny_model.predict(latents, torch.zeros(1, dtype=torch.long), words).sum().backward()
    assert 0 < kept <= ItemBytes.of(tiny_model).trained


def test_rows_do_not_depend_on_the_size(
    tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def counting(model: object, runs: list[object], *rest: object, **more: object) -> object:
        seen.append(len(runs))
        return train(model, runs, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(trainings, "train", counting)
    runs = grid(lab)
    large = run_grid(lab, runs, progress=False).rows
    assert max(seen) == 2
    seen.clear()
    monkeypatch.setattr(memory, "memory_left", lambda: 0)
    other = small_lab(tmp_path / "tight", lab.model)
    small = run_grid(other, runs, progress=False).rows
    assert set(seen) == {1}
    assert [replace(row, value=0.0) for row in small] == [replace(row, value=0.0) for row in large]
    values = torch.tensor([[row.value for row in rows] for rows in (small, large)])
    torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=1e-3)


def test_a_begun_training_keeps_its_runs_when_memory_is_short(tmp_path: Path) -> None:
    artifacts = []
    for name in ("begun", "new"):
        two = [named("personalize").artifact(tmp_path / "work", name, name, i) for i in (1, 2)]
        members = [trainings.member(each, tmp_path) for each in two]
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / trainings.MEMBERS, {"members": members})
        artifacts += two
    (tmp_path / "begun" / CHECKPOINT).write_bytes(b"")
    trainings.dissolve(tmp_path, artifacts, 1, begun=False)
    assert (tmp_path / "begun").exists()
    assert not (tmp_path / "new").exists()
    trainings.dissolve(tmp_path, artifacts, 1, begun=True)
    assert not (tmp_path / "begun").exists()


def test_memory_that_tensors_leave_is_kept() -> None:
    """The pages of a large tensor are there again for the next one."""
    if not sys.platform.startswith("linux"):
        pytest.skip("glibc only")
    program = (
        "import resource, torch; from safezone.lab.memory import keep_freed_memory\n"
        "keep_freed_memory()\n"
        "for _ in range(3): torch.ones(2**20)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(100): torch.ones(2**20)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    faults = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    assert int(faults) < 500  # thousands where the pages are given back
