"""Where a grid is made, and by how many: processes here, Ray or Slurm, behind one protocol.

Every worker goes through the whole grid in the same folder, where each artifact is made by one of
them (``store.turn``): so an executor only says where and how many. Workers on other machines need
the same path to a file system that all of them see. What a lost worker had finished is passed over
by those that remain, and a training goes on from its last checkpoint.
"""

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import torch
from tqdm import tqdm

from safezone.errors import UserError
from safezone.lab.lab import Failures, Lab, Note

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

OpenLab: TypeAlias = Callable[[], Lab]
"""Opens the lab in another process; picklable, a ``functools.partial`` of a module's function."""


class Work(Protocol):
    """What every worker does, picklable: opens the lab, and returns why runs failed."""

    def __call__(
        self, open_lab: OpenLab, *, progress: bool = ..., note: Note = ...
    ) -> Failures: ...


RETRIES: Final = 3
"""How often workers are started anew after one was lost."""


_RAY_LOST: Final = (
    *("WorkerCrashedError", "OutOfMemoryError", "NodeDiedError", "LocalRayletDiedError"),
)
"""What Ray raises when a task, or the machine that it was on, was lost too often."""


_LARGE: Final = (
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d_condition",
    "transformers.models.clip.modeling_clip",
)
"""Modules that every worker needs and that take seconds to import."""


class Executor(Protocol):
    """Where workers are, and how many."""

    def run(self, work: Work, note: Note) -> Iterator[Failures]:
        """What each worker returns; raises what one raised, UserError when workers keep dying, or
        when a library is not installed."""
        ...


def _lost() -> UserError:
    return UserError(
        f"a worker was lost more than {RETRIES} times (killed, or out of memory); give fewer "
        "--workers and start the same command again"
    )


def fresh() -> "SpawnContext | ForkServerContext":
    """How processes are started: torch's threads do not survive a fork of this one, but that of a
    server without any does, which has imported the large libraries once for all. Not beside a GPU,
    which cannot be used after a fork if a library has looked for it before."""
    if sys.platform != "linux" or torch.cuda.is_available():
        return multiprocessing.get_context("spawn")
    multiprocessing.set_forkserver_preload([*_LARGE])
    return multiprocessing.get_context("forkserver")


def begin_server() -> None:
    """Begins the server, if ``fresh`` has one, which imports the large libraries while this process
    does so too."""
    if fresh().get_start_method() == "forkserver":
        forkserver.ensure_running()


def _begin() -> None:
    """What every process does first, to end with the one that started it, however that ends."""
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which is left over at the end
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


