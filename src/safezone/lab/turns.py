"""Who makes what: of the processes that share a workspace, one at a time makes an artifact."""

import fcntl
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from safezone.lab.store import cannot_write

MAKING: Final = ".making-"
"""The lock of an artifact, beside it, while a process makes it."""


@contextmanager
def turn(place: Path, *, wait: bool = False) -> Iterator[bool]:
    """Whether ``place`` is this process's to make; False while another one is at it.

    ``wait``: until the other one has ended, which may have made it by then. The turn ends with the
    process. Raises UserError when the folder cannot be written.
    """
    lock = place.with_name(f"{MAKING}{place.name}")
    try:
        handle = _held(lock, wait)
    except OSError as error:
        raise cannot_write(place, error) from error
    try:
        yield handle is not None
    finally:
        if handle is not None:
            lock.unlink(missing_ok=True)
            os.close(handle)


def _held(lock: Path, wait: bool) -> int | None:
    """The locked file, open; None when another process has it.

    The one who held it has removed the file: whoever waited for that one tries again.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if lock.exists() and os.path.samestat(os.fstat(handle), os.stat(lock)):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def in_turn(places: Iterable[Path]) -> Generator[Path]:
    """Every place, held while the caller works on it; those that others make come last."""
    waiting = []
    for place in places:
        with turn(place) as ours:
            if ours:
                yield place
        if not ours:
            waiting.append(place)
    for place in waiting:
        with turn(place, wait=True):
            yield place
