"""Files that are whole or not there: text, JSON, tensors, folders; locks between processes; hashes.

Every file and folder gets the mode that the umask gives. Nothing else in the package renames,
locks or makes temporary files.
"""

import hashlib
import json
import os
import platform
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from safezone.errors import UserError, WorkspaceError

if TYPE_CHECKING:
    from torch import Tensor

LOCK: Final = ".lock"
"""In a folder that processes share, while one of them works there."""
PARTIAL: Final = ".partial-"
"""Begins the name of a file or folder that is still being written."""
_OLD: Final = "-old"
"""Ends the name of what a folder replaces, for a moment."""
_MACHINE: Final = hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def cannot_write(place: Path, error: Exception) -> WorkspaceError:
    """The sentence for a disk that is full, a folder that is read-only and the like."""
    reason = getattr(error, "strerror", None) or str(error).rstrip(".") or type(error).__name__
    return WorkspaceError(
        f"cannot write {place} ({reason}); choose a place that is writable and has free space"
    )


def require_new(place: Path) -> None:
    """Raises UserError when ``place`` is a file or a folder that is not empty."""
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UserError(f"{place} exists and is not empty; choose another place or remove it")


def _partial(place: Path) -> Path:
    """Short, whatever the length of the name (file systems allow 255 bytes); a thread's own.

    Of a folder that is itself being written, ``_remove_left`` of that folder finds it.
    """
    if place.name.startswith(PARTIAL):
        return place.with_name(f"{place.name}-in")
    writer = f"{_MACHINE}-{os.getpid()}-{threading.get_ident()}"
    return place.with_name(f"{PARTIAL}{writer}-{digest(place.name)[:16]}")


def _remove_left(place: Path) -> None:
    """Removes what killed processes of this machine have left of an unfinished ``place``."""
    start, end = f"{PARTIAL}{_MACHINE}-", f"-{digest(place.name)[:16]}"
    for left in place.parent.iterdir():
        if not left.name.startswith(start) or end not in left.name:
            continue
        process, thread = left.name.removeprefix(start).split("-")[:2]
        if process != str(os.getpid()):
            writing = psutil.pid_exists(int(process))
        else:  # a thread of ours, or of a killed process that had our number
            idents = {each.ident for each in threading.enumerate()} - {threading.get_ident()}
            writing = thread in map(str, idents)
        if not writing and left.name.endswith(_OLD) and not place.exists():
            with suppress(OSError):  # killed between two renames: what was there comes back
                os.replace(left, place)
        elif not writing:  # another process may remove it in this moment
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(True)


def clipped(name: str, most: int = 150) -> str:
    """The beginning of a name, at most that many bytes, with room for what is put behind it."""
    return os.fsencode(name)[:most].decode("utf-8", "ignore")


@contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """The name under which ``place`` is written; nothing is left of it, whatever fails."""
    temporary = _partial(place)
    absent = [folder for folder in place.parents if not folder.exists()]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(place)
        yield temporary
    except (OSError, SafetensorError) as error:
        raise cannot_write(place, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        for folder in absent if not place.exists() else ():
            with suppress(OSError):
                folder.rmdir()


# Files


@contextmanager
def whole_file(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """An empty temporary file beside ``path`` that replaces it when the block ends well.

    At any moment the old or the new file is there, whole; missing folders are made, and removed
    when the block fails. ``sync``: the content is on the disk before the name is, so that a loss
    of power does no harm either. Raises WorkspaceError when the file cannot be written.
    """
    with _beside(path) as temporary:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors makes files that only their owner can read
        if sync:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)


def move_file(source: Path, path: Path) -> None:
    """Puts a file of the same disk in another's place; WorkspaceError when that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, path)
    except OSError as error:
        raise cannot_write(path, error) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all; WorkspaceError when it cannot be written."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file, line ends as they are; WorkspaceError when it cannot be written."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object, indented; WorkspaceError when it cannot be written.

    Of a file name that is not UTF-8 the odd bytes are written as JSON's escapes, which
    ``read_json`` turns into the same name.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_safetensors(
    path: Path, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str] | None = None
) -> None:
    """Writes tensors of any device as one safetensors file; WorkspaceError when it cannot be.

    Equal tensors and metadata of at most one entry give equal bytes: the file format keeps no
    order of several.
    """
    from safetensors.torch import save_file

    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with whole_file(path, sync=True) as temporary:
        save_file(plain, temporary, None if metadata is None else dict(metadata))


# Folders


@contextmanager
def whole_folder(
    place: Path, done: Callable[[], bool] = lambda: False, *, replace: bool = False
) -> Iterator[Path]:
    """A temporary folder beside ``place`` that becomes it when the block ends well.

    ``place`` must be absent or empty by then, or ``done`` must say that another process has made
    it meanwhile: then that stays. ``replace``: a folder that is there is removed in the end.
    Whatever happens inside the block, ``place`` is as before or complete. Raises WorkspaceError
    when it cannot be written.
    """
    place = place.absolute()
    with _beside(place) as temporary:
        temporary.mkdir()
        try:
            yield temporary
        except UserError as error:
            if str(temporary) not in str(error):
                raise
            raise type(error)(str(error).replace(str(temporary), str(place))) from error
        if not done():
            _move(temporary, place, done, replace)


def _move(temporary: Path, place: Path, done: Callable[[], bool], replace: bool) -> None:
    old = temporary.with_name(f"{temporary.name}{_OLD}")
    try:
        if replace and place.exists():
            os.replace(place, old)
        with suppress(OSError):
            place.rmdir()  # an empty one: Windows does not rename onto it
        os.replace(temporary, place)
    except OSError:
        if old.exists():
            os.replace(old, place)
        if not done():
            raise
    shutil.rmtree(old, ignore_errors=True)


# Locks


@contextmanager
def lock_file(file: Path, *, wait: bool = False) -> Iterator[bool]:
    """Whether this process has got the lock; False while another has it, unless we ``wait``.

    The file is removed with the lock, and the lock ends with the process. Raises WorkspaceError
    when the file cannot be written.
    """
    lock = FileLock(file, blocking=wait, poll_interval=0.02)
    held = False
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with suppress(Timeout):
            lock.acquire()
            held = True
    except OSError as error:
        raise cannot_write(file, error) from error
    try:
        yield held
    finally:
        if held:
            if os.name == "posix":  # Windows removes no open file; there the lock does it
                file.unlink(missing_ok=True)
            lock.release()


@contextmanager
def locked(folder: Path, *, shared: bool = False, file: str = LOCK) -> Iterator[None]:
    """Makes the folder and keeps it for this process; the lock ends with the process.

    ``shared``: together with others that share it, as grids do in one workspace; one that does
    not share, as the collecting of garbage, keeps them all out. ``file``: the lock's name. Raises
    UserError when another process works there, WorkspaceError when the folder cannot be made.

    Each that shares holds a lock file of its own, made while it holds ``file`` for a moment; one
    that does not share holds ``file`` to the end and looks at all of theirs.
    """
    busy = UserError(
        f"another process is working in {folder}; wait for it or choose another folder"
    )
    gate = FileLock(folder / file, timeout=2 if shared else 0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        gate.acquire()
    except Timeout:
        raise busy from None
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        if not shared:
            for other in folder.glob(f"{file}-*"):
                with lock_file(other) as ended:  # and so removes what a killed process left
                    if not ended:
                        raise busy
            yield
            return
        with lock_file(folder / f"{file}-{os.getpid()}-{secrets.token_hex(4)}"):
            gate.release()
            yield
    finally:
        gate.release()


# Hashes


def digest(*parts: "str | bytes | Path | Tensor") -> str:
    """SHA-256, in hex, of the parts and their order; of a path the content of its file counts.

    Of a tensor its type, shape and values count. Raises OSError for a path that is no file.
    """
    whole = hashlib.sha256()
    for part in parts:
        content = _bytes(part)
        whole.update(f"{len(content)} ".encode())
        whole.update(content)
    return whole.hexdigest()


def _bytes(part: "str | bytes | Path | Tensor") -> bytes:
    if isinstance(part, bytes):
        return part
    if isinstance(part, str):
        return part.encode("utf-8", "surrogateescape")  # file names may hold other bytes
    if isinstance(part, Path):
        return part.read_bytes()
    import torch

    values = part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return f"{part.dtype} {tuple(part.shape)} ".encode() + values
