"""Who does the tasks: this process, a pool of processes, Ray or Slurm, behind one protocol.

Workers on other machines need the same workspace: a folder on a file system that all of them see.
A task that was lost with its worker is done again by another one; what the lost one had finished is
passed over, and a training goes on from its last checkpoint.
"""

import multiprocessing
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from safezone.errors import UserError
from safezone.lab.lab import Failures, Job, Lab, Note


class Make(Protocol):
    """Makes what is missing of some jobs; returns why runs failed, of shared work the first run."""

    def __call__(
        self, lab: Lab, jobs: Sequence[Job], *, progress: bool, note: Note
    ) -> Failures: ...


@dataclass(frozen=True)
class Task:
    """A stage of some runs, done by whoever is given it."""

    stage: str
    make: Make
    jobs: tuple[Job, ...]


OpenLab: TypeAlias = Callable[[], Lab]
"""Opens the lab in another process; picklable, a ``functools.partial`` of a module's function."""

RETRIES: Final = 3
"""How often a task is given to another worker after its own was lost."""


class Executor(Protocol):
    """Does tasks of one stage, in any order; ``workers``: how many at a time."""

    @property
    def workers(self) -> int: ...

    def run(
        self, lab: Lab, tasks: Sequence[Task], *, progress: bool, note: Note
    ) -> Iterator[Failures]:
        """The failures of every task as it ends; raises what a task raised."""
        ...

    def close(self) -> None:
        """Lets the workers go; ``run`` may be called again."""
        ...


@dataclass(frozen=True)
class InProcess:
    """One task after the other, here."""

    workers: int = 1

    def run(
        self, lab: Lab, tasks: Sequence[Task], *, progress: bool, note: Note
    ) -> Iterator[Failures]:
        """As the protocol says."""
        started = time.monotonic()
        for count, task in enumerate(tasks, 1):
            yield task.make(lab, task.jobs, progress=progress, note=note)
            if count < len(tasks):
                minutes = (time.monotonic() - started) / count * (len(tasks) - count) / 60
                left = f"about {max(1, round(minutes))} min left"
                note(f"{task.stage}: {count} of {len(tasks)} passes done, {left}")

    def close(self) -> None:
        """As the protocol says: there is nobody to let go."""


@lru_cache(maxsize=1)
def _opened(pickled: bytes) -> Lab:
    """One lab for all tasks of a worker. The bytes are our own, never a file's."""
    open_lab: OpenLab = pickle.loads(pickled)
    return open_lab()


def work(pickled: bytes, tasks: Sequence[Task]) -> Failures:
    """What a worker does with the tasks that it is given."""
    failed: Failures = {}
    for task in tasks:
        failed |= task.make(_opened(pickled), task.jobs, progress=False, note=lambda text: None)
    return failed


@dataclass(frozen=True)
class Processes:
    """Processes on this machine, which stay from stage to stage.

    A pool that lost a process is made anew for what is left.
    """

    open_lab: OpenLab
    workers: int = 2
    _alive: list[ProcessPoolExecutor] = field(default_factory=list, repr=False)

    def _pool(self) -> ProcessPoolExecutor:
        if not self._alive:
            spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
            self._alive.append(ProcessPoolExecutor(self.workers, spawn))
        return self._alive[0]

    def run(
        self, lab: Lab, tasks: Sequence[Task], *, progress: bool, note: Note
    ) -> Iterator[Failures]:
        """As the protocol says; UserError when processes are lost again and again."""
        left, pickled = list(tasks), pickle.dumps(self.open_lab)
        for _ in range(RETRIES + 1):
            futures = {self._pool().submit(work, pickled, [task]): task for task in left}
            try:
                for count, future in enumerate(as_completed(futures), 1):
                    yield future.result()
                    left.remove(futures[future])
                    note(f"{futures[future].stage}: {count} of {len(futures)} tasks done")
                return
            except BrokenProcessPool:
                self.close()
                note("a worker process was lost; its tasks are done again")
            except BaseException:
                self.close()
                raise
        raise _lost()

    def close(self) -> None:
        """As the protocol says."""
        while self._alive:
            self._alive.pop().shutdown(wait=False, cancel_futures=True)


