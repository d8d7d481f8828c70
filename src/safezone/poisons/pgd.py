"""The one projected-gradient loop, and the budgets it projects to."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, TypeAlias

import torch
from jaxtyping import UInt8
from pydantic import Field
from torch import Tensor

from safezone.arrays import DrawnAhead, Draws, Images, PerExample, rand, randn
from safezone.errors import UserError
from safezone.fields import Checked, Positive
from safezone.models.captured import Captured

Objective: TypeAlias = Callable[[Images, Draws], PerExample]
"""Images and one generator per image to one value per image, differentiable in the images."""

Slope: TypeAlias = Callable[[Images], Tensor]
"""Images to the gradient of an objective at fresh draws, of their shape."""

Displacement: TypeAlias = Callable[[Tensor, int], Tensor]
"""A gradient [batch, 3, height, width] and the step's number to the displacement to add."""

LEVEL = 1 / 255
"""One 8-bit level for pixels in [0, 1]."""


def _lengths(values: Tensor) -> Tensor:
    """The l2 norm of every image, [batch, 1, 1, 1]."""
    lengths: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return lengths.view(-1, 1, 1, 1)


@dataclass(frozen=True)
class Budget(Checked):
    """The set of allowed perturbations: ||delta||_norm <= kappa, per image, pixels in [0, 1].

    ``kappa`` = 16/255 here is 32/255 for pixels in [-1, 1], where most released code counts.
    ``norm``: "linf" (largest change of any channel of any pixel) or "l2" (over all channels and
    pixels of an image). Raises UserError where nothing could be changed, or where ``kappa`` was
    evidently counted in 0..255.
    """

    kappa: Positive = 16 / 255
    norm: Annotated[Literal["linf", "l2"], Field()] = "linf"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm == "linf" and self.kappa > 1:
            raise UserError(
                f"The budget kappa is {self.kappa}, but pixels are in [0, 1]; "
                f"divide by 255 ({self.kappa / 255:.4g})."
            )
        if self.kappa < LEVEL / 2:
            raise UserError(
                f"The budget kappa is {self.kappa}, less than half an 8-bit level, so that "
                "saving would remove the poison; give at least 1/255."
            )

    def project(self, delta: Tensor) -> Tensor:
        """The nearest allowed perturbation of every image, [batch, 3, height, width]."""
        if self.norm == "linf":
            return delta.clamp(-self.kappa, self.kappa)
        return delta * (self.kappa / _lengths(delta).clamp_min(self.kappa))

    def steepest(self, gradient: Tensor) -> Tensor:
        """The direction of unit norm in which a linear objective grows most.

        linf: the sign; l2: the gradient over its length; zero where the gradient is zero.
        """
        if self.norm == "linf":
            return gradient.sign()
        lengths = _lengths(gradient)
        return gradient / torch.where(lengths > 0, lengths, 1.0)

    def start(self, generators: Draws, shape: Sequence[int]) -> Tensor:
        """A perturbation uniform in the budget, float32 [len(generators), *shape]."""
        if self.norm == "linf":
            return (2 * rand(generators, shape) - 1) * self.kappa
        direction = self.steepest(randn(generators, shape))
        radius = rand(generators).view(-1, 1, 1, 1) ** (1 / math.prod(shape))
        return self.project(direction * radius * self.kappa)

    def contains(
        self, clean: UInt8[Tensor, "batch 3 h w"], poisoned: UInt8[Tensor, "batch 3 h w"]
    ) -> bool:
        """Whether every 8-bit image is inside the budget, as far as rounding to 8 bits allows.

        linf: exactly, when kappa * 255 is an integer; otherwise half a level more.
        l2: half a level more for every value, the worst that rounding can do.
        """
        change = (poisoned.to(torch.float64) - clean.to(torch.float64)).flatten(1)  # in levels
        allowed = self.kappa * 255
        if self.norm == "linf":
            whole = abs(allowed - round(allowed)) < 1e-6
            return bool((change.abs() <= (round(allowed) if whole else allowed + 0.5)).all())
        return bool((change.norm(dim=1) <= allowed + 0.5 * math.sqrt(change.shape[1])).all())


