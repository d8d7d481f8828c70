"""``safezone mask``: checks masks, makes them, or compares what makes them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import numpy as np
import tyro

from safezone.commands.command import Answer, Command, Folder
from safezone.errors import UserError
from safezone.fields import plural

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from safezone.concepts.masks import Cutout, Hint

MAKERS: Final = {"grabcut": "GrabCut", "sam": "SAM"}
PREVIEW_SIDE: Final = 512


@dataclass(frozen=True, kw_only=True)
class MaskCommand(Command):
    """Checks the masks of a folder's images, or makes them where there are none.

    Masks lie in FOLDER/masks, one PNG for each image with the image's name and size, white on the
    object. Defenses with a loss mask (lm, szt) need them. GrabCut finds things in the middle that
    differ from what is behind them, and says how sure it is: look at the previews, and give it a
    box or a point where it is wrong. SAM and SAM 2 work where you have their weights. --compare
    makes masks beside the given ones, writes nothing and tells their intersection over union; of a
    folder of folders it tells that of each and their mean.

    Examples:
        safezone mask my-toy --preview
        safezone mask my-toy --point 210 180 --overwrite --preview
        safezone mask my-toy --source sam --sam facebook/sam-vit-base
        safezone concepts export concepts && safezone mask concepts --compare

    Next:
        safezone personalize my-toy --defense szt --out runs/my-toy
    """

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
    box: tuple[int, int, int, int] | None = None
    """Where the object is: left, top, right, bottom, in pixels of the upright image."""
    point: tuple[int, int] | None = None
    """A pixel on the object: across, down."""
    hints: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """Boxes and points by image, as {"00.jpg": {"box": [0, 0, 90, 90], "point": [40, 50]}}; masks
    of other images stay."""

    def run(self) -> Answer:
        from safezone.concepts import MASK_FOLDER, image_files, load_concept, mask_files
        from safezone.concepts.concept import square_mask
        from safezone.images import read_image, read_mask

        if self.size < 64 or self.size % 64:
            raise UserError(f"--size is {self.size}; give a multiple of 64, such as 128 or 512")
        if (self.source == "sam") != (self.sam is not None):
            raise UserError("--source sam and --sam FOLDER need each other; give both or neither")
        _require_use(self)
        if self.compare:
            return _compare(self)
        folder = self.folder
        files = image_files(folder)
        hints = _hints(self, files)
        before = mask_files(folder, ())
        change = not before or bool(hints) or self.overwrite
        make = self.source in MAKERS or (self.source is None and change)
        if self.source == "given" and not before:
            raise UserError(f"{folder} has no masks; leave --source out to make them with GrabCut")
        if make and before and not self.overwrite:
            raise UserError(f"{folder} has masks already; give --overwrite to replace them")
        if not (make and before):  # masks that will be replaced may be wrong
            load_concept(folder, self.size)  # tells what else is wrong before anything is written
        wanted = [path for path in files if self.hints is None or path.name in hints]
        for path in files:
            if make and path not in wanted and path.stem not in before:
                raise UserError(
                    f"{path} has no mask and {self.hints} does not name it; add it there"
                )
        cut_out = _maker(self)
        cutouts = {p.stem: cut_out(p, hints.get(p.name)) for p in wanted if make}
        masks, squares = {}, {}
        for path in files:
            made = cutouts.get(path.stem)
            source = before[path.stem] if made is None else path
            masks[path.stem] = read_mask(source) if made is None else made.mask
            squares[path] = square_mask(masks[path.stem], source, read_image(path), self.size)
        place = folder / MASK_FOLDER if make else next(iter(before.values())).parent
        if make:
            _write_masks(place, masks)
        if self.preview:
            _previews(self, squares)
        return _answer(self, place, make, masks, cutouts)


def _require_use(options: MaskCommand) -> None:
    """Raises UserError for options that would do nothing."""
    what = "--compare" if options.compare else "--source given"
    told = [
        f"--{name}" for name in ("overwrite", "box", "point", "hints") if getattr(options, name)
    ]
    if options.compare:
        told += ["--preview"] * options.preview + ["--source given"] * (options.source == "given")
    if told and (options.compare or options.source == "given"):
        raise UserError(f"{what} changes no masks; leave {told[0]} out")


def _answer(
    options: MaskCommand,
    place: Path,
    make: bool,
    masks: "Mapping[str, NDArray[np.bool_]]",
    cutouts: "Mapping[str, Cutout]",
) -> Answer:
    from safezone.concepts.folder import PREVIEW_FOLDER
    from safezone.concepts.masks import SURE

    source = (options.source or "grabcut") if make else "given"
    shares = {stem: float(mask.mean()) for stem, mask in masks.items()}
    lines = [
        f"{f'made with {MAKERS[source]}' if make else 'checked'}: {len(masks)} masks in {place}"
    ]
    for stem, share in shares.items():
        line = f"  {stem}: {share:.0%} of the image"
        if stem in cutouts:
            sureness = cutouts[stem].sureness
            line += f", sureness {sureness:.2f}{'' if sureness >= SURE else ': look at it'}"
        lines.append(line)
    unsure = [stem for stem, cutout in cutouts.items() if cutout.sureness < SURE]
    if unsure:
        look = "at the previews" if options.preview else "at them with --preview"
        lines.append(
            f"{len(unsure)} of {len(cutouts)} are not sure: look {look}, and where they are wrong "
            "give --box, --point or --hints FILE.json with --overwrite, or use --source sam"
        )
    if options.preview:
        lines.append(f"previews in {options.folder / PREVIEW_FOLDER}")
    data = {
        "masks": str(place),
        "source": source,
        "shares": shares,
        "sureness": {stem: cutout.sureness for stem, cutout in cutouts.items()},
        "unsure": unsure,
    }
    return Answer(data, "\n".join(lines))


def _write_masks(place: Path, masks: "Mapping[str, NDArray[np.bool_]]") -> None:
    """All of them at once; other files than their masks are not thrown away."""
    from safezone.concepts.folder import MASK_LABEL, is_image

    for path in place.iterdir() if place.is_dir() else ():
        ours = is_image(path) and path.stem.removesuffix(MASK_LABEL) in masks
        if not ours and not path.name.startswith("."):
            raise UserError(
                f"{path} is no mask of these images; move it out of {place}, which will be replaced"
            )
    _write_folder(place, masks)


def _write_folder(place: Path, pictures: "Mapping[str, NDArray[Any]]") -> None:
    from safezone.files import whole_folder
    from safezone.images import write_png

    with whole_folder(place, replace=True) as temporary:
        for stem, picture in pictures.items():
            write_png(temporary / f"{stem}.png", picture)


def _hints(options: MaskCommand, files: Sequence[Path]) -> "dict[str, Hint]":
    """Box and point by the image's file name, from --hints, --box and --point."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    from safezone.concepts.masks import Hint
    from safezone.fields import located
    from safezone.reading import read_json

    every = Hint(options.box, options.point)
    if options.hints is None:
        return {} if every == Hint() else {path.name: every for path in files}
    if every != Hint():
        raise UserError("--hints comes without --box and --point; write them into its file")
    try:
        kind = TypeAdapter(dict[str, Hint], config=ConfigDict(extra="forbid"))
        hints = kind.validate_python(read_json(options.hints))
    except ValidationError as error:
        raise UserError(f"{options.hints}: {located(error)}") from error
    if not hints:
        raise UserError(f"{options.hints} names no image; give it a box or a point of one")
    names = {path.stem: path.name for path in files} | {path.name: path.name for path in files}
    for name in hints:
        if name not in names:
            raise UserError(
                f"{options.hints} names {name}, which is no image of {options.folder}; correct it"
            )
    return {names[name]: hint for name, hint in hints.items()}


