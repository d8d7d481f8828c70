"""What a poison is: an objective with its direction, a budget and the optimiser's settings."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from safezone.defenses.loss_masks import LossMask
from safezone.defenses.timesteps import TimestepDistribution, Uniform
from safezone.errors import UserError
from safezone.fields import Count, FieldError, Positive, require_fields
from safezone.poisons.guide import NAMED_TARGETS, ModelObjective, NetworkObjective, Target
from safezone.poisons.pgd import Budget
from safezone.poisons.rounds import GreedyTimesteps, Surrogate
from safezone.poisons.transforms import NaturalSpectrum, Transform

_ROUND = 10
"""Steps between two checkpoints."""


@dataclass(frozen=True)
class Poison:
    """An objective with its direction, a budget and the optimiser's settings.

    ``direction``: +1 ascends, -1 descends. ``eta``: the step's length in the budget's norm, pixels
    in [0, 1] (1/255 here is 2/255 in [-1, 1]). ``decay``: of the step, "constant" or "linear" from
    eta down to eta / 100. ``start``: "uniform" in the budget or "zero". ``prompt``: what the U-Net
    reads, where the objective asks it; ``{}`` in it is what the surrogate has learned.
    ``target``: of targeted objectives, see ``guide.Target``. ``repetitions``: draws whose
    gradients are averaged for each step. ``transform``: what every draw does to the images before
    the objective sees them (expectation over transformations). ``timesteps``: which are drawn.
    ``mask``: the perturbation stays, and the loss counts, inside the concept's dilated mask;
    None is everywhere. ``surrogate``: trained in turns with the poison (ASPL). ``shaping``: what
    makes the perturbation's spectrum natural, in every step and at the end.

    Raises UserError for settings that can change nothing.
    """

    name: str
    objective: ModelObjective | NetworkObjective
    direction: Annotated[Literal[1, -1], Field()]
    budget: Budget = field(default_factory=Budget)
    eta: Positive = 1 / 255
    steps: Count = 100
    decay: Annotated[Literal["constant", "linear"], Field()] = "constant"
    start: Annotated[Literal["uniform", "zero"], Field()] = "uniform"
    prompt: str = "a photo"
    target: Target = "pattern"
    repetitions: Count = 1
    transform: Transform | None = None
    timesteps: TimestepDistribution | GreedyTimesteps = field(default_factory=Uniform)
    mask: LossMask | None = None
    surrogate: Surrogate | None = None
    shaping: NaturalSpectrum | None = None

    def __post_init__(self) -> None:
        try:
            require_fields(self)
            if not (isinstance(self.target, Path) or self.target in NAMED_TARGETS):
                give = f"give {', '.join(NAMED_TARGETS)} or a path"
                raise FieldError("target", self.target, f"is {self.target!r}; {give}")
        except FieldError as error:
            raise UserError(f"Poison {self.name!r}: {error}.") from error
        if self.budget.norm == "linf" and self.eta >= 1:
            raise UserError(
                f"Poison {self.name!r}: eta is {self.eta:g}, but pixels are in [0, 1]; "
                f"divide by 255 ({self.eta / 255:.4g})."
            )
        if self.mask is not None:
            dilated = LossMask(self.mask.dilation_px_at_512, self.mask.dilation_cells)
            if self.mask != dilated:
                raise UserError(
                    f"Poison {self.name!r}: the mask is {self.mask!r}, and of a poison's mask the "
                    f"dilation alone counts; give {dilated!r}."
                )
        if ("{}" in self.prompt) != (self.surrogate is not None):
            raise UserError(
                f"Poison {self.name!r}: the prompt is {self.prompt!r}; {{}} in it stands for what "
                "a surrogate has learned and belongs to poisons with one, and only to those."
            )

    @property
    def round_steps(self) -> int:
        """Steps between two checkpoints; with a surrogate, between two of its trainings."""
        if self.surrogate is None:
            return _ROUND
        return math.ceil(self.steps / self.surrogate.rounds)

    def step_length(self, index: int) -> float:
        """eta of the step with this number, from 0."""
        share = 0.99 * index / self.steps if self.decay == "linear" else 0.0
        return self.eta * (1 - share)

    def record(self) -> Mapping[str, Any]:
        """All settings as JSON values, for provenance."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        values["objective"] = getattr(self.objective, "__name__", self.objective)
        values["target"] = str(self.target)
        budget = values.pop("budget")
        plain = str | int | float | None
        return {"poison": values.pop("name"), "kappa": budget.kappa, "norm": budget.norm} | {
            name: value if isinstance(value, plain) else repr(value)
            for name, value in values.items()
        }
