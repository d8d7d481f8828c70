"""The one training loop: many runs share each pass through the frozen model; leading axis = run.

A method brings what is learned and how it is put into the model (``Method``, ``Injection``);
everything else is here. Run r's gradient is that of its own loss alone and the optimiser acts on
each element alone, so a run's result does not depend on its neighbours.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from safezone.defenses import masked_loss
from safezone.errors import UserError
from safezone.files import digest
from safezone.models.base import Model
from safezone.personalize.checkpoints import (
    CHECKPOINT,
    State,
    append_log,
    load_state,
    log_path,
    save_state,
    truncate_log,
)
from safezone.personalize.crops import check_size
from safezone.personalize.history import History, kept, mark_steps
from safezone.personalize.method import (
    Batch,
    Injection,
    Method,
    Network,
    Observer,
    Outcome,
    Preview,
    learning_rate,
)
from safezone.personalize.posteriors import prior_data, training_data
from safezone.personalize.runs import PreparedRun
from safezone.personalize.samples import Sampler, Samples

_VERSION = 3
"""Raised when the same settings no longer give the same result; part of the content key."""


def content_key(model: Model, runs: Sequence[PreparedRun], method: Method) -> str:
    """A hash of all that the result depends on; a checkpoint of another key is refused."""
    content = {
        "version": _VERSION,
        "model": model.fingerprint(),
        "method": [type(method).__name__, method.content()],
        "runs": [run.content() for run in runs],
    }
    return digest(json.dumps(content, sort_keys=True))


@dataclass(frozen=True, eq=False)
class _Training:
    """What stays the same from the first step to the last."""

    model: Model
    runs: Sequence[PreparedRun]
    method: Method
    injection: Injection
    sampler: Sampler
    network: Network
    max_batch: int
    observers: Sequence[Observer]

    @property
    def scale(self) -> float:
        """What losses are multiplied with before the backward pass, a power of two.

        In float16 the gradient of a mean over thousands of elements would underflow to zero, so
        there it is about that of the sum.
        """
        if self.model.dtype != torch.float16:
            return 1.0
        return float(2 ** round(math.log2(self.sampler.data.shape.numel())))

    def accumulate(
        self, parameters: Mapping[str, Tensor], step: int, active: Int[Tensor, " active"]
    ) -> Float[Tensor, " active"]:
        """Adds the gradients of one step of the active runs; returns their losses, float64.

        The gradient is that of the sum over runs of the run's mean over its batch, however few
        rows the device takes at once.
        """
        parts = self.sampler.at(step, active)
        factors = (1.0, self.method.prior_weight)
        losses = [
            factor * self._backward(parameters, samples, len(active), factor)
            for samples, factor in zip(parts, factors, strict=False)
        ]
        return torch.stack(losses).sum(dim=0)

    def _backward(
        self, parameters: Mapping[str, Tensor], samples: Samples, active: int, factor: float
    ) -> Float[Tensor, " active"]:
        """Adds the gradients of ``factor`` times the loss; returns the losses without it."""
        size = self.method.batch_size * self.method.accumulation
        rows = min(self.max_batch, active * self.method.batch_size)
        losses = []
        for start in range(0, len(samples.runs), rows):
            cut = slice(start, start + rows)
            batch = Batch(
                samples.runs[cut], samples.prompts[cut], samples.noisy[cut], samples.timesteps[cut]
            )
            prediction = self.injection.predict(self.network, parameters, batch)
            weights = None if samples.weights is None else samples.weights[cut]
            loss = masked_loss(prediction.float() - samples.target[cut], weights)
            (loss.sum() / size * (factor * self.scale)).backward()
            losses.append(loss.detach())
        return torch.cat(losses).view(-1, size).mean(dim=1).double().cpu()

    def advance(self, state: State, optimiser: torch.optim.AdamW) -> None:
        """One optimiser step of all runs that are well; one that becomes NaN keeps what it had."""
        active = (state.failed_at < 0).nonzero().flatten()
        losses = self.accumulate(state.parameters, state.step, active)
        well = torch.zeros(len(self.runs), dtype=torch.bool)
        well[active] = losses.isfinite()
        for parameter in state.parameters.values():
            _gradient(parameter).div_(self.scale)
            well &= _gradient(parameter).flatten(1).isfinite().all(dim=1).cpu()
        ill = ~well
        frozen = {}
        if ill.any():
            for name, parameter in state.parameters.items():
                _gradient(parameter)[ill] = 0
                frozen[name] = parameter.detach()[ill].clone()
        optimiser.param_groups[0]["lr"] = learning_rate(self.method, state.step)
        optimiser.step()
        optimiser.zero_grad()
        with torch.no_grad():
            self.injection.constrain(state.parameters)
            for name, value in frozen.items():
                state.parameters[name][ill] = value
        state.step += 1
        state.failed_at[ill & (state.failed_at < 0)] = state.step
        state.window[active] += losses.where(well[active], torch.zeros(()).double())

    def log(self, state: State, folder: Path | None) -> None:
        """Closes the window of losses: one line for each run that is well or has just failed."""
        since = (state.step - 1) % self.method.log_every + 1
        for r, run in enumerate(self.runs):
            failed_at = int(state.failed_at[r])
            if 0 <= failed_at <= state.step - since:
                continue
            line: dict[str, Any] = {"step": state.step}
            if failed_at < 0:
                state.last_loss[r] = state.window[r] / since
                squares = [value.detach()[r].square().sum() for value in state.parameters.values()]
                line |= {
                    "loss": float(state.last_loss[r]),
                    "norm": math.sqrt(float(sum(squares))),
                    "lr": learning_rate(self.method, state.step - 1),
                }
            else:
                line |= {"failed_at": failed_at}
            if folder is not None:
                append_log(log_path(folder, run.key), line)
            for tell in self.observers:
                tell(run.key, line)
        state.window.zero_()


def _outcomes(state: State, method: Method) -> list[Outcome]:
    """What each run has learned so far."""
    return [
        Outcome(
            {name: value[r].detach().clone() for name, value in state.parameters.items()},
            failed_at=None if state.failed_at[r] < 0 else int(state.failed_at[r]),
            loss=float(state.last_loss[r]),
            history=History.of_run(state.history, r, method.steps),
        )
        for r in range(len(state.failed_at))
    ]


def _finished(state: State, method: Method) -> bool:
    return state.step >= method.steps or not bool((state.failed_at < 0).any())


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        # The prediction may not depend on a layer, such as the last of SDXL's text encoders.
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _optimiser(method: Method, state: State) -> torch.optim.AdamW:
    """AdamW over the state's own tensors, so that its step changes the state."""
    parameters = [value.requires_grad_(True) for value in state.parameters.values()]
    optimiser = torch.optim.AdamW(
        parameters, lr=method.learning_rate, weight_decay=method.weight_decay, foreach=False
    )
    for name, parameter in state.parameters.items():
        optimiser.state[parameter] = {
            "step": torch.tensor(float(state.step)),
            "exp_avg": state.exp_avg[name],
            "exp_avg_sq": state.exp_avg_sq[name],
        }
    return optimiser


