"""What a browser sends: of this page, bounded; files are checked whole, then put in place."""

import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from safezone.audit.cases import PROTECTED, read_cases
from safezone.concepts import MASK_FOLDER, image_files, load_concept
from safezone.concepts.concept import default_class_word
from safezone.concepts.folder import CONCEPT_FILE, MOST_IMAGES, is_image
from safezone.errors import UserError
from safezone.files import whole_folder, write_json
from safezone.images import IMAGE_SUFFIXES
from safezone.reading import parse_json

ORIGINALS: Final = "clean"
"""The folder of the originals, beside that of the protected pictures."""
PARTS: Final[Mapping[str, str]] = {
    PROTECTED: "protected pictures",
    ORIGINALS: "originals",
    MASK_FOLDER: "masks",
}
"""What can be sent, and what the page calls it."""
ABOUT: Final = "session.json"
"""In a session's folder: its title, and whether its pictures are protected here."""
MOST_BYTES: Final = 50_000_000
"""Of one file."""
MOST_SENT: Final = 400_000_000
"""Of all files that are sent together."""
_MOST_PAINTED: Final = 4_000_000
"""Bytes of a painted mask, and of choices."""
_MOST_LETTERS: Final = 60
_SIDE: Final = 64
"""Pictures are checked as squares of this size; the model's own is read when it is opened."""


class Bounded:
    """Refuses what other pages send, and more bytes than all uploads together may have."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, seen = Request(scope).headers, 0
        most = f"{MOST_SENT / 1e6:.0f} MB"
        too_much = f"these files have more than the {most} allowed; send fewer or smaller"
        # A browser says of all that may change something which page has sent it.
        origin = None if scope["method"] in ("GET", "HEAD") else headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            refusal = JSONResponse({"error": "this page may not ask for that"}, 403)
            await refusal(scope, receive, send)
            return
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MOST_SENT:
            await JSONResponse({"error": too_much}, 413)(scope, receive, send)
            return

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > MOST_SENT:
                raise UserError(too_much)
            return message

        await self._app(scope, bounded, send)


async def read_body(request: Request) -> bytes:
    """What was sent, of bounded size; UserError for more."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > _MOST_PAINTED:
            raise UserError("that is more than a painted mask has; load the page again")
        parts.append(part)
    return b"".join(parts)


async def read_object(request: Request) -> dict[str, Any]:
    """The JSON object that was sent; UserError for anything else."""
    try:
        value = parse_json(await read_body(request))
    except ValueError as error:
        raise UserError("what was sent is no JSON; load the page again") from error
    if not isinstance(value, dict):
        raise UserError("what was sent is no JSON object; load the page again")
    return value


@dataclass(frozen=True)
class Upload:
    """One file as it was sent. ``part``: one of ``PARTS``; ``name``: what the browser calls it."""

    part: str
    name: str
    content: BinaryIO


def write_about(folder: Path, title: str) -> None:
    """Keeps what a folder is called on the page; originals alone are protected here."""
    protects = not (folder / PROTECTED).is_dir()
    write_json(folder / ABOUT, {"title": title[:_MOST_LETTERS], "protects": protects})


def store(folder: Path, uploads: Sequence[Upload], title: str, class_word: str = "") -> None:
    """Makes the folder of an audit from what was sent: ``protected``, ``clean``, their masks.

    Masks go to the originals, else to the protected pictures. Raises UserError, and leaves
    nothing, for too many files or bytes, names that lead elsewhere or come twice, and whatever
    ``read_cases`` refuses: what is no image, is damaged, has too many pixels, or does not fit.
    """
    _require_bounded(uploads)
    words = {"name": folder.name, "class_word": _class_word(folder.name, class_word)}
    given = {upload.part for upload in uploads}
    owner = ORIGINALS if ORIGINALS in given else PROTECTED
    try:
        with whole_folder(folder) as temporary:
            for upload in uploads:
                part = f"{owner}/{MASK_FOLDER}" if upload.part == MASK_FOLDER else upload.part
                path = temporary / part / upload.name
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as file:
                    shutil.copyfileobj(upload.content, file)
            for part in given - {MASK_FOLDER}:
                write_json(temporary / part / CONCEPT_FILE, words)
            require_pictures(temporary)
            write_about(temporary, title.strip() or folder.name)
    except UserError as error:
        raise without_path(error, folder) from error


