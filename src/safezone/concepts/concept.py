"""Concept: the images of one object, their masks and its words; read from a folder, and written."""

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from safezone.arrays import Images
from safezone.concepts.folder import (
    CAPTION_SUFFIX,
    CONCEPT_FILE,
    MASK_FOLDER,
    MOST_IMAGES,
    check_caption,
    folder_name,
    image_files,
    mask_files,
    read_captions,
    read_words,
    readable_name,
)
from safezone.errors import Notice, UserError
from safezone.files import digest, require_new, whole_folder, write_json, write_text
from safezone.images import read_image, read_mask, to_float, to_square, write_png


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


_REPEATS = re.compile(r"^\d+_(?=.*[^\W\d_])")
"""Begins the name of a training folder of kohya's scripts: 10_toy is ten times the toy."""


def default_placeholder(name: str) -> str:
    """``duck_toy`` gives ``<duck-toy>``, as does kohya's ``10_duck toy``."""
    words = re.sub(r"[\W_]+", "-", _REPEATS.sub("", name, count=1).lower()).strip("-")
    return f"<{words or 'concept'}>"


def default_class_word(name: str) -> str:
    """``duck_toy`` gives ``duck toy``, ``dog6`` gives ``dog``, kohya's ``10_toy`` gives ``toy``."""
    words = re.sub(r"[\W_]+", " ", _REPEATS.sub("", name, count=1).lower()).strip()
    return re.sub(r"\s*\d+$", "", words) or words or "object"


def square_mask(
    mask: NDArray[np.bool_], path: Path, image: NDArray[np.uint8], size: int
) -> NDArray[np.bool_]:
    """The mask of one image, checked, cut and resized as the image is: bool [size, size].

    ``path``: where it comes from, for messages. Raises UserError for another size than the
    image's and for one that is empty; warns of one that covers all.
    """
    if mask.shape != image.shape[:2]:
        raise UserError(
            f"{path} has {mask.shape[1]} x {mask.shape[0]} pixels but its image "
            f"{image.shape[1]} x {image.shape[0]}; make the mask the image's size"
        )
    if not mask.any():
        raise UserError(f"{path} is empty; paint the object white or remove the file")
    if mask.all():
        warnings.warn(f"{path} covers the whole image, so it masks nothing", Notice, stacklevel=3)
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
    require_captions: bool = False,
    min_images: int = 1,
) -> Concept:
    """Reads a folder of images as squares of ``size`` pixels, with their masks and captions.

    The words come from the arguments, else from ``concept.json``, else from the folder's name.
    Images and masks are cut alike (``images.to_square``). Raises UserError for a folder that
    ``image_files`` or ``mask_files`` refuses, fewer than ``min_images`` images, an unreadable
    image, a mask that is empty or of another size than its image, or masks and captions that are
    required and missing or wrong. Warns of wrong captions that nobody requires, of more than 15
    images, of images smaller than ``size`` and of masks that cover all.
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
            f"{folder} holds {len(files)} images; 3 to {MOST_IMAGES} are usual",
            Notice,
            stacklevel=2,
        )
    mask_paths = mask_files(folder, files)
    if require_masks and not mask_paths:
        raise UserError(f"{folder} has no masks; make them with `safezone mask {folder}`")
    captions = _captions(folder, files, require_captions)
    images, masks = [], []
    for path in files:
        image = read_image(path)
        if min(image.shape[:2]) < size:
            warnings.warn(f"{path} is smaller than {size} px and is enlarged", Notice, stacklevel=2)
        images.append(torch.from_numpy(to_square(image, size)).permute(2, 0, 1).contiguous())
        if mask_paths:
            mask_path = mask_paths[path.stem]
            square = square_mask(read_mask(mask_path), mask_path, image, size)
            masks.append(torch.from_numpy(square))
    words = read_words(folder)
    name = words.get("name", folder_name(folder))
    try:
        return Concept(
            name=name,
            class_word=class_word or words.get("class_word", default_class_word(name)),
            placeholder=placeholder or words.get("placeholder", default_placeholder(name)),
            images=torch.stack(images),
            masks=torch.stack(masks) if masks else None,
            image_names=tuple(readable_name(path.stem) for path in files),
            captions=captions,
        )
    except ValueError as error:
        raise UserError(f"{folder} or its words cannot be used: {error}; change that") from error


def _captions(folder: Path, files: Sequence[Path], required: bool) -> tuple[str, ...] | None:
    """The captions; other text files beside the images harm nobody who asks for no captions."""
    try:
        captions = read_captions(files)
    except UserError as error:
        if required:
            raise
        warnings.warn(f"no captions are read from {folder}: {error}", Notice, stacklevel=3)
        return None
    if required and captions is None:
        raise UserError(
            f"{folder} has no captions; write NAME{CAPTION_SUFFIX} beside each image NAME, with "
            "{} where the concept stands"
        )
    return captions


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
