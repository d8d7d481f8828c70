"""Artifacts, and the turns of processes that share a workspace: one at a time makes each."""

import shutil
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safezone.errors import UserError, WorkspaceError
from safezone.files import (
    PARTIAL,
    digest,
    lock_file,
    move_file,
    require_new,
    whole_folder,
    write_json,
)
from safezone.models.fingerprint import tensors
from safezone.reading import read_json
from safezone.scores.rows import CLEAN

WORK: Final = "work"
"""The folder of all artifacts in a workspace."""
NEEDS: Final = "needs.json"
"""Beside a result: the artifacts that it rests on, which ``safezone grid gc`` keeps."""
MANIFEST: Final = "manifest.json"
RUN_RECORD: Final = "run.json"
IMAGES_RECORD: Final = "images.json"
ROWS_FILE: Final = "rows.jsonl"
KEY_FILE: Final = "key.json"
MAKING: Final = ".making-"
"""The lock of an artifact, beside it, while a process makes it."""


def manifest(folder: Path) -> Mapping[str, Any]:
    """What ``safezone poison`` wrote of a folder; nothing of others."""
    return read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}


def poison_of(folder: Path) -> str:
    """The poison's name in a folder that ``safezone poison`` wrote, else ``clean``."""
    return str(manifest(folder).get("poison", CLEAN))


def require_clean(folder: Path, option: str) -> None:
    """Raises UserError for a folder that ``safezone poison`` wrote, where clean images belong."""
    if (poison := poison_of(folder)) != CLEAN:
        raise UserError(
            f"{folder} is poisoned ({poison}); give {option} the images as they were before"
        )


def _files(place: Path) -> set[str]:
    return {p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file()}


@dataclass(frozen=True)
class Artifact:
    """One stage's result: its key, the folder where it is or will be, the file with the key."""

    stage: str
    key: str
    place: Path
    record: str

    @property
    def done(self) -> bool:
        """Whether it is there, with all files that its record names.

        Raises UserError when the place is something else that is not empty.
        """
        if (self.place / self.record).is_file():
            content = read_json(self.place / self.record)
            if content.get("key") != self.key:
                raise WorkspaceError(
                    f"{self.place} was made with other settings or images; choose another --out or "
                    "remove it"
                )
            return set(content.get("files", ())) <= _files(self.place)
        try:
            require_new(self.place)
        except UserError as error:
            raise WorkspaceError(str(error)) from error
        return False

    @property
    def failure(self) -> str | None:
        """Why it is of no use although it is there: a training that became NaN."""
        reason = read_json(self.place / self.record).get("failed")
        return reason if isinstance(reason, str) else None

    @contextmanager
    def written(self, record: Mapping[str, Any]) -> Iterator[Path]:
        """``whole_folder`` with the record, which gets the key and every file's SHA-256.

        What another process has made meanwhile stays; files that were lost are put back.
        """
        with whole_folder(self.place, lambda: self.done) as temporary:
            yield temporary
            path = temporary / self.record
            own = read_json(path) if path.is_file() else {}
            files = {
                name: digest(temporary / name) for name in sorted(_files(temporary) - {self.record})
            }
            write_json(path, {**own, **record, "key": self.key, "files": files})
            if (self.place / self.record).is_file() and not self.done:
                for name in files:
                    move_file(temporary / name, self.place / name)


def turn(place: Path, *, wait: bool = False) -> AbstractContextManager[bool]:
    """Whether ``place`` is this process's to make; False while another one is at it.

    ``wait``: until the other one has ended, which may have made it by then. The turn ends with the
    process. Raises UserError when the folder cannot be written.
    """
    return lock_file(place.with_name(f"{MAKING}{place.name}"), wait=wait)


def together(groups: Iterable[Sequence[Path]], *, wait: bool = True) -> Generator[list[Path]]:
    """Every group's places, held while the caller works on them; those that others make come last,
    each alone, or, without ``wait``, not at all."""
    waiting: list[Path] = []
    for group in groups:
        with ExitStack() as held:
            ours = [place for place in group if held.enter_context(turn(place))]
            if ours:
                yield ours
        waiting += [place for place in group if place not in ours]
    for place in waiting if wait else ():
        with turn(place, wait=True):
            yield [place]


def in_turn(places: Iterable[Path], *, wait: bool = True) -> Generator[Path]:
    """``together``, one by one."""
    with closing(together(([place] for place in places), wait=wait)) as turns:
        for (place,) in turns:
            yield place


def artifacts_in(folder: Path) -> dict[str, Path]:
    """The folders of all artifacts below a folder, by their keys; UserError where there is none."""
    found: dict[str, Path] = {}
    for record in (MANIFEST, RUN_RECORD, IMAGES_RECORD, KEY_FILE):
        for path in sorted(folder.rglob(record)):
            key = read_json(path).get("key")
            if isinstance(key, str) and PARTIAL not in str(path):
                found.setdefault(key, path.parent)
    if not found:
        raise UserError(
            f"{folder} holds nothing to use again; give the --out of an earlier command"
        )
    return found


def take(source: Path, artifact: Artifact, about: Mapping[str, Any]) -> bool:
    """Copies an artifact of the same key with another record; False where its files have changed.

    ``about``: what the record says of the new place.
    """
    record = read_json(source / artifact.record)
    files: Mapping[str, str] = record.get("files", {})
    kept = [(source / n).is_file() and digest(source / n) == d for n, d in files.items()]
    if not files or not all(kept):
        return False
    with artifact.written({**record, **about}) as folder:
        for name in files:
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, folder / name)
    return True


def recorded_key(record: Path, content: str, file: str | None = None) -> str:
    """The key in a record while the images, or the ``file``, have the content that it names; else
    that content."""
    known = read_json(record) if record.is_file() else {}
    named = known.get("content") if file is None else known.get("files", {}).get(file)
    return str(known["key"]) if named == content else content


def require_finite(owner: object, name: str) -> None:
    """Raises UserError when a weight of the model or encoder called ``name`` is NaN or infinite."""
    for path, tensor in tensors(owner):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(
                f"the weights of {name} hold NaN or infinite values ({path.lstrip('._')}); "
                "use another copy of them"
            )
