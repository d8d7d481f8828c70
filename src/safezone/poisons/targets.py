"""What targeted poisons aim at: a pattern of our own, zero latents, grey, or any image file."""

from pathlib import Path
from typing import Literal, TypeAlias

import torch

from safezone.arrays import Images
from safezone.errors import UserError
from safezone.images import read_image, to_float, to_square
from safezone.models.base import Model, Posterior

Target: TypeAlias = Path | Literal["pattern", "zero", "grey"]
"""``pattern``: ``high_contrast_target``; ``grey``: the middle grey image; ``zero``: latents that
are zero everywhere (as an image: grey); a path: that image file."""

NAMED_TARGETS = ("pattern", "zero", "grey")


def high_contrast_target(size: int) -> Images:
    """A busy pattern of saturated stripes, rings and checks, float [1, 3, size, size] of 0 and 1.

    Deterministic and drawn in units of the side, so that it looks the same at every size: 8 x 8
    tiles whose stripes turn by an eighth of a turn from tile to tile, two complementary colours
    each, inverted in rings around the centre.
    """
    grid = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    column, row = (x * 8).long(), (y * 8).long()
    turn = (3 * column + 5 * row) % 8 * (torch.pi / 8)
    stripes = torch.sin(2 * torch.pi * 28 * (x * turn.cos() + y * turn.sin()))
    checks = ((x * 16).long() + (y * 16).long()) % 2
    rings = (((x - 0.5).square() + (y - 0.5).square()).sqrt() * 12).long() % 2
    phase = (stripes > 0).long() + rings + checks * ((column + row) % 3 == 0)
    colour = (column + 3 * row) % 4  # 0 is black and white; 1..3 set one channel against the rest
    channels = [(phase + (colour == channel + 1).long()) % 2 for channel in range(3)]
    return torch.stack(channels).to(torch.float32)[None]


def target_image(target: Target, height: int, width: int) -> Images:
    """The target at the clean images' size, its middle where they are not square.

    Float [1, 3, height, width] in [0, 1]. Raises UserError for a file that is no image.
    """
    side = max(height, width)
    if target == "pattern":
        square = high_contrast_target(side)
    elif isinstance(target, Path):
        array = to_square(read_image(target), side)  # [side, side, 3]
        square = to_float(torch.from_numpy(array.copy()).permute(2, 0, 1)[None])
    else:
        square = torch.full((1, 3, side, side), 0.5)
    top, left = (side - height) // 2, (side - width) // 2
    return square[..., top : top + height, left : left + width]


def target_posterior(model: Model, target: Target, image: Images) -> Posterior:
    """The latents of a target image, [1, channels, height / f, width / f]; zeros for "zero"."""
    posterior = model.encode(image)
    if target != "zero":
        return posterior
    return Posterior(torch.zeros_like(posterior.mean), torch.zeros_like(posterior.std))


def read_target(text: str) -> Target:
    """What ``--target`` says: one of the names, else the image file of that path.

    Raises UserError when there is no such file.
    """
    match text:
        case "pattern" | "zero" | "grey":
            return text
        case _ if Path(text).is_file():
            return Path(text)
        case _:
            raise UserError(
                f"The target {text!r} is no file; give an image file or {', '.join(NAMED_TARGETS)}."
            )