def _maker(options: MaskCommand) -> "Callable[[Path, Hint | None], Cutout]":
    """What makes one image's mask; UserError, naming the file, where it cannot."""
    from safezone.concepts.masks import Cutout, Hint, cut_out, one_object
    from safezone.images import read_image
    from safezone.models.segment import load_segmenter

    segmenter = None if options.sam is None else load_segmenter(options.sam)

    def make(path: Path, hint: Hint | None) -> Cutout:
        image, hint = read_image(path), hint or Hint()
        try:
            if segmenter is None:
                return cut_out(image, hint)
            hint.require_inside(*image.shape[:2])
            mask, sureness = segmenter(image, hint.point, hint.box)
            return Cutout(one_object(mask, "SAM", hint), sureness)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    return make


def _compare(options: MaskCommand) -> Answer:
    """Intersection over union with the given masks, of a folder or of each folder in it."""
    from safezone.concepts import folder_name, image_files, mask_files
    from safezone.concepts.folder import has_images, inner_folders
    from safezone.concepts.masks import iou
    from safezone.images import read_mask

    inner = [] if has_images(options.folder) else inner_folders(options.folder)
    make = _maker(options)
    values: dict[str, list[float]] = {}
    refused = []
    for folder in inner or [options.folder]:
        files = image_files(folder)
        masks = mask_files(folder, files)
        if not masks:
            raise UserError(f"{folder} has no masks to compare with; put them into its masks/")
        values[folder_name(folder)] = []
        for path in files:
            there = read_mask(masks[path.stem])
            try:
                mask = make(path, None).mask
            except UserError as error:
                refused.append(str(error))
                mask = np.zeros_like(there)
            if mask.shape != there.shape:
                raise UserError(f"the mask of {path} has another size than it; make it anew")
            values[folder_name(folder)].append(iou(mask, there))
    means = {name: sum(each) / len(each) for name, each in values.items()}
    mean = sum(means.values()) / len(means)
    count = sum(map(len, values.values()))
    name = MAKERS[options.source or "grabcut"]
    lines = [f"{name} beside the given masks: mean IoU {mean:.3f} ({plural(count, 'image')})"]
    lines += [
        f"  {name}: {mean:.3f} ({min(values[name]):.3f} to {max(values[name]):.3f})"
        for name, mean in means.items()
    ]
    lines += [f"  counted as 0: {reason}" for reason in refused]
    return Answer({"mean_iou": mean, "folders": values, "refused": refused}, "\n".join(lines))


def _previews(options: MaskCommand, masks: "Mapping[Path, NDArray[np.bool_]]") -> None:
    from safezone.concepts.folder import PREVIEW_FOLDER
    from safezone.concepts.masks import draw_preview
    from safezone.images import read_image, to_square

    zoom, pictures = max(1, PREVIEW_SIDE // options.size), {}
    for path, mask in masks.items():
        image = to_square(read_image(path), options.size)
        picture = draw_preview(image, mask, factor=8)
        pictures[path.stem] = picture.repeat(zoom, 0).repeat(zoom, 1)
    _write_folder(options.folder / PREVIEW_FOLDER, pictures)
