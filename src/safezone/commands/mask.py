"""``safezone mask``."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import tyro

from safezone.commands.console import Answer, parse
from safezone.errors import UserError

DESCRIPTION: Final = """\
Checks the masks of a folder's images, or makes them where there are none.

Masks lie in FOLDER/masks, one PNG for each image with the image's name and size, white on the
object. Defenses with a loss mask (lm, szt) need them. GrabCut finds things in the middle that
differ from what is behind them: look at the previews before you trust it.

Example:
    safezone mask my-toy --preview

Next:
    safezone personalize my-toy --defense szt --out runs/my-toy
"""

PREVIEW_FOLDER: Final = "mask-previews"
PREVIEW_SIDE: Final = 512


@dataclass(frozen=True)
class Options:
    """What ``safezone mask`` is told."""

    folder: tyro.conf.Positional[Path]
    """Folder with the images of one object."""
    source: Literal["given", "grabcut"] | None = None
    """given: only check masks; grabcut: make them; by default check them if there are any."""
    overwrite: bool = False
    """Replace masks that are there."""
    preview: bool = False
    """Write FOLDER/mask-previews: the outline, and the latent cells that the mask keeps."""
    size: int = 128
    """Image size of the previews' latent cells: 128 for mini, 512 for Stable Diffusion 1.5."""
    json: bool = False
    """Print one JSON object on standard output."""


def read(arguments: Sequence[str]) -> Options:
    return parse(Options, arguments, name="mask", description=DESCRIPTION)


def run(options: Options) -> Answer:
    """Makes all masks or none; tells the share of each image that its object covers."""
    from safezone.concepts import MASK_FOLDER, image_files, load_concept
    from safezone.experiments.workspace import whole_folder
    from safezone.images import read_image, read_mask, write_png
    from safezone.masks import grabcut

    if options.size < 64 or options.size % 64:
        raise UserError(f"--size is {options.size}; give a multiple of 64, such as 128 or 512")
    files, place = image_files(options.folder), options.folder / MASK_FOLDER
    given = place.is_dir() and any(place.iterdir())
    make = options.source == "grabcut" or (options.source is None and not given)
    if options.source == "given" and not given:
        raise UserError(
            f"{options.folder} has no masks; leave --source out to make them with GrabCut"
        )
    if make and given and not options.overwrite:
        raise UserError(f"{place} is there already; give --overwrite to replace its masks")
    if make:
        made: dict[str, Any] = {}
        for path in files:
            try:
                made[path.stem] = grabcut(read_image(path))
            except UserError as error:
                raise UserError(f"{path}: {error}") from error
        with whole_folder(place) as temporary:
            for stem, mask in made.items():
                write_png(temporary / f"{stem}.png", mask)
            shutil.rmtree(place, ignore_errors=True)
    concept = load_concept(options.folder, options.size, require_masks=True)
    shares = {path.stem: float(read_mask(place / f"{path.stem}.png").mean()) for path in files}
    if options.preview:
        _previews(options, concept)
    lines = [f"{'made with GrabCut' if make else 'checked'}: {len(files)} masks in {place}"]
    lines += [f"  {stem}: {share:.0%} of the image" for stem, share in shares.items()]
    if options.preview:
        lines.append(f"previews in {options.folder / PREVIEW_FOLDER}")
    data = {"masks": str(place), "source": "grabcut" if make else "given", "shares": shares}
    return Answer(data, "\n".join(lines))


def _previews(options: Options, concept: Any) -> None:
    from safezone.experiments.workspace import whole_folder
    from safezone.images import write_png
    from safezone.masks import draw_preview

    place = options.folder / PREVIEW_FOLDER
    zoom = max(1, PREVIEW_SIDE // options.size)
    with whole_folder(place) as temporary:
        for stem, image, mask in zip(
            concept.image_names, concept.images, concept.masks, strict=True
        ):
            picture = draw_preview(image.permute(1, 2, 0).numpy(), mask.numpy(), factor=8)
            write_png(temporary / f"{stem}.png", picture.repeat(zoom, 0).repeat(zoom, 1))
        shutil.rmtree(place, ignore_errors=True)
