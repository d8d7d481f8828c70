"""Files and folders are whole or not there; locks end with their process; hashes are of content."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from safezone.errors import UserError, WorkspaceError
from safezone.files import (
    LOCK,
    digest,
    lock_file,
    locked,
    move_file,
    require_new,
    whole_file,
    whole_folder,
    write_bytes,
    write_json,
    write_safetensors,
    write_text,
)
from safezone.images import write_png
from safezone.reading import read_json

WRITERS: dict[str, Callable[[Path], None]] = {
    "bytes": lambda path: write_bytes(path, b"new"),
    "text": lambda path: write_text(path, "new"),
    "JSON": lambda path: write_json(path, {"new": 1}),
    "tensors": lambda path: write_safetensors(path, {"new": torch.ones(2)}, {"about": "it"}),
    "picture": lambda path: write_png(path, torch.zeros(3, 4, 4, dtype=torch.uint8)),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_have_the_umask_s_mode(tmp_path: Path, writer: str, mask: int) -> None:
    before = os.umask(mask)
    try:
        WRITERS[writer](tmp_path / "folder" / "file")
        with whole_folder(tmp_path / "whole"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "folder" / "file").stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE((tmp_path / "whole").stat().st_mode) == 0o777 & ~mask


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("length", [1, 255])
def test_a_name_may_be_as_long_as_the_file_system_allows(
    tmp_path: Path, writer: str, length: int
) -> None:
    WRITERS[writer](tmp_path / ("n" * length))
    with whole_folder(tmp_path / ("f" * length)) as temporary:
        WRITERS[writer](temporary / ("n" * length))
    assert {path.name for path in tmp_path.iterdir()} == {"n" * length, "f" * length}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_failing_write_is_one_sentence_and_leaves_the_old_file(
    tmp_path: Path, writer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(WorkspaceError, match=r"cannot write .*file \(No space left on device\)"):
        WRITERS[writer](path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_that_is_no_unicode_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "text"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_is_not_utf_8_comes_back_from_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    write_json(tmp_path / "a.json", {name: "é"})
    assert read_json(tmp_path / "a.json") == {name: "é"}
    assert "é" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["", "{", "[]", "\ud800", "[" * 100_000, None])
def test_what_is_no_json_object_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "a.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=r"a\.json .* make it again"):
        read_json(tmp_path / "a.json")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(UserError, match="make it again"):
        read_json(tmp_path / "a.json")


def test_equal_tensors_give_equal_bytes_and_come_back(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4).T, "b": torch.arange(3, dtype=torch.bfloat16)}
    for name in ("one", "two"):
        write_safetensors(tmp_path / name, tensors, {"about": "it"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert all(torch.equal(tensors[k], v) for k, v in load_file(tmp_path / "one").items())


def test_a_file_is_moved_into_another_s_place(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new")
    move_file(tmp_path / "new", tmp_path / "folder" / "place")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "place"]
    with pytest.raises(WorkspaceError, match="cannot write"):
        move_file(tmp_path / "absent", tmp_path / "folder" / "place")
    assert (tmp_path / "folder" / "place").read_text() == "new"


def test_only_what_is_empty_is_new(tmp_path: Path) -> None:
    require_new(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    require_new(tmp_path / "empty")
    for place in (tmp_path, tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="not empty"):
            require_new(place)


# Folders


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    place = tmp_path / "place"
    with pytest.raises(KeyboardInterrupt), whole_folder(place) as temporary:
        (temporary / "half").write_text("x")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    with whole_folder(place) as temporary:
        (temporary / "all").write_text("x")
    assert [path.name for path in tmp_path.rglob("*")] == ["place", "all"]


def test_a_folder_that_is_there_stays_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "old").touch()
    with pytest.raises(WorkspaceError, match="cannot write"), whole_folder(place):
        pass
    with whole_folder(place, lambda: True):
        pass
    with pytest.raises(KeyboardInterrupt), whole_folder(place, replace=True):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["place", "old"]
    with whole_folder(place, replace=True) as temporary:
        (temporary / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["place", "new"]


def test_an_error_names_the_place_and_not_the_temporary_folder(tmp_path: Path) -> None:
    place = tmp_path / "place"
    with pytest.raises(UserError) as caught, whole_folder(place) as temporary:
        (temporary / "file").touch()
        write_text(temporary / "file" / "inside", "x")
    assert str(place / "file" / "inside") in str(caught.value)


def _inside(enter: Callable[[], AbstractContextManager[object]], ready: Path) -> int:
    """The id of a child that is inside the block, and ends only by being killed."""
    process = os.fork()
    if process == 0:
        with enter():
            ready.touch()
            signal.pause()
        os._exit(0)
    while not ready.exists():
        pass
    ready.unlink()
    return process


def _kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


@contextmanager
def _whole_within(place: Path) -> Iterator[Path]:
    """As when a stage's folder is written by what writes whole folders itself."""
    with whole_folder(place) as outer, whole_folder(outer) as inner:
        yield inner


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_what_a_killed_process_left_is_removed(
    tmp_path: Path, whole: Callable[[Path], AbstractContextManager[Path]]
) -> None:
    place = tmp_path / "place"
    dead = _inside(lambda: whole(place), tmp_path / "ready")
    _kill(dead)
    alive = _inside(lambda: whole(place), tmp_path / "ready")
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 1 and str(alive) in left.pop()
    foreign = tmp_path / f".partial-another-{dead}-0123456789abcdef"  # of a machine, alive there
    foreign.mkdir()
    with whole(place):
        pass
    assert len(list(tmp_path.iterdir())) == 3
    _kill(alive)


