"""Whoever does the tasks, and whoever dies meanwhile: the rows are the same."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from tqdm import tqdm

from safezone import files
from safezone.commands.command import Machine
from safezone.commands.workers import Workers, executor_of
from safezone.errors import UserError
from safezone.lab import executors, store
from safezone.lab.executors import Executor, Helped, Processes, Ray, Slurm, Work
from safezone.lab.lab import Failures, Lab, Note
from safezone.lab.schedule import run_grid
from safezone.lab.stage import job
from safezone.models import Model
from safezone.scores import Row
from small_lab import grid, open_small_lab, small_lab

TESTS = str(Path(__file__).parents[1])
SOURCES = str(Path(__file__).parents[2] / "src")


@pytest.fixture
def expected(lab: Lab) -> list[Row]:
    return run_grid(lab, grid(lab), progress=False).rows


@pytest.fixture(autouse=True)
def _workers_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{SOURCES}:{TESTS}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else others on a busy machine starve them


def _rows(executor: Executor, folder: Path, model: Model) -> list[Row]:
    lab = small_lab(folder, model)
    results = run_grid(lab, grid(lab), executor=executor, progress=False)
    assert not results.failed
    return results.rows


def test_this_process_is_an_executor_like_others(tmp_path: Path, tiny_model: Model) -> None:
    here = Processes(partial(open_small_lab, tmp_path, tmp_path), 1)

    def chosen(name: Any, helpers: Executor | None = here) -> Executor | None:
        return executor_of(
            Workers(name), Machine(), tmp_path, lambda *_: small_lab(tmp_path, tiny_model), helpers
        )

    assert chosen("here") is here
    assert chosen("here", None) is None
    assert isinstance(chosen("processes"), Processes)
    assert chosen("processes") is not here
    assert isinstance(chosen("slurm"), Slurm)


def test_a_pool_gives_the_same_rows_and_makes_nothing_twice(
    tmp_path: Path, tiny_model: Model, tiny_model_folder: Path, expected: list[Row]
) -> None:
    folder = tmp_path / "pool"
    pool = Processes(partial(open_slow_lab, folder, tiny_model_folder), workers=2)
    assert _rows(pool, folder, tiny_model) == expected
    made = (folder / "made.txt").read_text().split()
    assert len(set(made)) == len(made) > 10
    workers = {line.split(":")[0] for line in made}
    assert len(workers) == 2  # and both of them had something to do


def test_a_helped_process_gives_the_same_rows(
    tmp_path: Path, tiny_model: Model, tiny_model_folder: Path, expected: list[Row]
) -> None:
    folder = tmp_path / "helped"
    lab = replace(small_lab(folder, tiny_model), sharers=2)
    helped = Helped(lab, partial(open_slow_lab, folder, tiny_model_folder), progress=False)

    def wait(text: str) -> None:
        """For the helper, which opens the lab longer than this grid takes."""
        end = time.monotonic() + 120
        while not (folder / "made.txt").exists() and time.monotonic() < end:
            time.sleep(0.05)

    results = run_grid(lab, grid(lab), executor=helped, progress=False, note=wait)
    assert not results.failed
    assert results.rows == expected
    helping = {line.split(":")[0] for line in (folder / "made.txt").read_text().split()}
    assert len(helping) == 1
    assert str(os.getpid()) not in helping


def test_a_lost_helper_is_not_missed(
    tmp_path: Path, tiny_model: Model, tiny_model_folder: Path, expected: list[Row]
) -> None:
    folder = tmp_path / "helped"
    lab = small_lab(folder, tiny_model)
    helped = Helped(lab, partial(open_dying_lab, folder, tiny_model_folder), progress=False)
    assert run_grid(lab, grid(lab), executor=helped, progress=False).rows == expected


def open_slow_lab(folder: Path, model: Path) -> Lab:
    """A lab that writes down who made what, in a process that leaves no semaphore behind."""
    assert not hasattr(tqdm.get_lock(), "mp_lock")  # type: ignore[no-untyped-call]
    whole = files.whole_folder

    @contextmanager
    def told(place: Path, done: Callable[[], bool]) -> Iterator[Path]:
        with (folder / "made.txt").open("a") as file:
            file.write(f"{os.getpid()}:{place.name}\n")
        with whole(place, done) as temporary:
            yield temporary
        time.sleep(0.05)

    folder.mkdir(parents=True, exist_ok=True)
    setattr(store, "whole_folder", told)  # noqa: B010
    return open_small_lab(folder, model)


def test_workers_do_not_make_again_what_lies_elsewhere(
    lab: Lab, tmp_path: Path, expected: list[Row]
) -> None:
    class Nobody:
        """Workers that do nothing."""

        def run(self, work: Work, note: Note) -> Iterator[Failures]:
            yield {}

    other = replace(lab, folder=tmp_path / "other", reuse=store.artifacts_in(lab.folder))
    assert run_grid(other, grid(other), executor=Nobody(), progress=False).rows == expected


def open_dying_lab(folder: Path, model: Path) -> Lab:
    """The first worker to open it is killed by the system."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / "died").touch(exist_ok=False)
    except FileExistsError:
        return open_small_lab(folder, model)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_lost_process_is_replaced(
    tmp_path: Path, tiny_model: Model, tiny_model_folder: Path, expected: list[Row]
) -> None:
    folder = tmp_path / "pool"
    pool = Processes(partial(open_dying_lab, folder, tiny_model_folder), workers=1)
    assert _rows(pool, folder, tiny_model) == expected


def _idle(folder: Path, open_lab: object, **_: object) -> Failures:
    (folder / str(os.getpid())).touch()
    time.sleep(600)
    return {}