def without_path(error: UserError, folder: Path) -> UserError:
    """The sentence without the folder's own path, which the page's reader has not chosen."""
    return UserError(str(error).replace(f"{folder.absolute()}/", "").replace(f"{folder}/", ""))


def require_pictures(folder: Path) -> None:
    """Raises UserError, naming the file, unless an audit can read the folder."""
    protected, clean = folder / PROTECTED, folder / ORIGINALS
    with warnings.catch_warnings(action="ignore"):
        parts = [part for part in (protected, clean) if part.is_dir()]
        counts = [len(image_files(part)) for part in parts]
        for part, count in zip(parts, counts, strict=True):
            _require_count(count, PARTS[part.name])
        if not protected.is_dir():
            load_concept(clean, _SIDE)
            return
        if len(set(counts)) > 1:
            raise UserError(
                f"there are {counts[0]} protected pictures and {counts[1]} originals; give the "
                "original of each, so that they are in the same order by name"
            )
        read_cases(protected, clean if clean in parts else None, _SIDE)


def _require_count(count: int, what: str) -> None:
    if count > MOST_IMAGES:
        raise UserError(f"there are {count} {what}; give at most {MOST_IMAGES}")


def _require_bounded(uploads: Sequence[Upload]) -> None:
    """All that can be said of files before one of them is opened."""
    if not {PROTECTED, ORIGINALS} & {upload.part for upload in uploads}:
        raise UserError("no picture was given; choose 3 to 15 pictures of one object")
    stems: dict[str, set[str]] = {part: set() for part in PARTS}
    sent: set[tuple[str, str]] = set()
    for upload in uploads:
        if upload.part not in PARTS:
            raise UserError(f"{upload.part!r} is no place for a file; give {', '.join(PARTS)}")
        _require_name(upload.name)
        if (upload.part, upload.name.lower()) in sent:
            raise UserError(
                f"two {PARTS[upload.part]} are called {upload.name}; rename one of them"
            )
        sent.add((upload.part, upload.name.lower()))
        stems[upload.part].add(Path(upload.name).stem)
        size = upload.content.seek(0, 2)
        upload.content.seek(0)
        if size > MOST_BYTES:
            raise UserError(
                f"{upload.name} has {size / 1e6:.0f} MB, more than the {MOST_BYTES / 1e6:.0f} MB "
                "allowed; make it smaller"
            )
    for part, what in PARTS.items():
        _require_count(sum(upload.part == part for upload in uploads), what)
    pictures = stems[ORIGINALS] or stems[PROTECTED]
    if strange := sorted(stems[MASK_FOLDER] - pictures):
        raise UserError(
            f"the mask {strange[0]} belongs to no picture; call it as its picture is called"
        )


def _require_name(name: str) -> None:
    """A name that a folder of pictures may hold: it leads nowhere and hides nothing."""
    if not name or name.startswith(".") or any(c in '/\\:*?"<>|' or c < " " for c in name):
        raise UserError(f"{name!r} is no plain name of a file; rename the file")
    if len(name.encode("utf-8", "replace")) > 150:
        raise UserError(f"the name {name[:40]}... is too long; rename the file")
    if not is_image(Path(name)):
        raise UserError(f"{name} is not an image ({', '.join(IMAGE_SUFFIXES)}); convert it")


def _class_word(name: str, text: str) -> str:
    word = " ".join(text.split())
    if len(word) > _MOST_LETTERS or any(c in "{}<>" for c in word):
        raise UserError(
            f"what is on the pictures is {word[:30]!r}; say it in a word or two, such as: toy"
        )
    return word or default_class_word(name)
