"""One optimiser step of all runs: as torch does it, or as one function of static shapes.

In both a run's gradient is that of its own loss alone, the optimiser acts on each element alone,
and a run whose loss or gradient is not finite keeps what it had.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from safezone.arrays import Latents
from safezone.defenses import masked_loss
from safezone.models.base import Model
from safezone.models.captured import Recorded
from safezone.personalize.checkpoints import State
from safezone.personalize.personalization import Personalization
from safezone.personalize.samples import Injection, Network, Sampler, Samples

Predict: TypeAlias = Callable[[Network, Mapping[str, Tensor], Samples], Latents]
"""``Injection.predict`` or ``Injection.predict_rows``."""
_BETAS: Final = (0.9, 0.999)
_EPSILON: Final = 1e-8
"""AdamW's, torch's own defaults."""


@dataclass(frozen=True, eq=False)
class Parts:
    """What a step is made of, the same from the first to the last.

    ``max_batch``: rows (runs x batch size) in one forward pass.
    """

    model: Model
    method: Personalization
    injection: Injection
    sampler: Sampler
    network: Network
    max_batch: int

    @property
    def size(self) -> int:
        """Rows of a run in one step."""
        return self.method.batch_size * self.method.accumulation

    @property
    def scale(self) -> float:
        """What losses are multiplied with before the backward pass, a power of two.

        In float16 the gradient of a mean over thousands of elements would underflow to zero, so
        there it is about that of the sum.
        """
        if self.model.dtype != torch.float16:
            return 1.0
        return float(2 ** round(math.log2(self.sampler.data.shape.numel())))

    def gradients(
        self,
        predict: Predict,
        parameters: Mapping[str, Tensor],
        samples: Sequence[Samples],
        runs: int,
    ) -> tuple[dict[str, Tensor], Float[Tensor, " runs"]]:
        """By name the gradients of one step, float32, and the losses of ``runs`` runs, float64.

        ``samples``: of the concepts, and of their classes where they take part. The gradient is
        that of the sum over runs of the run's mean over its batch, however few rows the device
        takes at once.
        """
        most = min(self.max_batch, runs * self.method.batch_size)
        totals: list[Tensor | None] = [None] * len(parameters)
        losses = []
        for part, factor in zip(samples, (1.0, self.method.prior_weight), strict=False):
            of_rows = []
            for start in range(0, len(part.runs), most):
                batch = part[start : start + most]
                error = predict(self.network, parameters, batch).float() - batch.target
                loss = masked_loss(error, batch.weights)
                total = loss.sum() / self.size * (factor * self.scale)
                own = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
                pairs = zip(totals, own, strict=True)
                totals = [a if b is None else b if a is None else a + b for a, b in pairs]
                of_rows.append(loss.detach())
            losses.append(factor * torch.cat(of_rows).view(-1, self.size).mean(dim=1).double())
        # The prediction may not depend on a layer, such as the last of SDXL's text encoders.
        gradients = {
            name: torch.zeros_like(value) if total is None else total / self.scale
            for (name, value), total in zip(parameters.items(), totals, strict=True)
        }
        return gradients, torch.stack(losses).sum(dim=0)


class EagerStep:
    """Operation by operation, with torch's AdamW; the runs that have failed are left out."""

    def __init__(self, parts: Parts, state: State) -> None:
        self._parts, self._state = parts, state
        self._optimiser = torch.optim.AdamW(
            [value.requires_grad_(True) for value in state.parameters.values()],
            weight_decay=parts.method.weight_decay,
            betas=_BETAS,
            eps=_EPSILON,
            foreach=False,
        )
        for name, parameter in state.parameters.items():  # so that its step changes the state
            self._optimiser.state[parameter] = {
                "step": torch.tensor(float(state.step)),
                "exp_avg": state.exp_avg[name],
                "exp_avg_sq": state.exp_avg_sq[name],
            }

    def __call__(self) -> None:
        """One step of all runs that are well."""
        state, parts = self._state, self._parts
        active = (state.failed_at < 0).nonzero().flatten()
        samples = parts.sampler.at(state.step, active)
        predict = parts.injection.predict
        gradients, losses = parts.gradients(predict, state.parameters, samples, len(active))
        losses = losses.cpu()
        well = torch.zeros(len(state.failed_at), dtype=torch.bool)
        well[active] = losses.isfinite()
        for gradient in gradients.values():
            well &= gradient.flatten(1).isfinite().all(dim=1).cpu()
        ill = ~well
        before = {}
        for name, parameter in state.parameters.items():
            if ill.any():
                gradients[name][ill] = 0
                before[name] = parameter.detach()[ill].clone()
            parameter.grad = gradients[name]
        self._optimiser.param_groups[0]["lr"] = parts.method.rate(state.step)
        self._optimiser.step()
        self._optimiser.zero_grad()
        with torch.no_grad():
            parts.method.constrain(state.parameters, parts.injection.initial)
            for name, value in before.items():
                state.parameters[name][ill] = value
        state.step += 1
        state.failed_at[ill & (state.failed_at < 0)] = state.step
        state.window[active] += losses.where(well[active], torch.zeros(()).double())


