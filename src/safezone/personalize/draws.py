"""Every random number of a training step: from streams that are counted, not advanced."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from safezone.arrays import stream
from safezone.errors import UserError
from safezone.images import to_float


@dataclass(frozen=True, eq=False)
class StepDraws:
    """One step's random numbers of all runs, run after run, image after image.

    ``image``, ``flip``, ``timestep``, ``template``: float64 [runs, batch], uniform in [0, 1).
    ``posterior_noise``, ``noise``: float32 [runs x batch, channels, h, w], standard normal.
    """

    image: Float[Tensor, "runs batch"]
    flip: Float[Tensor, "runs batch"]
    timestep: Float[Tensor, "runs batch"]
    template: Float[Tensor, "runs batch"]
    posterior_noise: Float[Tensor, "rows ..."]
    noise: Float[Tensor, "rows ..."]


def draw(
    names: Sequence[tuple[int, str]], step: int, batch_size: int, shape: Sequence[int]
) -> StepDraws:
    """The draws of one step for runs with these seeds and concept names.

    They depend on the seed, the concept's name and the step alone: not on a run's neighbours, so
    that a run in company equals the run alone; not on the steps before, so that a resumed
    training needs no generator's state; and not on the poison, the defense or the method, so
    that these are compared under the same noise. ``shape``: [channels, h, w] of one latent.
    """
    distinct = list(dict.fromkeys(names))
    uniforms, normals = [], []
    for seed, concept in distinct:
        generator = stream(seed, concept, "train", step)
        uniforms.append(
            torch.rand(4, batch_size, dtype=torch.float64, generator=generator)
        )  # [4, batch]
        normals.append(torch.randn(2, batch_size, *shape, generator=generator))
    place = {name: i for i, name in enumerate(distinct)}
    chosen = torch.tensor([place[name] for name in names])
    image, flip, timestep, template = torch.stack(uniforms, dim=1)[:, chosen]
    posterior_noise, noise = torch.stack(normals, dim=1)[:, chosen].flatten(1, 2)
    return StepDraws(image, flip, timestep, template, posterior_noise, noise)


def pick(uniforms: Float[Tensor, "runs batch"], counts: Tensor | int) -> Int[Tensor, "runs batch"]:
    """int64 in [0, counts), each alike; ``counts`` broadcasts against the uniforms."""
    counts = torch.as_tensor(counts)
    return torch.minimum((uniforms * counts).long(), counts - 1)


CROP_PREFIXES = ("", "a far away ", "very small ", "zoomed in ", "close up ")
"""What comes before the prompt: nothing, one of two for a small image, one of two for a part."""

SHRINK = 0.66
"""Probability of a side in [S/3, S]; else it is in [1.2 S, 1.4 S), for an image of side S."""


@dataclass(frozen=True)
class CropRescale:
    """One image's side after rescaling, in pixels, and where its corner lies or is cut.

    ``side`` at most the image's: pasted with its corner at (top, left). Larger: the part from
    (top, left) on. ``prefix``: an index of ``CROP_PREFIXES``.
    """

    side: int
    top: int
    left: int
    prefix: int

    @staticmethod
    def of(uniforms: Float[Tensor, " 5"], size: int) -> "CropRescale":
        """From five uniform numbers in [0, 1): which kind, how large, where (2), which prefix."""
        kind, scale, down, right, words = uniforms.tolist()
        low, high = (size // 3, size + 1) if kind < SHRINK else (int(1.2 * size), int(1.4 * size))
        side = low + int(scale * (high - low))
        room = abs(side - size) + 1
        prefix = 0
        if side < 0.6 * size:
            prefix = 1 + (words >= 0.5)
        elif side > size:
            prefix = 3 + (words >= 0.5)
        return CropRescale(side, int(down * room), int(right * room), int(prefix))

    def image(self, image: UInt8[Tensor, "3 s s"]) -> Float[Tensor, "3 s s"]:
        """In [0, 1]; what is not covered is 0 in the encoder's [-1, 1], a middle grey."""
        size = image.shape[-1]
        scaled = interpolate(
            to_float(image[None]), (self.side, self.side), mode="bilinear", antialias=True
        )[0]
        y, x = slice(self.top, self.top + size), slice(self.left, self.left + size)
        if self.side > size:
            return scaled[:, y, x]
        whole = torch.full(image.shape, 0.5)
        whole[:, self.top : self.top + self.side, self.left : self.left + self.side] = scaled
        return whole

    def valid(self, size: int, factor: int) -> Float[Tensor, "1 h w"]:
        """1 in the latent cells that the image covers, less one on each side where it is pasted."""
        cells = size // factor
        if self.side > size:
            return torch.ones(1, cells, cells)
        mask = torch.zeros(1, cells, cells)
        rows, columns = (
            slice(start // factor + 1, (start + self.side) // factor - 1)
            for start in (self.top, self.left)
        )
        mask[:, rows, columns] = 1
        return mask

    def weights(
        self, weights: Float[Tensor, "1 h w"], size: int, factor: int
    ) -> Float[Tensor, "1 h w"]:
        """Weights of the whole image's cells where those cells lie now; 0 beyond the image."""
        centres = torch.arange(weights.shape[-1]) * factor + factor / 2
        indices, inside = [], []
        for start in (self.top, self.left):
            offset = start if self.side > size else -start
            source = (centres + offset) * size / self.side
            inside.append((source >= 0) & (source < size))
            indices.append((source / factor).long().clamp(0, weights.shape[-1] - 1))
        moved = weights[:, indices[0][:, None], indices[1][None, :]]
        return moved * (inside[0][:, None] & inside[1][None, :])


def crops_of(
    names: Sequence[tuple[int, str]], step: int, batch_size: int, size: int
) -> list[CropRescale]:
    """The crops of one step, run after run, image after image.

    From a stream of their own, so that a training with the augmentation draws the same images,
    timesteps and noises as one without.
    """
    return [
        CropRescale.of(uniforms, size)
        for seed, concept in names
        for uniforms in torch.rand(
            batch_size, 5, dtype=torch.float64, generator=stream(seed, concept, "crop", step)
        )
    ]


def check_size(size: int, factor: int) -> None:
    """Raises UserError for images so small that the smallest crop has no valid cell."""
    if size // 3 < 4 * factor:
        raise UserError(
            f"The images are {size} pixels wide, too few for crop_rescale; load them at "
            f"{12 * factor} or more, or turn crop_rescale off."
        )
