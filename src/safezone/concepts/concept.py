"""Concept: the images of one object, their masks and its words; its folder; known data sets."""

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from safezone.arrays import Images
from safezone.concepts.captions import CAPTION_SUFFIX, check_caption, read_captions
from safezone.errors import UserError
from safezone.files import digest, require_new, whole_folder, write_json, write_text
from safezone.images import IMAGE_SUFFIXES, read_image, read_mask, to_float, to_square, write_png

MOST_IMAGES = 15
CONCEPT_FILE = "concept.json"
MASK_FOLDER = "masks"

_IGNORED_FILE = re.compile(
    r"\..*|(concept|manifest|metadata)\.json|.*\.md|licen[cs]e.*|readme.*|thumbs\.db|desktop\.ini",
    re.IGNORECASE,
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Concept:
    """The images of one object, their masks and its words.

    ``images``: uint8 [n, 3, S, S]. ``masks``: bool [n, S, S], True on the object, or None.
    ``image_names``: the files' stems, unique. ``placeholder``: the learned token, by default made
    of the name. ``captions``: what each image shows, with ``{}`` for the concept, or None. Raises
    ValueError when the shapes, types or names do not fit together.
    """

    name: str
    class_word: str
    placeholder: str = ""
    images: Tensor
    masks: Tensor | None = None
    image_names: tuple[str, ...]
    captions: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.placeholder:
            object.__setattr__(self, "placeholder", default_placeholder(self.name))
        count, side = len(self.images), self.images.shape[-1]
        if self.images.dtype != torch.uint8 or self.images.shape[1:] != (3, side, side):
            raise ValueError(f"images are {self.images.dtype} {tuple(self.images.shape)}")
        if self.masks is not None and (
            self.masks.dtype != torch.bool or self.masks.shape != (count, side, side)
        ):
            raise ValueError(f"masks are {self.masks.dtype} {tuple(self.masks.shape)}")
        if len(self.image_names) != count or len(set(self.image_names)) != count:
            raise ValueError(f"{count} images with the names {self.image_names}")
        if self.captions is not None and len(self.captions) != count:
            raise ValueError(f"{count} images with {len(self.captions)} captions")
        for caption in self.captions or ():
            if problem := check_caption(caption):
                raise ValueError(f"the caption {caption!r} {problem}")
        for name in (self.name, *self.image_names):
            if not name or name.startswith(".") or re.search(r"[/\\\0]", name):
                raise ValueError(f"{name!r} cannot be the name of a file")
        if re.search(r"[\s{}/\\\0]", self.placeholder):
            raise ValueError(f"the placeholder {self.placeholder!r} holds a space, brace or slash")
        if not self.class_word.strip():
            raise ValueError("the class word is empty")

    def pixels(self) -> Images:
        """The images as float32 [n, 3, S, S] in [0, 1]."""
        return to_float(self.images)

    def with_images(self, images: Tensor) -> "Concept":
        """The same concept with other images, uint8 of the same shape."""
        if images.shape != self.images.shape:
            raise ValueError(f"{tuple(images.shape)} images for {tuple(self.images.shape)}")
        return replace(self, images=images)

    def content_key(self) -> str:
        """SHA-256, in hex, of everything that the concept holds."""
        header: list[Any] = [self.name, self.class_word, self.placeholder, self.image_names]
        if self.captions is not None:
            header.append(self.captions)
        tensors = [self.images] if self.masks is None else [self.images, self.masks]
        return digest(json.dumps(header), *tensors)


def default_placeholder(name: str) -> str:
    """``duck_toy`` gives ``<duck-toy>``."""
    words = re.sub(r"[\W_]+", "-", name.lower()).strip("-")
    return f"<{words or 'concept'}>"


def default_class_word(name: str) -> str:
    """``duck_toy`` gives ``duck toy``, ``dog6`` gives ``dog``."""
    words = re.sub(r"[\W_]+", " ", name.lower()).strip()
    return re.sub(r"\s*\d+$", "", words) or words or "object"


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


def image_files(folder: Path) -> tuple[Path, ...]:
    """The image files directly in a folder, in natural order (2 before 10), stems unique.

    Hidden files, folders, concept.json and the like, readme and licence files and the images'
    captions (``<stem>.txt``) are passed over.
    Raises UserError when the folder is missing, holds any other file or no image, or when two
    images share a stem.
    """
    files = [p for p in _entries(folder) if not p.is_dir() and not _IGNORED_FILE.fullmatch(p.name)]
    stems = {path.stem for path in files if path.suffix.lower() in IMAGE_SUFFIXES}
    files = [p for p in files if p.suffix != CAPTION_SUFFIX or p.stem not in stems]
    seen: dict[str, Path] = {}
    for path in files:
        if path.suffix.lower() not in IMAGE_SUFFIXES:
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
    if not files:
        raise UserError(f"{folder} holds no images; put 3 to {MOST_IMAGES} of one object into it")
    return tuple(files)


def _words(folder: Path) -> dict[str, str]:
    """name, class_word and placeholder as far as concept.json gives them."""
    path = folder / CONCEPT_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); mend or remove it") from error
    keys = ("name", "class_word", "placeholder")
    if not isinstance(found, dict) or not all(isinstance(found.get(k, ""), str) for k in keys):
        raise UserError(f"{path} must be an object whose {', '.join(keys)} are strings; mend it")
    return {key: found[key] for key in keys if found.get(key)}