def test_what_a_process_killed_in_a_folder_within_a_folder_left_is_removed(tmp_path: Path) -> None:
    place = tmp_path / "place"
    _kill(_inside(lambda: _whole_within(place), tmp_path / "ready"))
    assert len(list(tmp_path.iterdir())) == 2
    with _whole_within(place) as temporary:
        (temporary / "file").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["place", "file"]


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_another_process_may_remove_what_was_left_first(
    tmp_path: Path,
    whole: Callable[[Path], AbstractContextManager[Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _kill(_inside(lambda: whole(tmp_path / "place"), tmp_path / "ready"))
    (left,) = tmp_path.iterdir()

    def gone(process: int) -> bool:
        shutil.rmtree(left) if left.is_dir() else left.unlink()
        return False

    monkeypatch.setattr(psutil, "pid_exists", gone)
    with whole(tmp_path / "place"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_threads_do_not_disturb_each_other_at_one_place(
    tmp_path: Path, whole: Callable[[Path], AbstractContextManager[Path]]
) -> None:
    place = tmp_path / "place"

    def write() -> None:
        with whole(place):
            pass
        shutil.rmtree(place) if place.is_dir() else place.unlink()

    with whole(place) as ours, ThreadPoolExecutor(1) as pool:
        pool.submit(write).result()
        assert ours.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


# Locks


def test_a_lock_is_one_process_s_until_it_ends(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "lock"
    with lock_file(file) as ours, lock_file(file) as theirs:
        assert ours
        assert not theirs
    assert not list(file.parent.iterdir())
    process = _inside(lambda: lock_file(file), tmp_path / "ready")
    with lock_file(file) as ours:
        assert not ours
    _kill(process)
    with lock_file(file, wait=True) as ours:
        assert ours
    assert not list(file.parent.iterdir())


def test_those_who_wait_get_the_lock_one_after_the_other(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from safezone.files import lock_file\n"
        "for _ in range(5):\n"
        "    with lock_file(Path(sys.argv[1]), wait=True) as ours:\n"
        "        count = Path(sys.argv[2]); n = int(count.read_text()); time.sleep(0.01)\n"
        "        count.write_text(str(n + 1))\n"
    )
    (tmp_path / "count").write_text("0")
    command = [sys.executable, "-c", program, str(tmp_path / "lock"), str(tmp_path / "count")]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "15"
    assert not (tmp_path / "lock").exists()


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [(True, True, True), (True, False, False), (False, True, False), (False, False, False)],
)
def test_a_folder_is_one_process_s_or_shared(
    tmp_path: Path, first: bool, second: bool, together: bool
) -> None:
    place = tmp_path / "place"
    enter = lambda: locked(place, shared=first)  # noqa: E731
    process = _inside(enter, tmp_path / "ready")
    if together:
        with locked(place, shared=second), locked(place, shared=second):
            pass
    else:
        with pytest.raises(UserError, match="another process"), locked(place, shared=second):
            raise AssertionError
    _kill(process)
    with locked(place, shared=second):
        pass
    with locked(place):
        pass
    assert {path.name for path in place.iterdir()} <= {LOCK}


def test_a_fork_does_not_keep_its_parent_s_lock(tmp_path: Path) -> None:
    with locked(tmp_path):
        process = os.fork()
        if process == 0:
            signal.pause()
    with locked(tmp_path):
        pass
    _kill(process)


def test_another_name_is_another_lock(tmp_path: Path) -> None:
    with locked(tmp_path, file="one"), locked(tmp_path, file="two"):
        assert {path.name for path in tmp_path.iterdir()} >= {"one"}


# Hashes


def test_a_hash_is_of_content_type_shape_and_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"text")
    (tmp_path / "b").write_bytes(b"text")
    assert digest(tmp_path / "a") == digest(tmp_path / "b") == digest("text") == digest(b"text")
    one = torch.zeros(2)
    assert digest(one) == digest(torch.zeros(2))
    distinct = [
        digest(),
        digest(""),
        digest("ab"),
        digest("a", "b"),
        digest("b", "a"),
        digest("", "ab"),
        digest(one),
        digest(one.double()),
        digest(one[None]),
        digest(one, one),
        digest(torch.tensor(0.0)),
        digest(torch.zeros(2, dtype=torch.bfloat16)),
        digest(os.fsdecode(b"\xff")),
    ]
    assert len(set(distinct)) == len(distinct)
    assert digest(torch.arange(6).view(2, 3).T) == digest(torch.arange(6).view(2, 3).T.contiguous())


def test_whole_file_makes_folders_and_an_empty_file(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a" / "b") as temporary:
        assert temporary.read_bytes() == b""
        temporary.write_text(json.dumps(1))
    assert (tmp_path / "a" / "b").read_text() == "1"


def test_what_a_process_killed_between_two_renames_took_away_comes_back(tmp_path: Path) -> None:
    place = tmp_path / "place"
    with whole_folder(place) as temporary:
        (temporary / "by hand").touch()

    def replaced() -> AbstractContextManager[Path]:
        return whole_folder(place, replace=True)

    _kill(_inside(replaced, tmp_path / "ready"))
    (left,) = (path for path in tmp_path.iterdir() if path != place)
    place.rename(left.with_name(f"{left.name}-old"))  # what it would have done next
    with pytest.raises(KeyboardInterrupt), replaced():
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["place", "by hand"]
