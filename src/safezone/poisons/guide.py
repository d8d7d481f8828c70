"""What an objective is, what it gets beside the images, and the random draws objectives share.

Targeted objectives aim at a pattern of our own, zero latents, grey, or any image file.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from safezone.arrays import Draws, Images, Latents, PerExample, Timesteps, rand, randn
from safezone.errors import UserError
from safezone.images import read_image, to_float, to_square
from safezone.models.base import Conditioning, Model, Posterior
from safezone.models.fingerprint import Fingerprinted


@dataclass(frozen=True, eq=False)
class Guide:
    """What stays fixed while some images take a few steps.

    ``conditioning``: of the poison's prompt, one row for all images or one for each.
    ``target``, ``target_posterior``: what targeted poisons aim at, float [1, 3, height, width] in
    [0, 1], and its latents. ``clean_of``, ``encode``: make ``clean`` and its latents, which few
    objectives read.
    ``timesteps``: the probability of every timestep, float64 [1 or batch, steps]. ``masks``: where
    the loss counts, float [batch, 1, height, width] of 0 and 1, or None for everywhere.
    """

    conditioning: Conditioning
    target: Float[Tensor, "1 3 height width"]
    target_posterior: Posterior
    clean_of: Callable[[], Images]
    encode: Callable[[Images], Posterior]
    timesteps: Float[Tensor, "rows steps"]
    masks: Float[Tensor, "batch 1 height width"] | None = None

    @cached_property
    def clean(self) -> Images:
        """The unpoisoned images, [batch], moved as a transform has moved the others."""
        with torch.no_grad():
            return self.clean_of()

    @cached_property
    def clean_posterior(self) -> Posterior:
        """The latents of ``clean``, without a gradient."""
        with torch.no_grad():
            return self.encode(self.clean)

    def conditioning_for(self, batch: int) -> Conditioning:
        """One row of conditioning for each of ``batch`` images."""

        def rows(tensor: Tensor) -> Tensor:
            return tensor.expand(batch, *tensor.shape[1:])

        added = self.conditioning.added
        return Conditioning(
            rows(self.conditioning.encoder_hidden_states),
            None if added is None else {key: rows(tensor) for key, tensor in added.items()},
        )

    def weigh(self, error: Latents, factor: int) -> Latents:
        """``error`` with zeros in the latent cells that the mask covers by less than half."""
        if self.masks is None:
            return error
        covered = functional.avg_pool2d(self.masks, factor) >= 0.5
        return error * covered.to(error)


ModelObjective: TypeAlias = Callable[[Model, Images, Draws, Guide], PerExample]
"""One value per image, differentiable in the images. Image i draws from ``generators[i]`` alone, so
that its value does not depend on the batch it is in."""


@dataclass(frozen=True, eq=False)
class BoundObjective:
    """An objective with the further networks that it works with.

    ``networks``: models, encoders or modules, whose weights enter the poison's key. ``value``: the
    objective itself, which uses them.
    """

    networks: tuple[Fingerprinted | nn.Module, ...]
    value: ModelObjective


class NetworkObjective(ABC):
    """Settings of an objective that needs further networks: a feature loss, an ensemble.

    A frozen dataclass; like a purifier it names its networks and opens them in ``bind``.
    """

    @abstractmethod
    def bind(self, model: Model) -> BoundObjective:
        """With its networks on ``model.device``, frozen; UserError for what cannot be opened."""


def bound(objective: ModelObjective | NetworkObjective, model: Model) -> BoundObjective:
    """The objective ready to be asked; one without further networks has none."""
    if isinstance(objective, NetworkObjective):
        return objective.bind(model)
    return BoundObjective((), objective)


def draw_noise(generators: Draws, like: Latents) -> Latents:
    """Standard normal noise of the latents' shape, a row from each generator."""
    return randn(generators, like.shape[1:]).to(like)


def draw_timesteps(generators: Draws, model: Model, guide: Guide) -> Timesteps:
    """One timestep an image, from the guide's probabilities, int64 [batch]."""
    cumulative = guide.timesteps.cumsum(dim=1)
    cumulative = (cumulative / cumulative[:, -1:]).expand(len(generators), -1).contiguous()
    levels = rand(generators).to(cumulative)[:, None]
    return torch.searchsorted(cumulative, levels, right=True)[:, 0].to(model.device)


def draw_latents(model: Model, images: Images, generators: Draws) -> Latents:
    """A posterior sample of every image, differentiable in the images."""
    posterior = model.encode(images)
    return posterior.sample(draw_noise(generators, posterior.mean))


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
