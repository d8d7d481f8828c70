"""Poisons: a row of the table is an objective, its direction, a budget and an optimiser."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from safezone.arrays import Images, PerExample, stream
from safezone.concepts import Concept
from safezone.errors import UserError
from safezone.images import read_image, to_float, to_square, to_uint8
from safezone.models.base import Model
from safezone.poisons.objectives import (
    Guide,
    ModelObjective,
    denoising_loss,
    encoder_distance,
    high_contrast_target,
)
from safezone.poisons.pgd import Budget, projected_gradient
from safezone.scores.metrics import psnr, ssim

__all__ = [
    "POISONS",
    "Budget",
    "Poison",
    "high_contrast_target",
    "imperceptibility",
    "poison",
    "poison_concept",
    "poison_images",
]


@dataclass(frozen=True)
class Poison:
    """An objective with its direction, a budget and the optimiser's settings.

    ``direction``: +1 ascends, -1 descends. ``eta``: the step's length in the budget's norm, pixels
    in [0, 1] (1/255 here is 2/255 in [-1, 1]). ``start``: "uniform" in the budget or "zero".
    ``prompt``: what the U-Net is told, where the objective asks it. ``target``: an image file for
    targeted objectives; None is ``high_contrast_target``. Raises UserError for settings that can
    change nothing.
    """

    name: str
    objective: ModelObjective
    direction: Literal[1, -1]
    budget: Budget = field(default_factory=Budget)
    eta: float = 1 / 255
    steps: int = 100
    start: Literal["uniform", "zero"] = "uniform"
    prompt: str = "a photo"
    target: Path | None = None

    def __post_init__(self) -> None:
        def refuse(what: str) -> UserError:
            return UserError(f"Poison {self.name!r}: {what}.")

        if self.direction not in (1, -1):
            raise refuse(f"direction is {self.direction}; choose 1 (ascend) or -1 (descend)")
        if not (math.isfinite(self.eta) and self.eta > 0):
            raise refuse(f"the step eta is {self.eta}; give a positive number like 1/255")
        if self.steps < 1:
            raise refuse(f"steps is {self.steps}; give at least 1")
        if self.start not in ("uniform", "zero"):
            raise refuse(f"start is {self.start!r}; choose 'uniform' or 'zero'")


POISONS: Mapping[str, Poison] = MappingProxyType(
    {
        "adm+": Poison("adm+", denoising_loss, +1),
        "adm-": Poison("adm-", denoising_loss, -1),
        "ea": Poison("ea", encoder_distance, -1, prompt=""),
    }
)


def poison(name: str) -> Poison:
    """The table's poison of that name, in any case; raises UserError listing near names."""
    key = name.strip().lower()
    if key in POISONS:
        return POISONS[key]
    near = difflib.get_close_matches(key, POISONS, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(POISONS)}."
    raise UserError(f"There is no poison {name!r}; {hint}")


def _target(path: Path | None, height: int, width: int) -> Images:
    """The target image at the clean images' size, its middle where they are not square."""
    side = max(height, width)
    if path is None:
        square = high_contrast_target(side)
    else:
        array = to_square(read_image(path), side)  # [side, side, 3]
        square = to_float(torch.from_numpy(array.copy()).permute(2, 0, 1)[None])
    top, left = (side - height) // 2, (side - width) // 2
    return square[..., top : top + height, left : left + width]


@torch.no_grad()
def _guide(model: Model, poison: Poison, height: int, width: int) -> Guide:
    target = _target(poison.target, height, width).to(model.device)
    conditioning = model.embed_text(model.tokenize([poison.prompt]))
    return Guide(conditioning, target, model.encode(target))


def _start(poison: Poison, clean: Images, generators: Sequence[torch.Generator]) -> Images:
    if poison.start == "zero":
        return clean
    return clean + poison.budget.start(generators, clean.shape[1:]).to(clean)


def poison_images(
    model: Model,
    images: Images,
    poison: Poison,
    seed: int,
    image_names: Sequence[str],
    *,
    batch_size: int = 16,
    progress: bool = True,
) -> UInt8[Tensor, "batch 3 height width"]:
    """The poisoned images, rounded to 8 bits and inside the budget around the clean 8-bit images.

    ``images``: float [batch, 3, height, width] in [0, 1], rounded to 8 bits first. Image i draws
    from ``stream(seed, "poison", poison.name, image_names[i])`` alone, so that its poison depends
    neither on its neighbours nor on ``batch_size`` (images that share one pass). Raises ValueError
    unless there is one distinct name per image, FloatingPointError when a gradient breaks.
    """
    if not len(images) == len(image_names) == len(set(image_names)) > 0:
        raise ValueError(f"{len(images)} images need as many distinct names, got {image_names}")
    if batch_size < 1:
        raise UserError(f"The poison's batch size is {batch_size}; give at least 1.")
    clean = to_uint8(images).cpu()
    guide = _guide(model, poison, *clean.shape[-2:])
    budget = poison.budget

    def objective(batch: Images, generators: Sequence[torch.Generator]) -> PerExample:
        return poison.objective(model, batch, generators, guide)

    def step(gradient: Tensor, index: int) -> Tensor:
        return poison.direction * poison.eta * budget.steepest(gradient)

    chunks = range(0, len(clean), batch_size)
    done: list[Tensor] = []
    total = poison.steps * len(chunks)
    with tqdm(total=total, desc=poison.name, unit="step", disable=not progress) as bar:
        for first in chunks:
            rows = slice(first, first + batch_size)
            generators = [stream(seed, "poison", poison.name, n) for n in image_names[rows]]
            chunk = to_float(clean[rows]).to(model.device)
            moved = projected_gradient(
                chunk,
                _start(poison, chunk, generators),
                objective,
                step,
                budget,
                generators,
                poison.steps,
                name=poison.name,
                after_step=bar.update,
            )
            done.append(to_uint8(moved).cpu())
    poisoned = torch.cat(done)
    if not budget.contains(clean, poisoned):
        raise AssertionError(f"poison {poison.name!r} left its budget: a defect of its projection")
    return poisoned


def poison_concept(
    model: Model,
    concept: Concept,
    poison: Poison,
    seed: int,
    *,
    batch_size: int = 16,
    progress: bool = True,
) -> Concept:
    """The concept with poisoned images; names, masks and words stay (see ``poison_images``)."""
    return concept.with_images(
        poison_images(
            model,
            concept.pixels(),
            poison,
            seed,
            concept.image_names,
            batch_size=batch_size,
            progress=progress,
        )
    )


def imperceptibility(
    clean: UInt8[Tensor, "batch 3 height width"], poisoned: UInt8[Tensor, "batch 3 height width"]
) -> dict[str, PerExample]:
    """How visible a poison is, per image: a (batch,) of values under each name.

    "psnr" in dB, infinite for equal images; "ssim" in [-1, 1]; "linf": the largest change, pixels
    in [0, 1]; "share_at_bound": the share of values changed by just that much (0 for equal
    images), which is the bound of an l-infinity budget once the poison uses it. Raises ValueError
    for unequal shapes and sides below 11 pixels.
    """
    before, after = to_float(clean), to_float(poisoned)
    levels = (poisoned.to(torch.int16) - clean.to(torch.int16)).flatten(1).abs()
    largest = levels.amax(dim=1)
    at_bound = (levels == largest[:, None]) & (levels > 0)
    return {
        "psnr": psnr(before, after),
        "ssim": ssim(before, after),
        "linf": largest / 255,
        "share_at_bound": at_bound.to(torch.float32).mean(dim=1),
    }
