"""Where a grid is worked on: this process, others, Ray, Slurm."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import tyro

from safezone.commands.command import Machine
from safezone.errors import UserError
from safezone.fields import Checked, Count, Weight
from safezone.lab.settings import Names

if TYPE_CHECKING:
    from safezone.lab.executors import Executor
    from safezone.lab.lab import Lab

_EXECUTORS_OF: Final[Mapping[str, Sequence[str]]] = {
    "workers": ("processes", "ray", "slurm"),
    "address": ("ray",),
    "gpus": ("ray",),
    "slurm": ("slurm",),
    "cluster": ("slurm",),
}
"""Which executors look at an option."""


@dataclass(frozen=True)
class Workers(Checked):
    """Who does the work."""

    executor: Literal["here", "processes", "ray", "slurm"] = "here"
    """This process, others on this machine, Ray, or Slurm; the last two need a shared OUT."""
    workers: Count | None = None
    """Tasks at a time, of processes, ray without --address, and slurm; by default 2."""
    address: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Of a Ray cluster, or auto."""
    gpus: Weight = 0.0
    """Of every task of ray; slurm has --slurm."""
    slurm: Annotated[Names, tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """Setting of submitit, such as slurm_partition=gpu or timeout_min=600; repeatedly."""
    cluster: Annotated[Literal["slurm", "local"] | None, tyro.conf.arg(metavar="NAME")] = None
    """Of submitit; local runs the jobs on this machine."""

    def __post_init__(self) -> None:
        """Raises UserError for what the chosen executor would not look at."""
        super().__post_init__()
        for name, executors in _EXECUTORS_OF.items():
            if getattr(self, name) and self.executor not in executors:
                raise UserError(
                    f"--{name} is of --executor {' or '.join(executors)}, not of {self.executor}; "
                    "give that or leave it out"
                )
        if self.workers and self.address:
            raise UserError(
                "a Ray cluster has as many workers as it has room for; leave --workers or "
                "--address out"
            )
        for item in self.slurm:
            if not re.fullmatch(r"\w+=.+", item):
                raise UserError(f"--slurm is {item!r}; write KEY=VALUE, as slurm_partition=gpu")

    @property
    def count(self) -> int:
        """Tasks at a time; 1 where nobody knows."""
        return 1 if self.executor == "here" or self.address else self.workers or 2


def executor_of(
    chosen: Workers,
    machine: Machine,
    jobs: Path,
    open_there: "Callable[[Machine, int], Lab]",
    here: "Executor | None",
) -> "Executor | None":
    """``here``, or the workers that are elsewhere, each of which opens the lab with its machine.

    ``jobs``: where Slurm's are written.
    """
    if chosen.executor == "here":
        return here
    from safezone.lab.executors import Processes, Ray, Slurm

    if chosen.executor == "processes" and machine.threads is None:
        # They share the cores of this machine; more threads than cores make all of them slow.
        machine = replace(machine, threads=max(1, (os.cpu_count() or 1) // chosen.count))
    open_again = partial(open_there, machine, chosen.count)
    if chosen.executor == "processes":
        return Processes(open_again, chosen.count)
    if chosen.executor == "ray":
        return Ray(open_again, chosen.count, chosen.address, chosen.gpus)
    pairs = [item.partition("=") for item in chosen.slurm]
    parameters = {k: int(v) if v.isdecimal() else v for k, _, v in pairs}
    return Slurm(open_again, jobs, chosen.count, chosen.cluster or "slurm", parameters)
