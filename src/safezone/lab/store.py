"""Artifacts, what a workspace holds, and the check of weights."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safezone.concepts import Concept
from safezone.errors import UserError, WorkspaceError
from safezone.files import PARTIAL, digest, move_file, require_new, whole_folder, write_json
from safezone.models.fingerprint import tensors
from safezone.reading import read_json

WORK: Final = "work"
"""The folder of all artifacts in a workspace."""
NEEDS: Final = "needs.json"
"""Beside a result: the artifacts that it rests on, which ``safezone grid gc`` keeps."""
MANIFEST: Final = "manifest.json"
RUN_RECORD: Final = "run.json"
IMAGES_RECORD: Final = "images.json"
ROWS_FILE: Final = "rows.jsonl"
KEY_FILE: Final = "key.json"
RECORDS: Final = (MANIFEST, RUN_RECORD, IMAGES_RECORD, KEY_FILE)


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
    try:
        require_new(place)
    except UserError as error:
        raise WorkspaceError(str(error)) from error
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
                name: digest(temporary / name) for name in sorted(_files(temporary) - {self.record})
            }
            write_json(path, {**own, **record, "key": self.key, "files": files})
            if (self.place / self.record).is_file() and not self.done:
                for name in files:
                    move_file(temporary / name, self.place / name)


def artifacts_in(folder: Path) -> dict[str, Path]:
    """The folders of all artifacts below a folder, by their keys; UserError where there is none."""
    found: dict[str, Path] = {}
    for record in RECORDS:
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


def made_key(file: Path, record: str) -> str:
    """The key of the artifact that a file belongs to, if it is unchanged, else of its content."""
    path, content = file.parent / record, digest(file)
    manifest = read_json(path) if path.is_file() else {}
    return str(manifest["key"]) if manifest.get("files", {}).get(file.name) == content else content


def source_key(folder: Path, concept: Concept) -> str:
    """The key of the poison that made a folder's images, if they are unchanged, else of these."""
    path, content = folder / MANIFEST, concept.content_key()
    manifest = read_json(path) if path.is_file() else {}
    return str(manifest["key"]) if manifest.get("content") == content else content


def require_finite(owner: object, name: str) -> None:
    """Raises UserError when a weight of the model or encoder called ``name`` is NaN or infinite."""
    for path, tensor in tensors(owner):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(
                f"the weights of {name} hold NaN or infinite values ({path.lstrip('._')}); "
                "use another copy of them"
            )