@contextmanager
def _pool(count: int, begin: Callable[[], None] = _begin) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with the block, whatever they are at. ``begin``: what each does first."""
    pool = ProcessPoolExecutor(count, fresh(), initializer=begin)
    before = {*multiprocessing.active_children()}
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in {*multiprocessing.active_children()} - before:
            process.terminate()
        pool.shutdown()


def _help() -> None:
    """What a helping process does first: it says nothing."""
    _begin()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other one is told, and ends this one
    warnings.simplefilter("ignore")


def no_note(text: str) -> None:
    """The process that is helped tells enough."""


@contextmanager
def helping(call: Callable[[], object], helpers: int) -> Iterator[None]:
    """While the block runs, so many other processes of this machine make the same call.

    ``call``: picklable; what it returns, or raises, is not looked at.
    """
    if helpers < 1:
        yield
        return
    with _pool(helpers, _help) as pool:
        for _ in range(helpers):
            pool.submit(call)
        yield


@dataclass(frozen=True, eq=False)
class Helped:
    """This process, with ``lab``, and ``helpers`` others of this machine.

    This one goes through the whole grid, so that nothing is missing where a helper was lost.
    """

    lab: Lab
    open_lab: OpenLab
    helpers: int = 1
    progress: bool = True

    def run(self, work: Work, note: Note) -> Iterator[Failures]:
        with helping(partial(work, self.open_lab, note=no_note), self.helpers):
            yield work(lambda: self.lab, progress=self.progress, note=note)


@dataclass(frozen=True)
class Processes:
    """Processes on this machine."""

    open_lab: OpenLab
    workers: int = 2

    def run(self, work: Work, note: Note) -> Iterator[Failures]:
        for _ in range(RETRIES + 1):
            with _pool(self.workers) as pool, suppress(BrokenProcessPool):
                futures = [pool.submit(work, self.open_lab) for _ in range(self.workers)]
                yield from (future.result() for future in as_completed(futures))
                return
            note("a worker process was lost; others go on with what it did")
        raise _lost()


@dataclass(frozen=True)
class Ray:
    """Ray's tasks: on a cluster of this ``address``, as many as it has room for, or ``workers``
    processes on this machine. ``gpus``: of every task."""

    open_lab: OpenLab
    workers: int = 2
    address: str | None = None
    gpus: float = 0.0

    def run(self, work: Work, note: Note) -> Iterator[Failures]:
        ray = _library("ray")
        self._start(ray)
        try:
            count, room = self.workers, ray.cluster_resources()
            if self.address is not None:
                most = room.get("GPU", 0) / self.gpus if self.gpus else room.get("CPU", 1)
                count = max(1, int(most))
            elif (there := room.get("GPU", 0)) < self.gpus:
                raise UserError(
                    f"Ray finds {there:g} GPUs here and a task wants {self.gpus:g}, so that none "
                    "would begin; give --gpus less, or leave it out"
                )
            remote = ray.remote(num_cpus=1, num_gpus=self.gpus, max_retries=RETRIES)(_call)
            waiting = [remote.remote(work, self.open_lab, count) for _ in range(count)]
            while waiting:
                (ended, *_), waiting = ray.wait(waiting, num_returns=1)
                yield ray.get(ended)
        except ray.exceptions.RayTaskError as error:
            raise getattr(error, "cause", error) from error
        except tuple(getattr(ray.exceptions, name) for name in _RAY_LOST) as error:
            raise _lost() from error
        finally:
            ray.shutdown()  # a cluster with an address goes on

    def _start(self, ray: Any) -> None:
        """Connects, or starts workers here; again where a busy machine was too slow for Ray."""
        local = {"num_cpus": self.workers} if self.address is None else {}
        for left in reversed(range(RETRIES)):
            try:
                ray.init(
                    address=self.address, include_dashboard=False, log_to_driver=False, **local
                )
                return
            except Exception as error:  # Ray raises a bare one when its own processes are late
                ray.shutdown()
                if not left:
                    raise UserError(
                        f"Ray does not start ({error}); look at its address and logs, or take "
                        "--executor processes"
                    ) from error


def _call(work: Work, open_lab: OpenLab, sharers: int) -> Failures:
    """``sharers``: how many tasks there are, which a cluster alone knows."""
    return work(lambda: replace(open_lab(), sharers=sharers))


@dataclass(frozen=True)
class Slurm:
    """Jobs of Slurm through submitit; ``cluster="local"`` runs them on this machine.

    ``folder``: for the logs of jobs, seen by all machines. ``parameters``: submitit's, as
    ``{"slurm_partition": "gpu", "timeout_min": 600}``. UserError for unknown ones, and where there
    is no Slurm.
    """

    open_lab: OpenLab
    folder: Path
    workers: int = 8
    cluster: str = "slurm"
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def run(self, work: Work, note: Note) -> Iterator[Failures]:
        submitit = _library("submitit")
        try:
            executor = submitit.AutoExecutor(folder=self.folder, cluster=self.cluster)
        except RuntimeError as missing:
            raise UserError(
                f"there is no Slurm here ({missing}); start it where srun is, or give "
                "--cluster local"
            ) from missing
        try:
            executor.update_parameters(name="safezone", **self.parameters)
        except (NameError, AssertionError, TypeError, ValueError) as wrong:
            reason = " ".join(str(wrong).split()).partition(" As a reminder")[0].rstrip(".")
            raise UserError(f"submitit does not take --slurm as it is ({reason})") from wrong
        left = self.workers
        for _ in range(RETRIES + 1):
            with executor.batch():
                jobs = [executor.submit(work, self.open_lab) for _ in range(left)]
            errors = [(job, job.exception()) for job in jobs]
            for job, error in errors:
                if error is None:
                    yield job.result()
                elif not isinstance(error, submitit.core.utils.UncompletedJobError):
                    # Of an error in a job submitit gives the trace as text.
                    last = ["", *str(error).strip().splitlines()][-1]
                    name, colon, sentence = last.partition("Error: ")
                    raise UserError(sentence) if colon and name.startswith("safezone") else error
            left = sum(error is not None for _, error in errors)
            if not left:
                return
            note(f"{left} jobs were lost; others go on with what they did")
        raise _lost()


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        extra = {"ray": "ray", "submitit": "slurm"}[name]
        raise UserError(
            f"{name} is not installed; install it with `pip install safezone[{extra}]` or leave "
            "--executor out"
        ) from error
