"""Who makes what: of the processes that share a workspace, one at a time makes an artifact."""

from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from typing import Final

from safezone.files import lock_file

MAKING: Final = ".making-"
"""The lock of an artifact, beside it, while a process makes it."""


def turn(place: Path, *, wait: bool = False) -> AbstractContextManager[bool]:
    """Whether ``place`` is this process's to make; False while another one is at it.

    ``wait``: until the other one has ended, which may have made it by then. The turn ends with the
    process. Raises UserError when the folder cannot be written.
    """
    return lock_file(place.with_name(f"{MAKING}{place.name}"), wait=wait)


def together(groups: Iterable[Sequence[Path]]) -> Generator[list[Path]]:
    """Every group's places, held while the caller works on them; those that others make come last,
    each alone."""
    waiting: list[Path] = []
    for group in groups:
        with ExitStack() as held:
            ours = [place for place in group if held.enter_context(turn(place))]
            if ours:
                yield ours
        waiting += [place for place in group if place not in ours]
    for place in waiting:
        with turn(place, wait=True):
            yield [place]


def in_turn(places: Iterable[Path]) -> Generator[Path]:
    """Every place, held while the caller works on it; those that others make come last."""
    with closing(together([place] for place in places)) as turns:
        for (place,) in turns:
            yield place
