"""Pass sizes: what is measured, reckoned and remembered, and that no row depends on them."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch

from safezone.files import write_json
from safezone.lab import makers, memory, trainings
from safezone.lab.lab import Lab
from safezone.lab.makers import drawing_groups, make_images, read_images
from safezone.lab.memory import (
    CHAIN,
    MEMORY,
    POISONED,
    RUNS,
    TRIAL,
    Capacity,
    ItemBytes,
    OutOfMemory,
    memory_left,
)
from safezone.lab.presets import PRESETS
from safezone.lab.schedule import make, run_grid
from safezone.lab.settings import Sampling
from safezone.lab.stage import job, named
from safezone.models import Model, load_model
from safezone.personalize import Adapter, train
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
    Capacity(tmp_path, tiny_model, "poison", 16, item).fit(tried.append)
    assert tried == [size]


@pytest.mark.parametrize(("free", "size"), [(10**12, 512), (200_000, 160), (100, 1), (0, 1)])
def test_a_pass_on_a_gpu_is_as_large_as_its_free_memory(
    free: int, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = SimpleNamespace(name="big", device=torch.device("cuda"))
    monkeypatch.setattr(memory, "memory_left_on_gpu", lambda device: free)
    assert Capacity(tmp_path, model, "poison", POISONED.on(model), 1000).size == size


def kept_for_gradients(call: Callable[[], object]) -> int:
    """A peak of memory for models on the processor: the bytes that gradients keep."""
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        call()
    return kept


def test_what_an_item_takes_is_tried_with_one_and_with_several(tiny_model: Model) -> None:
    bytes_tried = ItemBytes.tried(tiny_model, kept_for_gradients)
    reckoned = ItemBytes.reckoned(tiny_model)
    assert 1 < bytes_tried.trained <= reckoned.trained
    assert CHAIN * bytes_tried.trained < bytes_tried.poisoned <= reckoned.poisoned
    assert bytes_tried.drawn == 2  # a drawing keeps nothing for gradients


def test_a_trial_that_does_not_fit_counts_one_item_alone(tiny_model: Model) -> None:
    def peak(call: Callable[[], object]) -> int:
        sizes.append(0)
        if len(sizes) % 2 == 0:
            full(TRIAL)
        return 700

    sizes: list[int] = []
    assert ItemBytes.tried(tiny_model, peak) == ItemBytes(700 + CHAIN * 700, 700, 1400)


def stand_in(device: str, sharers: int, tmp_path: Path) -> Any:
    """A lab whose drawings have three images each, each of one byte."""
    sampling = SimpleNamespace(texts=lambda: ["a", "b", "c"], images_per_prompt=1)
    return SimpleNamespace(
        folder=tmp_path,
        model=SimpleNamespace(name="big", device=torch.device(device)),
        settings=SimpleNamespace(sampling=sampling),
        sharers=sharers,
        item_bytes=lambda model: ItemBytes(1, 1, 1),
    )


@pytest.mark.parametrize(
    ("device", "free", "sharers", "sizes"),
    [
        ("cpu", 10**6, 1, [5, 2]),
        ("cuda", 10**6, 1, [5, 2]),
        ("cuda", 10**6, 2, [3, 2, 1, 1]),
        ("cuda", 9, 1, [2, 2, 1, 2]),
        ("cuda", 1, 1, [1] * 7),
    ],
)
def test_adapters_of_one_seed_share_a_drawing_pass(
    device: str,
    free: int,
    sharers: int,
    sizes: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "memory_left_on_gpu", lambda device: free)
    jobs: list[Any] = [SimpleNamespace(run=SimpleNamespace(seed=i % 7 // 5)) for i in range(7)]
    lab = stand_in(device, sharers, tmp_path)
    groups = list(drawing_groups(lab, jobs))
    assert [len(group) for group in groups] == sizes
    assert [job for group in groups for job in group] == jobs
    assert all(len({job.run.seed for job in group}) == 1 for group in groups)


def test_images_that_share_a_pass_are_those_drawn_alone(tmp_path: Path, lab: Lab) -> None:
    together = small_lab(tmp_path / "together", lab.model)
    made: dict[str, list[torch.Tensor]] = {}
    for each in (lab, together):
        runs = [job(each, run) for run in grid(each, seeds=1)]
        make(each, grid(each), last="personalize")
        for group in [runs] if each is together else [[run] for run in runs]:
            make_images(each, group)
        made[str(each.folder)] = [read_images(run.of["generate"].place)[0] for run in runs]
    alone, shared = made.values()
    for one, other in zip(alone, shared, strict=True):
        torch.testing.assert_close(one.int(), other.int(), atol=1, rtol=0)
    assert len({image.numpy().tobytes() for image in alone}) == len(alone)


def test_a_prime_number_of_images_is_not_drawn_one_by_one(
    tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def told(*_: object, batch_size: int, **__: object) -> NoReturn:
        sizes.append(batch_size)
        raise KeyboardInterrupt

    monkeypatch.setattr(makers, "draw", told)
    artifact = job(lab, grid(lab).runs[0]).of["generate"]
    adapter = Adapter(torch.zeros(1, lab.model.embedding_width), "<one>", "toy")
    drawing = makers.DrawingJob(artifact, adapter, "noise", 0, {})
    for count, captured in ((37, False), (37, True), (36, False), (120, False), (12, True)):
        sampling = Sampling(("a {}",), images_per_prompt=count)
        with pytest.raises(KeyboardInterrupt):
            makers.write_images(lab.model, [drawing], sampling, 32, captured)
    assert sizes == [19, 1, 18, 30, 12]


def test_what_ran_out_is_not_tried_again_however_much_there_seems_to_be(
    tmp_path: Path, tiny_model: Model, left: list[int]
) -> None:
    seen: list[int] = []

    def attempt(size: int) -> None:
        seen.append(size)
        if size > 5:
            full(size)

    capacity = Capacity(tmp_path, tiny_model, "train", 16, 1)
    capacity.fit(attempt)
    left[0] = 10**6
    assert replace(capacity, wanted=32).size == capacity.known == 4
    assert seen == [16, 8, 4]
    assert read_json(tmp_path / MEMORY) == {"train tiny": 4}
    assert replace(capacity, kind="other").size == 16


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path: Path, tiny_model: Model) -> None:
    def attempt(size: int) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        Capacity(tmp_path, tiny_model, "poison", 16, 1).fit(attempt)
    with pytest.raises(OutOfMemory, match="poison tiny: out of memory with a single item"):
        Capacity(tmp_path, tiny_model, "poison", 16, 1).fit(full)


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
    item = ItemBytes.of(model)
    assert (training.runs_per_pass, RUNS.on(model)) == (None, 32)
    wanted = {
        "train": (32, item.trained * training.batch_size),
        "poison": (5, item.poisoned),
        "generate": (32, item.drawn),
    }
    for kind, (count, taken) in wanted.items():
        assert Capacity(tmp_path, model, kind, count, taken).size == count


def test_no_item_takes_more_than_was_reckoned(tiny_model: Model) -> None:
    """Against what torch's own profiler says that one sample's gradient takes."""
    latents = torch.zeros(1, 4, 8, 8, requires_grad=True)
    words = tiny_model.embed_text(tiny_model.tokenize(["a toy"]))
    time = torch.zeros(1, dtype=torch.long)
    kept = kept_for_gradients(lambda: tiny_model.predict(latents, time, words).sum().backward())
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
    """The pages of a large tensor are there again for the next one.

    In one of three processes: the system itself may take pages back at any time.
    """
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
    command = [sys.executable, "-c", program]
    said = (subprocess.check_output(command, text=True) for _ in range(3))
    assert any(int(each) < 500 for each in said)  # thousands where the pages are given back
