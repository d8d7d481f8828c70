"""Folders that are whole or not there, one process at a time."""

import fcntl
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError

from safezone.concepts import Concept
from safezone.errors import UserError
from safezone.models.fingerprint import tensors
from safezone.scores.rows import write_text

WORK: Final = "work"
"""The folder of all artifacts in a workspace."""
NEEDS: Final = "needs.json"
"""Beside a result: the artifacts that it rests on, which ``safezone grid gc`` keeps."""
MANIFEST: Final = "manifest.json"
RUN_RECORD: Final = "run.json"
IMAGES_RECORD: Final = "images.json"
ROWS: Final = "rows.jsonl"
KEY_FILE: Final = "key.json"
LOCK = ".lock"
_PARTIAL = ".partial-"


class WorkspaceError(UserError):
    """The workspace itself is at fault, not one run: nothing can go on."""


@contextmanager
def whole_folder(place: Path, made: Callable[[], bool] = lambda: False) -> Iterator[Path]:
    """A temporary folder beside ``place`` that becomes it when the block ends well.

    ``place`` must be absent or empty by then, or ``made`` must tell that another process has made
    it meanwhile: then that stays. Whatever happens inside the block, ``place`` is as before or
    complete. Raises UserError when it cannot be written.
    """
    place = place.absolute()
    temporary = place.with_name(f"{_PARTIAL}{os.getpid()}-{place.name}")
    try:
        _remove_left(place)
        temporary.mkdir(parents=True)
        yield temporary
        if not made():
            _move(temporary, place, made)
    except (OSError, SafetensorError) as error:
        raise cannot_write(place, error) from error
    except UserError as error:
        if str(temporary) not in str(error):
            raise
        raise UserError(str(error).replace(str(temporary), str(place))) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move(temporary: Path, place: Path, made: Callable[[], bool]) -> None:
    try:
        os.replace(temporary, place)
    except OSError:
        if not made():
            raise


def _remove_left(place: Path) -> None:
    """Removes what a process that is no more has left of an unfinished ``place``."""
    for left in place.parent.glob(f"{_PARTIAL}*-{glob.escape(place.name)}"):
        number = left.name.removeprefix(_PARTIAL).split("-")[0]
        if number.isdecimal() and (int(number) == os.getpid() or not _alive(int(number))):
            shutil.rmtree(left, ignore_errors=True)
            for inner in place.parent.glob(f".{glob.escape(left.name)}.*.tmp"):
                shutil.rmtree(inner, ignore_errors=True)  # a concept on its way into ``left``


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def cannot_write(place: Path, error: Exception) -> WorkspaceError:
    """The sentence for a disk that is full, a folder that is read-only and the like."""
    reason = getattr(error, "strerror", None) or str(error).rstrip(".") or type(error).__name__
    return WorkspaceError(
        f"cannot write {place} ({reason}); choose a place that is writable and has free space"
    )


def require_new(place: Path) -> None:
    """Raises WorkspaceError when ``place`` is a file or a folder that is not empty."""
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise WorkspaceError(f"{place} exists and is not empty; choose another place or remove it")


@contextmanager
def locked(folder: Path, *, shared: bool = False, file: str = LOCK) -> Iterator[None]:
    """Makes the folder and keeps it for this process; the lock ends with the process.

    ``shared``: other processes may keep it so as well. ``file``: the lock's name. Raises UserError
    when another process works there or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / file).open("w")
    except OSError as error:
        raise cannot_write(folder, error) from error
    with handle:
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"another process is working in {folder}; wait for it or choose another folder"
            ) from error
        yield


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object whole or not at all; UserError when it cannot be written."""
    try:
        write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise cannot_write(path, error) from error


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; UserError when it is missing or something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or not valid JSON; make it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object; make it again")
    return value


def done(place: Path, record: str, key: str) -> bool:
    """Whether ``place`` holds the artifact of this key with all the files that its record names.

    Raises UserError when it is something else that is not empty.
    """
    if (place / record).is_file():
        content = read_json(place / record)
        if content.get("key") != key:
            raise WorkspaceError(
                f"{place} was made with other settings or images; choose another --out or remove it"
            )
        return set(content.get("files", ())) <= _files(place)
    require_new(place)
    return False


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
        """Whether it is there, with all its files; UserError when something else is there."""
        return done(self.place, self.record, self.key)

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
                name: _hash(temporary / name) for name in sorted(_files(temporary) - {self.record})
            }
            write_json(path, {**own, **record, "key": self.key, "files": files})
            if (self.place / self.record).is_file() and not self.done:
                for name in files:
                    (self.place / name).parent.mkdir(exist_ok=True)
                    os.replace(temporary / name, self.place / name)


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def made_key(file: Path, record: str) -> str:
    """The key of the artifact that a file belongs to, if it is unchanged, else of its content."""
    path, content = file.parent / record, _hash(file)
    made = read_json(path) if path.is_file() else {}
    return str(made["key"]) if made.get("files", {}).get(file.name) == content else content


def source_key(folder: Path, concept: Concept) -> str:
    """The key of the poison that made a folder's images, if they are unchanged, else of these."""
    path, content = folder / MANIFEST, concept.content_key()
    made = read_json(path) if path.is_file() else {}
    return str(made["key"]) if made.get("content") == content else content


def require_finite(owner: object, name: str) -> None:
    """Raises UserError when a weight of the model or encoder called ``name`` is NaN or infinite."""
    for path, tensor in tensors(owner):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(
                f"the weights of {name} hold NaN or infinite values ({path.lstrip('._')}); "
                "use another copy of them"
            )