def _lost() -> UserError:
    return UserError(
        f"a worker was lost more than {RETRIES} times (killed, or out of memory); give fewer "
        "--workers and start the same command again"
    )


@dataclass(frozen=True)
class Ray:
    """Ray's tasks: ``address`` of a cluster, or None for ``workers`` processes on this machine."""

    open_lab: OpenLab
    workers: int = 2
    address: str | None = None
    gpus: float = 0.0
    """Of every task."""

    def run(
        self, lab: Lab, tasks: Sequence[Task], *, progress: bool, note: Note
    ) -> Iterator[Failures]:
        """As the protocol says; UserError when Ray is not installed or workers keep dying."""
        if not tasks:
            return
        ray = _library("ray")
        if not ray.is_initialized():
            self._start(ray)
        remote = ray.remote(num_cpus=1, num_gpus=self.gpus, max_retries=RETRIES)(work)
        pickled = pickle.dumps(self.open_lab)
        waiting = {remote.remote(pickled, [task]): task for task in tasks}
        count = 0
        try:
            while waiting:
                (ended, *_), _ = ray.wait(list(waiting), num_returns=1)
                task = waiting.pop(ended)
                yield ray.get(ended)
                count += 1
                note(f"{task.stage}: {count} of {len(tasks)} tasks done")
        except ray.exceptions.RayTaskError as error:
            raise getattr(error, "cause", error) from error
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
            raise _lost() from error
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)

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

    def close(self) -> None:
        """As the protocol says; a cluster with an address goes on."""
        _library("ray").shutdown()


@dataclass(frozen=True)
class Slurm:
    """Jobs of Slurm through submitit; ``cluster="local"`` runs them on this machine.

    ``parameters``: submitit's, as ``{"slurm_partition": "gpu", "timeout_min": 600}``.
    """

    open_lab: OpenLab
    folder: Path
    """For the logs of jobs, seen by all machines."""
    workers: int = 8
    cluster: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def run(
        self, lab: Lab, tasks: Sequence[Task], *, progress: bool, note: Note
    ) -> Iterator[Failures]:
        """As the protocol says; UserError when submitit is not installed or jobs keep dying."""
        if not tasks:
            return
        submitit = _library("submitit")
        executor = submitit.AutoExecutor(folder=self.folder, cluster=self.cluster)
        executor.update_parameters(
            name="safezone", slurm_array_parallelism=self.workers, **self.parameters
        )
        pickled, left = pickle.dumps(self.open_lab), list(tasks)
        for _ in range(RETRIES + 1):
            bundles = [b for i in range(self.workers) if (b := left[i :: self.workers])]
            with executor.batch():  # a job opens the model once for all tasks of its bundle
                jobs = [executor.submit(work, pickled, bundle) for bundle in bundles]
            lost: list[Task] = []
            for bundle, job in zip(bundles, jobs, strict=True):
                error = job.exception()
                if error is None:
                    yield job.result()
                elif isinstance(error, submitit.core.utils.UncompletedJobError):
                    lost += bundle
                else:
                    raise _cause(error)
            left = lost
            if not left:
                note(f"{tasks[0].stage}: {len(tasks)} tasks done")
                return
            note(f"{len(left)} tasks were lost with their jobs and are done again")
        raise _lost()

    def close(self) -> None:
        """As the protocol says: jobs end with their tasks."""


def _cause(error: Exception) -> Exception:
    """A user error in a job is told as one; of others submitit gives the trace as text."""
    last = str(error).strip().splitlines()[-1] if str(error).strip() else ""
    name, colon, sentence = last.partition("UserError: ")
    return UserError(sentence) if colon and name.startswith("safezone") else error


def _library(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        extra = {"ray": "ray", "submitit": "slurm"}[name]
        raise UserError(
            f"{name} is not installed; install it with `pip install safezone[{extra}]` or leave "
            "--executor out"
        ) from error
