"""What lies in a concept's folder: images, masks, captions, words, and what is passed over.

A caption is a text file beside its image, with ``{}`` where the concept stands.
"""

import os
import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from safezone.errors import Notice, UserError
from safezone.images import IMAGE_SUFFIXES
from safezone.reading import read_json, read_text

MOST_IMAGES: Final = 15
CAPTION_SUFFIX: Final = ".txt"
MOST_CHARACTERS: Final = 2000
"""Of one caption; text encoders read some 75 tokens."""

_JOINERS: Final = "\u200c\u200d"
"""Zero-width characters that belong to words and emojis."""
CONCEPT_FILE: Final = "concept.json"
MASK_FOLDER: Final = "masks"
PREVIEW_FOLDER: Final = "mask-previews"
MASK_LABEL: Final = "-masklabel"
"""Ends the name of a mask that lies beside its image, as OneTrainer keeps them."""

_OTHER_LABEL: Final = "-condlabel"
"""OneTrainer's pictures for conditioning, which nothing here uses."""
_IGNORED: Final = re.compile(
    r"\..*|(concept|manifest|metadata)\.json|.*\.md|licen[cs]e.*|readme.*"
    r"|(eh)?thumbs\.db|desktop\.ini|icon\r",
    re.IGNORECASE,
)
OF_SYSTEMS: Final = ("__macosx", "@eadir")
"""Folders that a Mac or a NAS leaves, in lower case."""
_NOT_OURS: Final = (*OF_SYSTEMS, PREVIEW_FOLDER, MASK_FOLDER)
"""Folders in which no images of the object are, in lower case."""


def readable_name(name: str) -> str:
    """A file's name as text: bytes that are not UTF-8 are read as the Latin-1 of old archives."""
    content = os.fsencode(name)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def folder_name(folder: Path) -> str:
    """The name under which a folder was given: of a link the link's own, not its target's."""
    return readable_name(Path(os.path.abspath(folder)).name)


def _natural(path: Path) -> tuple[list[str | int], str]:
    """Sorts 2.png before 10.png."""
    parts = re.split(r"([0-9]+)", path.name.lower())
    return [int(part) if part.isdecimal() else part for part in parts], path.name


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {problem}; give a folder with the images of one object")
    try:
        return sorted(folder.iterdir(), key=_natural)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be listed ({error.strerror}); allow reading it"
        ) from error


def is_image(path: Path) -> bool:
    """By its name's ending."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def _ignored(path: Path) -> bool:
    """Whether a file is none of ours. Of images only hidden ones are, which a warning names."""
    return _IGNORED.fullmatch(path.name) is not None and (
        path.name.startswith(".") or not is_image(path)
    )


def _labelled(paths: Sequence[Path], label: str) -> dict[str, Path]:
    """Pictures that belong to the image ``<stem>``, as their names say, by that stem."""
    stems = {path.stem for path in paths if is_image(path)}
    return {
        path.stem.removesuffix(label): path
        for path in paths
        if is_image(path) and path.stem.endswith(label) and path.stem.removesuffix(label) in stems
    }


def image_files(folder: Path) -> tuple[Path, ...]:
    """The image files directly in a folder, in natural order (2 before 10), stems unique.

    Passed over: hidden files, concept.json and the like, readme and licence files that are no
    images, captions (``<stem>.txt``), masks (``<stem>-masklabel.png``). Warns of images that are
    left out: hidden ones, those of folders inside. Raises UserError when the folder is missing,
    holds any other file or no image, or when two images share a stem.
    """
    entries = _entries(folder)
    files = [path for path in entries if not path.is_dir() and not _ignored(path)]
    unused = _labelled(files, _OTHER_LABEL)
    beside = {*_labelled(files, MASK_LABEL).values(), *unused.values()}
    files = [path for path in files if path not in beside]
    captions = set(caption_files([path for path in files if is_image(path)]).values())
    seen: dict[str, Path] = {}
    for path in files:
        if path in captions:
            continue
        if not is_image(path):
            raise UserError(
                f"{path} is not an image ({', '.join(IMAGE_SUFFIXES)}); "
                "convert it or move it out of the folder"
            )
        if path.stem in seen:
            raise UserError(
                f"{seen[path.stem].name} and {path.name} in {folder} differ only in their ending; "
                "rename one or move it away"
            )
        seen[path.stem] = path
    for path in (*entries, *unused.values()):
        if path in unused.values() or _left_out(path):
            warnings.warn(
                f"{path} is left out: images are read from {folder} alone", Notice, stacklevel=2
            )
    if not seen:
        inner = inner_folders(folder)
        hint = f", or give {inner[0]}" if inner else ""
        raise UserError(
            f"{folder} holds no images; put 3 to {MOST_IMAGES} of one object into it{hint}"
        )
    return tuple(seen.values())


def _left_out(path: Path) -> bool:
    """Whether an image, or a folder with images, is passed over without being a mask's."""
    if not path.is_dir():
        return is_image(path) and path.name.startswith(".") and not path.name.startswith("._")
    return not path.name.startswith(".") and path.name.lower() not in _NOT_OURS and has_images(path)