def _sizes(gradient: Tensor, name: str, step: int) -> Tensor:
    """The largest value of each image's gradient, [batch], which has to be finite."""
    size = gradient.detach().flatten(1).abs().amax(dim=1)  # NaN and inf pass through
    if not bool(size.isfinite().all()):
        raise FloatingPointError(
            f"poison {name!r}: the gradient is not finite at step {step}; "
            "the model's weights or its precision are broken"
        )
    return size


def _require_some(largest: Tensor, name: str, first: int, steps: int) -> None:
    """Raises FloatingPointError where an image had a gradient at none of these steps.

    A single draw may give none: at a flow's last timestep nothing of the image is left.
    """
    if not bool((largest > 0).all()):
        raise FloatingPointError(
            f"poison {name!r}: the gradient is zero at steps {first} to {first + steps - 1}; it "
            "does not reach the images, is too small for the model's precision, or the clean "
            "image is its minimum and the start must be uniform"
        )


@torch.enable_grad()
def slope(objective: Objective, generators: Draws, images: Images) -> Tensor:
    """The gradient of the sum of the objective's values at the images."""
    pixels = images.detach().requires_grad_(True)
    gradient: Tensor = torch.autograd.grad(objective(pixels, generators).sum(), pixels)[0]
    return gradient


def captured_slope(objective: Objective, generators: Draws, device: torch.device) -> Slope:
    """``slope`` as one function of static shapes, a CUDA graph on a GPU.

    Its random numbers are drawn before each call, from the same streams in the same order. An
    objective that decides by the numbers that it has drawn cannot be captured.
    """
    ahead = DrawnAhead(device)

    def read(images: Images) -> Tensor:
        with ahead.reading():
            return slope(objective, generators, images)

    captured = Captured(read, device)

    def drawn(images: Images) -> Tensor:
        ahead.again()
        return captured(images)

    return drawn


@torch.no_grad()
def projected_gradient(
    clean: Images,
    start: Images,
    objective: Objective,
    step: Displacement,
    budget: Budget,
    generators: Draws,
    steps: int,
    *,
    first: int = 0,
    repetitions: int = 1,
    allowed: Tensor | None = None,
    name: str = "custom",
    gradient_of: Slope | None = None,
    after_step: Callable[[], object] = lambda: None,
) -> Images:
    """Projected gradient (Madry et al. 2018): x <- clip(clean + P(x + step(grad) - clean)).

    ``clean``, ``start``, result: float [batch, 3, height, width] in [0, 1]; P projects to
    ``budget``. One value and one gradient per image: the batch shares a pass, nothing else.
    ``first``: the number of the first of the ``steps``. ``repetitions``: draws whose gradients are
    averaged for one step. ``allowed``: [batch, 1, height, width] of 0 and 1, where pixels may
    change; None is everywhere. ``gradient_of``: instead of the objective's ``slope``.
    Raises FloatingPointError naming the poison and the step when a gradient is infinite or NaN for
    any image, or zero at all steps.
    """

    def inside(moved: Tensor) -> Tensor:
        delta = moved - clean
        return (clean + budget.project(delta if allowed is None else delta * allowed)).clamp(0, 1)

    images = inside(start)
    gradient_of = gradient_of or partial(slope, objective, generators)
    largest = torch.zeros(len(images), device=images.device)
    for index in range(first, first + steps):
        gradient = torch.zeros_like(images)
        for _ in range(repetitions):
            gradient += gradient_of(images)
        if allowed is not None:
            gradient *= allowed
        largest = largest.maximum(_sizes(gradient, name, index))
        images = inside(images + step(gradient / repetitions, index))
        after_step()
    if first == 0 or steps > 1:
        _require_some(largest, name, first, steps)
    return images
