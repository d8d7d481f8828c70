"""Captions of a concept's images: a text file beside each, with ``{}`` where the concept stands."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from safezone.errors import UserError
from safezone.reading import read_text

CAPTION_SUFFIX: Final = ".txt"
MOST_CHARACTERS: Final = 2000
"""Of one caption; text encoders read some 75 tokens."""

_JOINERS: Final = "\u200c\u200d"
"""Zero-width characters that belong to words and emojis."""


def check_caption(caption: str) -> str:
    """What is wrong with a caption, as the end of a sentence; empty when it is well."""
    if len(caption.splitlines()) > 1:
        return "must be one line"
    if caption.count("{}") != 1:
        return "must have {} once, where the concept stands, as in: a photo of {} on a beach"
    if len(caption) > MOST_CHARACTERS:
        return f"must have at most {MOST_CHARACTERS} characters"
    if not re.sub(f"[{_JOINERS}]", "", caption).isprintable():
        return "must have no control characters"
    return ""


def plain(text: str) -> str:
    """The text as it looks: odd spaces and tabs are spaces, invisible characters are left out."""
    kept = (" " if unicodedata.category(c) == "Zs" or c == "\t" else c for c in text)
    visible = "".join(c for c in kept if unicodedata.category(c) != "Cf" or c in _JOINERS)
    return visible.strip()


def caption_files(images: Sequence[Path]) -> Mapping[Path, Path]:
    """The text files ``<stem>.txt``, in any case, beside the images, by image."""
    texts = {
        path.stem: path
        for folder in {image.parent for image in images}
        for path in folder.iterdir()
        if path.suffix.lower() == CAPTION_SUFFIX
    }
    return {image: texts[image.stem] for image in images if image.stem in texts}


def read_captions(images: Sequence[Path]) -> tuple[str, ...] | None:
    """The captions in ``<stem>.txt`` beside the images; None when no image has one.

    Raises UserError when only some have one, and for a caption that is unreadable or wrong.
    """
    files = caption_files(images)
    if not files:
        return None
    for image in images:
        if image not in files:
            missing = image.with_suffix(CAPTION_SUFFIX)
            raise UserError(f"the caption {missing} is missing while others are there; add it")
    return tuple(_caption(files[image]) for image in images)


def _caption(file: Path) -> str:
    caption = plain(read_text(file, "a caption"))
    if problem := check_caption(caption):
        raise UserError(f"{file} {problem}")
    return caption
