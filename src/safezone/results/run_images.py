"""The images of one run as they lie in a folder that ``safezone generate`` or a grid wrote."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import UInt8
from pydantic import ValidationError
from torch import Tensor

from safezone.concepts import Concept, load_concept
from safezone.errors import UserError
from safezone.fields import AT_LEAST_ONE, Natural, checks_of, located
from safezone.images import read_image
from safezone.lab.makers import learned_word
from safezone.lab.run import Run
from safezone.lab.store import IMAGES_RECORD, MANIFEST
from safezone.personalize import ADAPTER_FILES, Adapter, load_adapter, read_adapter
from safezone.reading import read_json
from safezone.scores import CLEAN


@dataclass(frozen=True, eq=False)
class RunImages:
    """The images of one run, uint8 [n, 3, h, w], with the prompt of each and where they lie.

    ``placeholder``: what stands for the object in the prompts. ``clean`` and ``training``: the
    folders of the clean and of the trained-on images, if known. ``embedding``: the recorded file or
    folder of the adapter.
    """

    run: Run
    class_word: str
    placeholder: str
    images: UInt8[Tensor, "n 3 h w"]
    prompts: list[str]
    place: Path
    clean: Path | None
    training: Path | None
    embedding: Path | None = None

    def adapter(self) -> Adapter | None:
        """What was learned, from where the record says or from the folder above the images; None
        where it is in neither. Raises UserError for a damaged file."""
        if self.embedding is not None and self.embedding.is_file():
            return load_adapter(self.embedding)
        for folder in (self.embedding, self.place.parent):
            if folder is not None and any((folder / name).is_file() for name in ADAPTER_FILES):
                return read_adapter(folder)
        return None

    def poison_model(self) -> str:
        """What the poison was made on, where it is known and another model than the run's."""
        made_on = str(self.manifest().get("model", ""))
        return made_on if self.run.poison != CLEAN and made_on != self.run.model else ""

    def manifest(self) -> dict[str, Any]:
        """How the trained-on images were poisoned; nothing where that is not known."""
        place = None if self.training is None else self.training / MANIFEST
        return {} if place is None or not place.is_file() else read_json(place)

    def clean_concept(self) -> Concept | None:
        """The clean images at the generated images' size, with the run's class word."""
        if self.clean is None or not self.clean.is_dir():
            return None
        size = self.images.shape[-1]
        return load_concept(self.clean, size, class_word=self.class_word or None)


@dataclass(frozen=True)
class _Drawn:
    """An image of an ``images.json``."""

    file: str
    prompt: str


@dataclass(frozen=True)
class _Record:
    """What is read of an ``images.json``."""

    concept: str
    poison: str
    defense: str
    method: str
    model: str
    seed: Natural
    class_word: str
    placeholder: str
    images: Annotated[tuple[_Drawn, ...], AT_LEAST_ONE]
    words: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    clean: str | None = None
    training: str | None = None
    embedding: str | None = None

    @property
    def run(self) -> Run:
        return Run(self.concept, self.poison, self.defense, self.method, self.model, self.seed)


def read_run_images(place: Path, most: int | None = None) -> RunImages:
    """Reads what ``makers.write_images`` wrote, or the first ``most`` images of it.

    Raises UserError when it is damaged.
    """
    content = read_json(place / IMAGES_RECORD)
    try:
        record: _Record = checks_of(_Record).validate_python(content)
    except ValidationError as error:
        raise UserError(
            f"{place / IMAGES_RECORD}: {located(error)}, or generate the images again"
        ) from error
    for image in record.images:
        if Path(image.file).name != image.file:
            raise UserError(
                f"{place / IMAGES_RECORD} names {image.file!r}, which is not a file beside it; "
                "generate the images again"
            )
    files = [place / image.file for image in record.images[:most]]
    arrays = [torch.from_numpy(read_image(file)) for file in files]
    for file, array in zip(files, arrays, strict=True):
        if array.shape != arrays[0].shape:
            raise UserError(f"{file} and {files[0].name} differ in size; generate the images again")
    sides = [
        Path(os.path.normpath(place / value)) if value else None
        for value in (record.clean, record.training, record.embedding)
    ]
    return RunImages(
        record.run,
        record.class_word,
        learned_word(content),
        torch.stack(arrays).permute(0, 3, 1, 2).contiguous() if arrays else torch.empty(0),
        [image.prompt for image in record.images[:most]],
        place,
        *sides,
    )


def image_folders(folder: Path) -> list[Path]:
    """The image folders below a folder that has no index, in order; hidden ones are left out.

    Raises UserError when two of them are of one run: their numbers would count twice.
    """
    places = sorted(path.parent.relative_to(folder) for path in folder.rglob(IMAGES_RECORD))
    folders = [folder / p for p in places if not any(part.startswith(".") for part in p.parts)]
    runs: dict[Run, Path] = {}
    for place in folders:
        run = read_run_images(place, most=0).run
        if (other := runs.setdefault(run, place)) != place:
            raise UserError(
                f"{folder} holds the run {run.label} twice, in {other} and {place}; give a folder "
                "that holds one of them"
            )
    return folders