def _manage(folder: Path) -> None:
    pool = Processes(partial(open_small_lab, folder, folder), workers=2)
    list(pool.run(partial(_idle, folder), print))


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    process = executors.fresh().Process(target=_manage, args=(tmp_path,))
    process.start()
    end = time.monotonic() + 120
    while len(workers := [int(path.name) for path in tmp_path.iterdir()]) < 2:
        assert time.monotonic() < end
        time.sleep(0.02)
    process.kill()
    process.join()
    while any(map(psutil.pid_exists, workers)):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_other_processes_of_the_caller_go_on(tmp_path: Path) -> None:
    other = executors.fresh().Process(target=time.sleep, args=(600,))
    other.start()
    with executors.helping(os.getpid, 1):
        pass
    assert other.is_alive()
    other.kill()
    other.join()


def _titles() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                yield int(entry.name), (entry / "cmdline").read_text(errors="replace")
            except OSError:
                continue


def _kill_one_worker(killed: list[int], descendants: set[int]) -> None:
    """Kills the first of Ray's workers that is at work on one of our tasks."""
    end = time.monotonic() + 300
    while not killed and time.monotonic() < end:
        for number, title in _titles():
            if title.startswith("ray::_call") and number not in descendants:
                time.sleep(0.3)
                os.kill(number, signal.SIGKILL)
                killed.append(number)
                break
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_ray_workers_and_one_killed_midway_give_the_same_rows(
    tmp_path: Path, tiny_model: Model, tiny_model_folder: Path, expected: list[Row]
) -> None:
    pytest.importorskip("ray")
    folder = tmp_path / "ray"
    executor = Ray(partial(open_small_lab, folder, tiny_model_folder), workers=2)
    killed: list[int] = []
    before = {number for number, title in _titles() if title.startswith("ray::")}
    killer = Thread(target=_kill_one_worker, args=(killed, before), daemon=True)
    killer.start()
    assert _rows(executor, folder, tiny_model) == expected
    killer.join()
    assert len(killed) == 1


class _OneProcess:
    """Ray with four GPUs, whose tasks run when they are asked for."""

    exceptions = SimpleNamespace(
        **{name: type(name, (Exception,), {}) for name in ("RayTaskError", *executors._RAY_LOST)}
    )

    def __getattr__(self, name: str) -> Any:
        return {
            "cluster_resources": lambda: {"CPU": 8.0, "GPU": 4.0},
            "remote": lambda **_: lambda call: SimpleNamespace(remote=partial(partial, call)),
            "wait": lambda tasks, **_: (tasks[:1], tasks[1:]),
            "get": lambda task: task(),
        }.get(name, lambda **_: None)


def test_rays_tasks_take_equal_parts_however_many_a_cluster_has_room_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Model
) -> None:
    monkeypatch.setattr(executors, "_library", lambda _: _OneProcess())
    sharers: list[int] = []

    def work(open_lab: Callable[[], Lab], **_: Any) -> Failures:
        sharers.append(open_lab().sharers)
        return {}

    ray = Ray(lambda: small_lab(tmp_path, tiny_model), address="auto", gpus=2)
    assert list(ray.run(work, print)) == [{}, {}]
    assert sharers == [2, 2]
    with pytest.raises(UserError, match="finds 4 GPUs here and a task wants 8"):
        list(replace(ray, address=None, gpus=8).run(work, print))


@pytest.mark.parametrize("kind", executors._RAY_LOST)
def test_a_machine_of_ray_that_is_lost_too_often_is_told(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "_library", lambda _: _OneProcess())

    def work(*_: Any, **__: Any) -> Failures:
        raise getattr(_OneProcess.exceptions, kind)

    with pytest.raises(UserError, match="a worker was lost"):
        list(Ray(lambda: pytest.fail("opened"), address="auto").run(work, print))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_submitits_local_executor_gives_the_same_rows(
    tmp_path: Path, tiny_model: Model, tiny_model_folder: Path, expected: list[Row]
) -> None:
    pytest.importorskip("submitit")
    folder = tmp_path / "slurm"
    again = partial(open_small_lab, folder, tiny_model_folder)
    executor = Slurm(again, tmp_path / "jobs", workers=1, cluster="local")
    lab = small_lab(folder, tiny_model)
    runs = grid(lab, ("clean",))  # every stage starts a process that imports torch
    results = run_grid(lab, runs, executor=executor, progress=False)
    assert results.rows == [row for row in expected if row.poison == "clean"]


@pytest.mark.parametrize(
    ("cluster", "parameters", "hint"),
    [
        ("slurm", {}, "give --cluster local"),
        ("local", {"foo": 1}, "--slurm as it is"),
        ("local", {"timeout_min": "soon"}, "--slurm as it is"),
    ],
)
def test_slurm_that_cannot_be_is_told(
    cluster: str, parameters: dict[str, object], hint: str, tmp_path: Path
) -> None:
    pytest.importorskip("submitit")
    executor = Slurm(lambda: pytest.fail("opened"), tmp_path, 1, cluster, parameters)
    with pytest.raises(UserError, match=hint):
        list(executor.run(lambda *_, **__: {}, print))


def test_a_wrong_thing_in_a_worker_is_told_as_one_here(
    tmp_path: Path, tiny_model: Model, tiny_model_folder: Path
) -> None:
    folder = tmp_path / "pool"
    lab = small_lab(folder, tiny_model)
    wanted = job(lab, grid(lab, ("adm+",)).runs[0]).of["poison"].place
    wanted.mkdir(parents=True)
    pool = Processes(partial(open_small_lab, folder, tiny_model_folder), workers=1)
    (wanted / "something else").touch()
    with pytest.raises(UserError, match="is not empty"):
        run_grid(lab, grid(lab), executor=pool, progress=False)
