"""What a personalization method is to the training loop: its settings, parameters, injection."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from jaxtyping import Int
from torch import Tensor

from safezone.arrays import Latents, Timesteps
from safezone.models.base import Conditioning, Model
from safezone.personalize.history import History
from safezone.personalize.runs import PreparedRun

Network: TypeAlias = Callable[[Latents, Timesteps, Conditioning], Latents]
Schedule: TypeAlias = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows of one pass, on the model's device but for the indices.

    ``runs``, ``prompts``: int64 [batch] on the CPU: which run, which of its prompts.
    """

    runs: Int[Tensor, " batch"]
    prompts: Int[Tensor, " batch"]
    noisy: Latents
    timesteps: Timesteps


class Injection(Protocol):
    """One method's parameters for some runs, and how a pass uses them."""

    @property
    def initial(self) -> Mapping[str, Tensor]:
        """The parameters before the first step, float32, each [runs, ...]."""
        ...

    @property
    def templates(self) -> int:
        """How many training prompts there are to choose from, with captions one for each image
        of the run that has most; as many again follow for each
        prefix of ``safezone.personalize.crops`` when the method crops and rescales."""
        ...

    def predict(self, network: Network, parameters: Mapping[str, Tensor], batch: Batch) -> Latents:
        """The network's prediction for each row with its run's parameters; differentiable."""
        ...

    def constrain(self, parameters: Mapping[str, Tensor]) -> None:
        """Projects the parameters in place after each step."""
        ...


class Method(Protocol):
    """The settings of one personalization method."""

    @property
    def steps(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def accumulation(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def flip(self) -> bool: ...
    @property
    def crop_rescale(self) -> bool: ...
    @property
    def captions(self) -> bool: ...
    @property
    def prior_weight(self) -> float: ...
    @property
    def log_every(self) -> int: ...
    @property
    def checkpoint_every(self) -> int: ...
    @property
    def preview_every(self) -> int: ...
    def content(self) -> Mapping[str, Any]:
        """The settings that the result depends on, as JSON values."""
        ...

    def inject(self, model: Model, runs: Sequence[PreparedRun]) -> Injection: ...


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one run learned. ``failed_at``: the step at which it became NaN, else None.

    ``parameters``: by name, without the run axis; of a failed run the last finite ones.
    ``loss``: the mean training loss over the last ``log_every`` steps before the run's end.
    ``history``: of textual inversion the token vectors on the way.
    """

    parameters: Mapping[str, Tensor]
    failed_at: int | None
    loss: float
    history: History | None = None


Observer: TypeAlias = Callable[[str, Mapping[str, Any]], None]
Preview: TypeAlias = Callable[[int, Sequence[Outcome]], None]


def learning_rate(method: Method, step: int) -> float:
    """The rate of 0-based ``step``: constant, or falling to 0 linearly or as a cosine."""
    done = step / method.steps
    factor = {
        "constant": 1.0,
        "linear": 1 - done,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
    }[method.schedule]
    return method.learning_rate * factor
