"""Pass sizes: what is measured, reckoned and remembered, and that no row depends on them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from safezone.defenses import defense
from safezone.files import read_json, write_json
from safezone.lab import probes, trainings
from safezone.lab.lab import Lab
from safezone.lab.memory import MEMORY, SHARE, Capacity, Probe
from safezone.lab.meters import NOISE, Cuda, Host, meter_of
from safezone.lab.schedule import run_grid
from safezone.lab.settings import PRESETS
from safezone.lab.stage import named
from safezone.models import load_model
from safezone.personalize import Adapter, TrainingRun, train
from safezone.personalize.checkpoints import CHECKPOINT
from small_lab import concept, grid, small_lab

GIGABYTE = 10**9


@dataclass
class Fake:
    """A meter of numbers; ``looked`` counts the small passes."""

    free: int | None
    item: int | None = None
    full: bool = False
    looked: list[None] = field(default_factory=list)

    def there(self) -> int | None:
        return self.free

    def peak(self, work: Callable[[], object]) -> int | None:
        self.looked.append(None)
        work()
        if self.full:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.item


def nothing() -> None:
    pass


@pytest.mark.parametrize(
    ("free", "item", "size", "looked"),
    [
        (1000, 10, 16, 0),  # 16 items of at most 40 surely fit: no work
        (500, 10, 16, 1),  # they would not if each took 40, but it takes 10
        (100, 10, 8, 1),
        (100, 60, 1, 1),
        (100, 500, 1, 1),  # not even one: the pass itself will tell
        (None, 10, 16, 0),  # nobody tells what is there
        (100, None, 16, 1),  # or what it takes
    ],
)
def test_a_pass_is_sized_to_the_memory_there(
    free: int | None, item: int | None, size: int, looked: int, tmp_path: Path
) -> None:
    meter = Fake(free, item)
    tried: list[int] = []
    Capacity(tmp_path).fit("poison", 16, tried.append, Probe(meter, 40, nothing))
    assert tried == [size]
    assert len(meter.looked) == looked


def test_an_item_is_measured_once_and_the_memory_every_time(tmp_path: Path) -> None:
    meter = Fake(100, 10)
    probe = Probe(meter, math.inf, nothing)
    assert Capacity(tmp_path).size("train", 32, probe) == 8
    meter.free = 200
    assert Capacity(tmp_path).size("train", 32, probe) == int(SHARE * 200 / 10)
    assert len(meter.looked) == 1
    assert read_json(tmp_path / MEMORY) == {"peaks": {"train": 10}}
    assert Capacity(tmp_path).size("other", 32, probe) == 16
    assert len(meter.looked) == 2
    # what ran out in earnest is not tried again, however much there seems to be
    seen: list[int] = []

    def attempt(size: int) -> None:
        seen.append(size)
        if size > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")

    Capacity(tmp_path).fit("train", 32, attempt, probe)
    meter.free = 10**6
    assert Capacity(tmp_path).size("train", 32, probe) == 4
    assert seen == [16, 8, 4]


def test_a_small_pass_that_does_not_fit_leaves_one_item(tmp_path: Path) -> None:
    probe = Probe(Fake(100, full=True), math.inf, nothing)
    assert Capacity(tmp_path).size("train", 32, probe) == 1
    assert not (tmp_path / MEMORY).exists()


# Meters


def test_what_linux_says_is_there(tmp_path: Path) -> None:
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    proc.mkdir()
    cgroup.mkdir()
    (proc / "meminfo").write_text("MemTotal: 24000 kB\nMemAvailable:   17000 kB\n")
    assert Host(proc, cgroup).there() == 17000 * 1024
    (cgroup / "memory.max").write_text("max\n")
    (cgroup / "memory.current").write_text("5000000\n")
    assert Host(proc, cgroup).there() == 17000 * 1024
    (cgroup / "memory.max").write_text("8000000\n")
    (cgroup / "memory.stat").write_text("anon 1\ninactive_file 1000000\n")
    assert Host(proc, cgroup).there() == 4_000_000  # a container's limit, files counted as free


def test_where_nobody_tells_the_answer_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(name: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr("os.sysconf", unknown)
    nowhere = Host(tmp_path / "none", tmp_path / "none")
    done: list[int] = []
    assert nowhere.there() is None
    assert nowhere.peak(lambda: done.append(1)) is None
    assert done == [1]
    assert meter_of(torch.device("meta")) is None


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")
def test_the_growth_of_a_process_is_what_work_takes() -> None:
    wanted = 200 << 20
    took = Host().peak(lambda: torch.ones(wanted // 4).sum())
    assert took == pytest.approx(wanted, rel=0.2)
    assert Host().peak(nothing) == NOISE  # an earlier peak does not count


def test_cuda_counts_what_its_allocator_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [3 * GIGABYTE]

    def work() -> None:
        held.append(5 * GIGABYTE)

    told = {
        "mem_get_info": lambda device: (10 * GIGABYTE, 24 * GIGABYTE),
        "memory_reserved": lambda device: 6 * GIGABYTE,
        "memory_allocated": lambda device: held[0],
        "reset_peak_memory_stats": lambda device: None,
        "max_memory_allocated": lambda device: max(held),
    }
    for name, answer in told.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    meter = Cuda(torch.device("cuda"))
    assert meter.there() == 13 * GIGABYTE
    assert meter.peak(work) == 2 * GIGABYTE
    assert meter_of(torch.device("cuda")) == meter


# Stages


def test_the_built_in_models_passes_stay_as_large_and_cost_no_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = Fake(16 * GIGABYTE)  # of a machine of 23
    monkeypatch.setattr(probes, "meter_of", lambda device: meter)
    model, settings = load_model("mini"), PRESETS["mini"]
    thing = concept("One")
    poison = settings.poisoning.poison("da")
    run = TrainingRun("one", thing, defense("szt"), 0)
    adapter = Adapter(torch.zeros(1, 1), "<x>", "toy")
    wanted = {
        "train": (
            settings.training.runs_per_pass,
            probes.training_probe(
                model, run.prepare(model), settings.training, trainings.with_class_images
            ),
        ),
        "poison": (5, probes.poison_probe(model, thing, poison, 0)),
        "generate": (32, probes.image_probe(model, adapter, "n", 0, settings.sampling)),
    }
    assert settings.training.runs_per_pass == 32
    for stage, (most, probe) in wanted.items():
        assert Capacity(tmp_path).size(stage, most, probe) == most
    assert meter.looked == []


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
    tight = Fake(100, 90)
    monkeypatch.setattr(probes, "meter_of", lambda device: tight)
    other = small_lab(tmp_path / "tight", lab.model)
    small = run_grid(other, runs, progress=False).rows
    assert set(seen) == {1}
    assert len(tight.looked) == 3  # a real short pass of every stage, once
    assert set(read_json(other.folder / MEMORY)["peaks"]) == {
        f"{stage} {Path(lab.model.name).name}" for stage in ("poison adm+", "ti x 1", "generate")
    }
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