def _check(runs: Sequence[PreparedRun], max_batch: int) -> None:
    if not runs:
        raise UserError("There are no runs to train; name at least one concept.")
    keys = [run.key for run in runs]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise UserError(f"Two runs have the key {min(twice)!r}; give each its own.")
    if max_batch < 1:
        raise UserError(f"max_batch is {max_batch}; give at least 1 row a pass.")


def fit(
    model: Model,
    runs: Sequence[PreparedRun],
    method: Method,
    folder: Path | None = None,
    *,
    progress: bool = True,
    preview: Preview | None = None,
    max_batch: int = 64,
    compile: bool = False,
    checkpointing: bool = False,
    observers: Sequence[Observer] = (),
) -> list[Outcome]:
    """Trains all runs in one pass a step and returns their outcomes in order.

    ``folder`` receives ``checkpoint.safetensors`` every ``method.checkpoint_every`` steps and at
    the end, and ``logs/<key>.jsonl``; a training killed at any moment and started again with the
    same arguments goes on from there and gives the same bytes as an undisturbed one. ``preview``
    is called with the steps done and the outcomes so far every ``method.preview_every`` steps.
    ``max_batch``: rows (runs x batch size) in one forward pass; fewer need less memory and give
    the same result to float tolerance, and to the bit where ``models.frozen`` applies.
    ``compile``: the network through ``torch.compile``. ``checkpointing``: recompute the network's
    activations in the backward pass, which takes a third more time and a fraction of the memory.
    ``observers``: called with a run's key and each line of its log.

    Raises UserError for no runs, keys that are not unique, unfit images, missing masks, and a
    checkpoint in ``folder`` that other runs or settings have made.
    """
    _check(runs, max_batch)
    if compile and checkpointing:
        raise UserError("compile and checkpointing do not work together; choose one of them.")
    injection = method.inject(model, runs)
    key = content_key(model, runs, method)
    checkpoint = None if folder is None else folder / CHECKPOINT
    state = None if checkpoint is None else load_state(checkpoint, key, model.device)
    if state is None:
        state = State.start(injection.initial, len(runs))
    if _finished(state, method):
        return _outcomes(state, method)
    data = training_data(model, runs, flip=method.flip, max_batch=max_batch)
    if method.crop_rescale:
        check_size(data.images.shape[-1], model.factor)
    network = torch.compile(model.predict, dynamic=False) if compile else model.predict
    prior = prior_data(model, runs, max_batch=max_batch) if method.prior_weight else None
    sampler = Sampler(model, runs, method, data, prior, injection.templates)
    training = _Training(model, runs, method, injection, sampler, network, max_batch, observers)
    if folder is not None:
        for run in runs:
            truncate_log(log_path(folder, run.key), state.step)
    optimiser, marks = _optimiser(method, state), set(mark_steps(method.steps))
    bar = tqdm(
        total=method.steps,
        initial=state.step,
        desc=f"training {len(runs)} run{'s' if len(runs) > 1 else ''}",
        unit="step",
        disable=not progress,
    )
    with model.checkpointed(checkpointing), bar:
        while not _finished(state, method):
            training.advance(state, optimiser)
            bar.update()
            last = _finished(state, method)
            if state.step in marks:
                state.history += kept(state.parameters)
            if last or state.step % method.log_every == 0:
                training.log(state, folder)
                bar.set_postfix(loss=f"{float(state.last_loss.nanmean()):.4f}", refresh=False)
            if checkpoint is not None and (last or _due(state.step, method.checkpoint_every)):
                save_state(state, checkpoint, key)
            if preview is not None and _due(state.step, method.preview_every):
                preview(state.step, _outcomes(state, method))
    return _outcomes(state, method)