def _has_masks(folder: Path) -> bool:
    masks = folder / MASK_FOLDER
    return masks.is_dir() and any(
        path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        for path in masks.iterdir()
    )


def _square_mask(path: Path, image: NDArray[np.uint8], size: int) -> NDArray[np.bool_]:
    """The mask of one image, checked, cut and resized as the image is."""
    if not path.exists():
        raise UserError(f"the mask {path} is missing while {path.parent} has others; add it")
    mask = read_mask(path)
    if mask.shape != image.shape[:2]:
        raise UserError(
            f"{path} has {mask.shape[1]} x {mask.shape[0]} pixels but its image "
            f"{image.shape[1]} x {image.shape[0]}; make the mask the image's size"
        )
    if not mask.any():
        raise UserError(f"{path} is empty; paint the object white or remove the file")
    if mask.all():
        warnings.warn(f"{path} covers the whole image, so it masks nothing", stacklevel=3)
    square = to_square(mask, size)
    if not square.any():
        raise UserError(
            f"{path} is empty in the image's centre square of {size} px; "
            "crop the image and its mask around the object"
        )
    return square


def load_concept(
    folder: Path,
    size: int,
    *,
    class_word: str | None = None,
    placeholder: str | None = None,
    require_masks: bool = False,
    min_images: int = 1,
) -> Concept:
    """Reads a folder of images as squares of ``size`` pixels, with ``masks/<stem>.png`` and the
    captions ``<stem>.txt`` where it has them.

    The words come from the arguments, else from ``concept.json``, else from the folder's name.
    Images and masks are cut alike (``images.to_square``). Raises UserError for a folder that
    :func:`image_files` refuses, fewer than ``min_images`` images, an unreadable image, a mask that
    is missing, empty or of another size than its image, or missing masks with ``require_masks``.
    Warns of more than 15 images, of images smaller than ``size`` and of masks that cover all.
    """
    if size < 1:
        raise UserError(f"the image size {size} is not positive; give a number of pixels")
    files = image_files(folder)
    if len(files) < min_images:
        raise UserError(
            f"{folder} holds {len(files)} image{'s' * (len(files) != 1)} and {min_images} are "
            f"needed; give {min_images} to {MOST_IMAGES} images of one object"
        )
    if len(files) > MOST_IMAGES:
        warnings.warn(
            f"{folder} holds {len(files)} images; 3 to {MOST_IMAGES} are usual", stacklevel=2
        )
    masked = _has_masks(folder)
    if require_masks and not masked:
        raise UserError(f"{folder} has no masks; make them with `safezone mask {folder}`")
    images, masks = [], []
    for path in files:
        image = read_image(path)
        if min(image.shape[:2]) < size:
            warnings.warn(f"{path} is smaller than {size} px and is enlarged", stacklevel=2)
        images.append(torch.from_numpy(to_square(image, size)).permute(2, 0, 1).contiguous())
        if masked:
            mask_path = folder / MASK_FOLDER / f"{path.stem}.png"
            masks.append(torch.from_numpy(_square_mask(mask_path, image, size)))
    words = _words(folder)
    name = words.get("name", folder.resolve().name)
    try:
        return Concept(
            name=name,
            class_word=class_word or words.get("class_word", default_class_word(name)),
            placeholder=placeholder or words.get("placeholder", default_placeholder(name)),
            images=torch.stack(images),
            masks=torch.stack(masks) if masked else None,
            image_names=tuple(path.stem for path in files),
            captions=read_captions(files),
        )
    except ValueError as error:
        raise UserError(f"{folder} or its words cannot be used: {error}; change that") from error


def save_concept(
    concept: Concept,
    folder: Path,
    *,
    extra: Mapping[str, Any] | None = None,
    png_text: Mapping[str, str] | None = None,
) -> None:
    """Writes images, masks, captions and words as :func:`load_concept` reads them, or nothing.

    ``extra``: JSON values added to concept.json. ``png_text``: text chunks of every image. Raises
    UserError when the folder exists and is not empty or cannot be written, ValueError when
    ``extra`` hides one of the concept's own keys.
    """
    words = {key: getattr(concept, key) for key in ("name", "class_word", "placeholder")}
    if clash := words.keys() & (extra or {}).keys():
        raise ValueError(f"extra may not hold {', '.join(sorted(clash))}")
    require_new(folder)
    with whole_folder(folder) as temporary:
        for index, stem in enumerate(concept.image_names):
            write_png(temporary / f"{stem}.png", concept.images[index], png_text)
            if concept.masks is not None:
                write_png(temporary / MASK_FOLDER / f"{stem}.png", concept.masks[index])
            if concept.captions is not None:
                write_text(temporary / f"{stem}{CAPTION_SUFFIX}", concept.captions[index] + "\n")
        write_json(temporary / CONCEPT_FILE, {**words, **(extra or {})})
