"""Captions of a concept's images: a text file beside each, with ``{}`` where the concept stands."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from safezone.errors import UserError

CAPTION_SUFFIX: Final = ".txt"
MOST_CHARACTERS: Final = 2000
"""Of one caption; text encoders read some 75 tokens."""


def check_caption(caption: str) -> str:
    """What is wrong with a caption, as the end of a sentence; empty when it is well."""
    if caption.count("{}") != 1:
        return "must have {} once, where the concept stands, as in: a photo of {} on a beach"
    if len(caption) > MOST_CHARACTERS or not caption.isprintable():
        return f"must be one line of at most {MOST_CHARACTERS} characters"
    return ""


def read_captions(images: Sequence[Path]) -> tuple[str, ...] | None:
    """The captions in ``<stem>.txt`` beside the images; None when no image has one.

    Raises UserError when only some have one, and for a caption that is unreadable or wrong.
    """
    files = [path.with_suffix(CAPTION_SUFFIX) for path in images]
    if not any(file.exists() for file in files):
        return None
    return tuple(_caption(file) for file in files)


def _caption(file: Path) -> str:
    if not file.exists():
        raise UserError(f"the caption {file} is missing while {file.parent} has others; add it")
    try:
        with file.open(encoding="utf-8") as stream:
            caption = stream.read(MOST_CHARACTERS + 2).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as UTF-8 text; mend or remove it") from error
    if problem := check_caption(caption):
        raise UserError(f"{file} {problem}")
    return caption