class CapturedStep:
    """The losses, their gradients and AdamW as one function of static shapes, all on the device.

    On a GPU it is recorded once as a CUDA graph and then replayed, so that the host has one call to
    make a step instead of thousands; elsewhere it is called. Nothing waits for the device: failed
    runs stay in the batch, without effect, and the state knows of them there. Equal to
    ``EagerStep`` to rounding. What the samples are drawn from (``Sampler``) stays outside.
    """

    def __init__(self, parts: Parts, state: State) -> None:
        self._parts, self._state = parts, state
        device = parts.model.device
        state.failed_at, state.window = state.failed_at.to(device), state.window.to(device)
        for value in state.parameters.values():
            value.requires_grad_(True)
        self._runs = torch.arange(len(state.failed_at))
        self._inputs: list[Samples] = []
        self._count = torch.tensor(state.step, device=device)
        # AdamW's step size, its decay of weights, and the root of the second bias correction.
        self._numbers = tuple(torch.zeros((), device=device) for _ in range(3))
        groups = (state.parameters, state.exp_avg, state.exp_avg_sq)
        changed = [value for group in groups for value in group.values()]
        changed += [state.failed_at, state.window, self._count]
        self._recorded = Recorded(self.function, device, changed)

    def __call__(self) -> None:
        """One step; the samples and the rate are copied to where the function reads them."""
        state, method = self._state, self._parts.method
        self._load(self._parts.sampler.at(state.step, self._runs))
        rate, t = method.rate(state.step), state.step + 1
        numbers = (
            rate / (1 - _BETAS[0] ** t),
            1 - rate * method.weight_decay,
            math.sqrt(1 - _BETAS[1] ** t),
        )
        for place, number in zip(self._numbers, numbers, strict=True):
            place.fill_(number)
        self._recorded()
        state.step += 1

    def _load(self, samples: Sequence[Samples]) -> None:
        device = self._parts.model.device
        if not self._inputs:
            self._inputs = [each.to(device) for each in samples]
            return
        for mine, new in zip(self._inputs, samples, strict=True):
            for place, value in zip(mine.tensors, new.tensors, strict=True):
                place.copy_(value, non_blocking=True)

    def function(self) -> None:
        """What is recorded: reads the samples and numbers that were copied, changes the state."""
        state, parts = self._state, self._parts
        alive = state.failed_at < 0
        predict, count = parts.injection.predict_rows, len(self._runs)
        gradients, losses = parts.gradients(predict, state.parameters, self._inputs, count)
        with torch.no_grad():
            well = alive & losses.isfinite()
            for gradient in gradients.values():
                well &= gradient.flatten(1).isfinite().all(dim=1)
            before = [value.detach().clone() for value in state.parameters.values()]
            for name, gradient in gradients.items():
                self._adamw(name, gradient.where(_over(well, gradient), 0))
            parts.method.constrain(state.parameters, parts.injection.initial)
            for value, old in zip(state.parameters.values(), before, strict=True):
                value.copy_(value.where(_over(well, value), old))
            self._count += 1
            state.failed_at.copy_(state.failed_at.where(~alive | well, self._count))
            state.window += losses.where(well, 0)

    def _adamw(self, name: str, gradient: Tensor) -> None:
        """Loshchilov & Hutter (2019), as torch's AdamW, with its numbers on the device."""
        size, decay, root = self._numbers
        first, second = self._state.exp_avg[name], self._state.exp_avg_sq[name]
        first.lerp_(gradient, 1 - _BETAS[0])
        second.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
        value = self._state.parameters[name]
        value.copy_(value * decay - size * first / (second.sqrt() / root + _EPSILON))


def _over(runs: Bool[Tensor, " runs"], like: Tensor) -> Tensor:
    return runs.view(-1, *(1,) * (like.ndim - 1))
