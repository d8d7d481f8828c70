"""A session: one folder of the user's, with pictures, masks and the audit of them."""

import io
import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from safezone.audit.cases import PROTECTED, UNSEEN
from safezone.concepts import image_files
from safezone.concepts.concept import square_mask
from safezone.concepts.datasets import export_concept
from safezone.concepts.folder import is_image, mask_folder
from safezone.concepts.masks import SURE, cut_out
from safezone.errors import UserError
from safezone.files import whole_file, whole_folder
from safezone.images import read_image, read_mask, write_png
from safezone.reading import read_json
from safezone.serve.uploads import ABOUT, ORIGINALS, write_about

SHOWN_SIDE: Final = 768
"""Longest side, in pixels, of a picture on the page and of the mask that is painted over it."""
_SIDE: Final = 64
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,49}")


@dataclass(frozen=True)
class Session:
    """``protects``: there are originals only, which are protected before they are audited."""

    folder: Path
    title: str
    protects: bool

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def audit_folder(self) -> Path:
        return self.folder / "audit"

    @property
    def protected(self) -> Path:
        return self.folder / PROTECTED

    @property
    def originals(self) -> Path | None:
        folder = self.folder / ORIGINALS
        return folder if folder.is_dir() else None

    @property
    def masked(self) -> Path:
        """The folder whose pictures the masks belong to."""
        return self.originals or self.protected

    def pictures(self, folder: Path) -> tuple[Path, ...]:
        """The files of one of the two folders, in order; none where it is not there yet."""
        with warnings.catch_warnings(action="ignore"):
            return image_files(folder) if folder.is_dir() else ()

    def picture(self, folder: Path, index: int) -> bytes:
        """A picture as the page shows it: an upright PNG of at most ``SHOWN_SIDE`` pixels."""
        return _png(_shown(read_image(self._file(folder, index))))

    def mask_path(self, index: int) -> Path:
        """Where the mask of a picture is, whatever its ending, or will be."""
        path = mask_folder(self.masked) / f"{self._file(self.masked, index).stem}.png"
        beside = path.parent.iterdir() if path.parent.is_dir() else ()
        return min((p for p in beside if p.stem == path.stem and is_image(p)), default=path)

    def mask(self, index: int) -> bytes:
        """The mask of a picture as a PNG of the shown picture's size; black where none is yet."""
        path = self.mask_path(index)
        if path.is_file():
            return _png(_shown(read_mask(path)))
        shown = _shown(read_image(self._file(self.masked, index)))
        return _png(np.zeros(shown.shape[:2], dtype=np.bool_))

    def paint(self, index: int, png: bytes) -> None:
        """Keeps a mask that was painted over the shown picture, at the size of the file.

        Raises UserError, and changes nothing, for what is no image, has another size or is empty.
        """
        path, file = self.mask_path(index), self._file(self.masked, index)
        image = read_image(file)
        shown = _shown(image).shape[:2]
        png_path = path if path.suffix.lower() == ".png" else path.with_suffix(".png")
        with whole_file(png_path) as temporary:
            temporary.write_bytes(png)
            try:
                mask = read_mask(temporary, max_pixels=SHOWN_SIDE**2)
            except UserError as error:
                raise UserError(str(error).replace(str(temporary), "the painted mask")) from error
            if mask.shape != shown:
                raise UserError(
                    f"the painted mask has {mask.shape[1]} x {mask.shape[0]} pixels and its "
                    f"picture is shown in {shown[1]} x {shown[0]}; paint it again"
                )
            if not mask.any():
                raise UserError(
                    f"the mask of {file.name} is empty; paint the object, or cancel, and take the "
                    "mask away with the button below the picture"
                )
            height, width = image.shape[:2]
            whole = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
            with warnings.catch_warnings(action="ignore"):
                square_mask(np.asarray(whole), Path(f"the mask of {file.name}"), image, _SIDE)
            whole.save(temporary, format="PNG")
        if path != png_path:
            path.unlink()
        self.forget_protection()

    def remove_mask(self, index: int) -> None:
        """Takes the mask of a picture away; nothing where it has none."""
        path = self.mask_path(index)
        if path.is_file():
            path.unlink()
            self.forget_protection()

    def require_masks_of_all_or_none(self) -> None:
        """Raises UserError, naming the pictures, where some have a mask and others have none."""
        files = self.pictures(self.masked)
        bare = [file.name for i, file in enumerate(files) if not self.mask_path(i).is_file()]
        if 0 < len(bare) < len(files):
            raise UserError(
                f"other pictures have a mask, but not {', '.join(bare)}; paint the object there "
                "too, or take the other masks away with the buttons below their pictures"
            )

    def find_objects(self) -> list[str]:
        """Draws missing masks with GrabCut; returns what to look at, a sentence for each."""
        told = []
        for index, file in enumerate(self.pictures(self.masked)):
            if self.mask_path(index).is_file():
                continue
            try:
                cutout = cut_out(read_image(file))
            except UserError:
                told.append(f"{file.name}: no clear object was found; paint it with the brush")
                continue
            write_png(self.mask_path(index), cutout.mask, UNSEEN)
            self.forget_protection()
            if cutout.sureness < SURE:
                told.append(f"{file.name}: not sure; look at it, and paint what is wrong")
        return told

    def remove(self) -> None:
        """Removes the pictures, and last what lists them: stopped between, it can be done again."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != ABOUT:
                path.unlink()
        shutil.rmtree(self.folder)

    def forget_protection(self) -> None:
        """Removes the protection that was made here, which carries the masks of its originals."""
        if self.protects:
            shutil.rmtree(self.protected, ignore_errors=True)

    def _file(self, folder: Path, index: int) -> Path:
        files = self.pictures(folder)
        if not 0 <= index < len(files):
            raise UserError(f"there is no picture {index}; load the page again")
        return files[index]


def _shown(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    image, side = Image.fromarray(pixels), max(pixels.shape[:2])
    if side <= SHOWN_SIDE:
        return pixels
    width, height = (max(1, round(length * SHOWN_SIDE / side)) for length in image.size)
    way = Image.Resampling.NEAREST if pixels.dtype == np.bool_ else Image.Resampling.LANCZOS
    return np.asarray(image.resize((width, height), way))


def _png(pixels: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def new_folder(root: Path, title: str) -> Path:
    """A folder of a name that is free, made of the title; it is not made yet."""
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40] or "pictures"
    names = (slug if count == 1 else f"{slug}-{count}" for count in range(1, 1_000_000))
    return root / next(name for name in names if not (root / name).exists())


def new_example(root: Path, concept: str) -> Session:
    """A session on a built-in concept, with its exact masks; UserError for another name."""
    folder = new_folder(root, concept)
    with whole_folder(folder) as temporary:
        export_concept(concept, temporary / ORIGINALS)
        write_about(temporary, f"{concept} (example)")
    return open_session(root, folder.name)


def open_session(root: Path, name: str) -> Session:
    """The session of that name; UserError where there is none."""
    folder = root / name
    if not _NAME.fullmatch(name) or not (folder / ABOUT).is_file():
        raise UserError("there are no such pictures; go back to the first page")
    about = read_json(folder / ABOUT)
    return Session(folder, str(about.get("title", name)), bool(about.get("protects")))


def sessions(root: Path) -> list[Session]:
    """All of a folder, the newest first."""
    found = [path.parent for path in root.glob(f"*/{ABOUT}") if _NAME.fullmatch(path.parent.name)]
    found.sort(key=lambda folder: (folder / ABOUT).stat().st_mtime, reverse=True)
    return [open_session(root, folder.name) for folder in found]