def has_images(folder: Path) -> bool:
    """Whether images that are not hidden lie directly in a folder that can be listed."""
    try:
        return any(is_image(p) and not _ignored(p) and not p.is_dir() for p in folder.iterdir())
    except OSError:
        return False


def inner_folders(folder: Path) -> list[Path]:
    """The folders directly in a folder that hold images of an object, in natural order.

    Not those of masks and previews, nor those that systems leave, in any case.
    """
    return [path for path in _entries(folder) if path.is_dir() and _left_out(path)]


def mask_folder(folder: Path) -> Path:
    """Where the masks are, or will be: ``masks``, in any case."""
    inner = [path for path in _entries(folder) if path.name.lower() == MASK_FOLDER]
    exact = folder / MASK_FOLDER
    return exact if exact in inner or not inner else inner[0]


def mask_files(folder: Path, images: Sequence[Path]) -> Mapping[str, Path]:
    """The masks of a folder's images, by the image's stem; empty when there are none.

    ``masks/<stem>.png``, in any format and with ``-masklabel`` or without, else
    ``<stem>-masklabel.png`` beside the images. Raises UserError when an image has none while
    others have, or two.
    """
    place = mask_folder(folder)
    files = [path for path in _entries(place) if is_image(path)] if place.is_dir() else []
    masks: dict[str, Path] = {}
    for path in (path for path in files if not _ignored(path)):
        stem = path.stem.removesuffix(MASK_LABEL)
        if stem in masks:
            raise UserError(f"{masks[stem]} and {path.name} are masks of one image; remove one")
        masks[stem] = path
    beside = _labelled(_entries(folder), MASK_LABEL)
    if masks and beside:
        warnings.warn(
            f"the masks of {place} are used, not {min(beside.values())}", Notice, stacklevel=2
        )
    masks = masks or beside
    for path in images if masks else ():
        if path.stem not in masks:
            example = next(iter(masks.values()))
            missing = example.with_name(f"{path.stem}{MASK_LABEL if beside else ''}.png")
            raise UserError(
                f"the mask {missing} is missing while {example.parent} has others; add it"
            )
    return masks


def read_words(folder: Path) -> dict[str, str]:
    """name, class_word and placeholder as far as concept.json gives them."""
    path = folder / CONCEPT_FILE
    if not path.exists() and not path.is_symlink():
        return {}
    content: dict[str, Any] = read_json(path)
    keys = ("name", "class_word", "placeholder")
    if not all(isinstance(content.get(key, ""), str) for key in keys):
        raise UserError(f"{path} must be an object whose {', '.join(keys)} are strings")
    words = {key: content[key].strip() for key in keys if key in content}
    return {key: word for key, word in words.items() if word}


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
    captions = {image: plain(read_text(files[image], "a caption")) for image in images}
    for image, caption in captions.items():
        if problem := check_caption(caption):
            raise UserError(f"{files[image]} {problem}")
    return tuple(captions.values())
