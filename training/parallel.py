"""Data-parallel training in processes of one thread each.

On few cores this beats threads: a step synchronises once, not at every operation, so other work
on the machine costs its share of time and not a multiple of it.
"""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn


def rank() -> int:
    """This process's number, 0 when there is one process."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def of_first(value: float) -> float:
    """The first process's value, in all of them."""
    if world() == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64)
    distributed.broadcast(shared, 0)
    return float(shared)


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replaces every gradient by its mean over the processes; nothing with one process."""
    if world() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    distributed.all_reduce(flat)
    flat /= world()
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()


def _enter(index: int, workers: int, meeting: str, task: Callable[..., None], args: Any) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=index, world_size=workers
    )
    try:
        task(*args)
    finally:
        distributed.destroy_process_group()


def launch(workers: int, task: Callable[..., None], *args: Any) -> None:
    """Runs ``task(*args)`` in ``workers`` processes that can average their gradients."""
    if workers == 1:
        torch.set_num_threads(1)
        task(*args)
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        spawn(_enter, (workers, meeting, task, args), nprocs=workers)
