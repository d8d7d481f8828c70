"""Checks the masks of a folder's images, or makes them where there are none.

Masks lie in FOLDER/masks, one PNG for each image with the image's name and size, white on the
object. Defenses with a loss mask (lm, szt) need them. GrabCut finds things in the middle that
differ from what is behind them: look at the previews before you trust it. SAM and SAM 2 work
where you have their weights. --compare makes masks beside the given ones, writes nothing and tells
their intersection over union; of a folder of folders it tells that of each and their mean.

Examples:
    safezone mask my-toy --preview
    safezone mask my-toy --source sam --sam facebook/sam-vit-base
    safezone concepts export concepts && safezone mask concepts --compare

Next:
    safezone personalize my-toy --defense szt --out runs/my-toy
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np

from safezone.commands.console import Answer, Command, Common, Folder
from safezone.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Maker: TypeAlias = "Callable[[NDArray[np.uint8]], NDArray[np.bool_]]"

MAKERS: Final = {"grabcut": "GrabCut", "sam": "SAM"}
PREVIEW_FOLDER: Final = "mask-previews"
PREVIEW_SIDE: Final = 512


@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """The options."""

    folder: Folder
    """Folder with the images of one object."""
    source: Literal["given", "grabcut", "sam"] | None = None
    """given: only check masks; grabcut, sam: make them; by default check them if there are any."""
    sam: str | None = None
    """Folder or hub name of a SAM or SAM 2, for --source sam."""
    compare: bool = False
    """Only tell the intersection over union of made masks with the given ones."""
    overwrite: bool = False
    """Replace masks that are there."""
    preview: bool = False
    """Write FOLDER/mask-previews: the outline, and the latent cells that the mask keeps."""
    size: int = 128
    """Image size of the previews' latent cells: 128 for mini, 512 for Stable Diffusion 1.5."""


def run(options: Options) -> Answer:
    """Makes all masks or none; tells the share of each image that its object covers."""
    from safezone.concepts import MASK_FOLDER, image_files, load_concept
    from safezone.files import whole_folder
    from safezone.images import read_mask, write_png

    if options.size < 64 or options.size % 64:
        raise UserError(f"--size is {options.size}; give a multiple of 64, such as 128 or 512")
    if (options.source == "sam") != (options.sam is not None):
        raise UserError("--source sam and --sam FOLDER need each other; give both or neither")
    if options.compare:
        return _compare(options)
    files, place = image_files(options.folder), options.folder / MASK_FOLDER
    given = place.is_dir() and any(place.iterdir())
    make = options.source in MAKERS or (options.source is None and not given)
    if options.source == "given" and not given:
        raise UserError(
            f"{options.folder} has no masks; leave --source out to make them with GrabCut"
        )
    if make and given and not options.overwrite:
        raise UserError(f"{place} is there already; give --overwrite to replace its masks")
    source = (options.source or "grabcut") if make else "given"
    if make:
        made = _made(files, _maker(options))
        with whole_folder(place) as temporary:
            for stem, mask in made.items():
                write_png(temporary / f"{stem}.png", mask)
            shutil.rmtree(place, ignore_errors=True)
    concept = load_concept(options.folder, options.size, require_masks=True)
    shares = {path.stem: float(read_mask(place / f"{path.stem}.png").mean()) for path in files}
    if options.preview:
        _previews(options, concept)
    how = f"made with {MAKERS[source]}" if make else "checked"
    lines = [f"{how}: {len(files)} masks in {place}"]
    lines += [f"  {stem}: {share:.0%} of the image" for stem, share in shares.items()]
    if options.preview:
        lines.append(f"previews in {options.folder / PREVIEW_FOLDER}")
    data = {"masks": str(place), "source": source, "shares": shares}
    return Answer(data, "\n".join(lines))


COMMAND = Command(__doc__, Options, run)


def _maker(options: Options) -> "Maker":
    """What makes one image's mask."""
    from safezone.concepts.masks import grabcut, one_object

    if options.sam is None:
        return grabcut
    from safezone.models.segment import load_segmenter

    segmenter = load_segmenter(options.sam)
    return lambda image: one_object(segmenter(image), "SAM")


def _made(files: Sequence[Path], maker: "Maker") -> "dict[str, NDArray[np.bool_]]":
    """Each image's mask by its stem; UserError, naming the file, when one cannot be made."""
    from safezone.images import read_image

    made = {}
    for path in files:
        try:
            made[path.stem] = maker(read_image(path))
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    return made


def _compare(options: Options) -> Answer:
    """Intersection over union with the given masks, of a folder or of each folder in it."""
    from safezone.concepts import MASK_FOLDER, image_files
    from safezone.concepts.masks import iou
    from safezone.images import read_image, read_mask

    inner = [path.parent for path in sorted(options.folder.glob(f"*/{MASK_FOLDER}"))]
    folders = inner or [options.folder]
    maker, maker_name = _maker(options), MAKERS[options.source or "grabcut"]
    values: dict[str, list[float]] = {}
    refused = []
    for folder in folders:
        if not (folder / MASK_FOLDER).is_dir():
            raise UserError(f"{folder} has no masks to compare with; put them into its masks/")
        found = values.setdefault(folder.name, [])
        for path in image_files(folder):
            given = read_mask(folder / MASK_FOLDER / f"{path.stem}.png")
            try:
                made = maker(read_image(path))
            except UserError as error:
                refused.append(f"{path}: {error}")
                made = np.zeros_like(given)
            if made.shape != given.shape:
                raise UserError(f"the mask of {path} has another size than it; make it anew")
            found.append(iou(made, given))
    means = {name: sum(found) / len(found) for name, found in values.items()}
    mean = sum(means.values()) / len(means)
    count = sum(map(len, values.values()))
    lines = [f"{maker_name} beside the given masks: mean IoU {mean:.3f} ({count} images)"]
    lines += [
        f"  {name}: {mean:.3f} ({min(values[name]):.3f} to {max(values[name]):.3f})"
        for name, mean in means.items()
    ]
    lines += [f"  counted as 0: {reason}" for reason in refused]
    return Answer({"mean_iou": mean, "folders": values, "refused": refused}, "\n".join(lines))


def _previews(options: Options, concept: Any) -> None:
    from safezone.concepts.masks import draw_preview
    from safezone.files import whole_folder
    from safezone.images import write_png

    place = options.folder / PREVIEW_FOLDER
    zoom = max(1, PREVIEW_SIDE // options.size)
    with whole_folder(place) as temporary:
        for stem, image, mask in zip(
            concept.image_names, concept.images, concept.masks, strict=True
        ):
            picture = draw_preview(image.permute(1, 2, 0).numpy(), mask.numpy(), factor=8)
            write_png(temporary / f"{stem}.png", picture.repeat(zoom, 0).repeat(zoom, 1))
        shutil.rmtree(place, ignore_errors=True)
