"""The one training loop: many runs share each pass through the frozen model; leading axis = run.

A method (``Personalization``) brings what is learned and how it is put into the model; ``steps``
has one step, everything around it is here. Run r's gradient is that of its own loss alone and the
optimiser acts on each element alone, so a run's result does not depend on its neighbours.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from tqdm.auto import tqdm

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
from safezone.personalize.injection import Injection
from safezone.personalize.personalization import Personalization
from safezone.personalize.posteriors import prior_data, training_data
from safezone.personalize.runs import PreparedRun
from safezone.personalize.samples import Sampler, untrained
from safezone.personalize.steps import CapturedStep, EagerStep, Parts, Step

_VERSION = 3
"""Raised when the same settings no longer give the same result; part of the content key."""


def training_key(model: Model, runs: Sequence[PreparedRun], method: Personalization) -> str:
    """A hash of all that the result depends on; a checkpoint of another key is refused."""
    content = {
        "version": _VERSION,
        "model": model.fingerprint(),
        "method": [type(method).__name__, method.content()],
        "runs": [run.content() for run in runs],
    }
    return digest(json.dumps(content, sort_keys=True))


@dataclass(frozen=True, eq=False)
class TrainingOutcome:
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
"""Called with a run's key and each line of its log."""
Preview: TypeAlias = Callable[[int, Sequence[TrainingOutcome]], None]
"""Called with the steps done and what each run has learned so far."""


def _log(
    state: State,
    runs: Sequence[PreparedRun],
    method: Personalization,
    folder: Path | None,
    observers: Sequence[Observer],
) -> None:
    """Closes the window of losses: one line for each run that is well or has just failed."""
    since = (state.step - 1) % method.log_every + 1
    for r, run in enumerate(runs):
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
                "lr": method.rate(state.step - 1),
            }
        else:
            line |= {"failed_at": failed_at}
        if folder is not None:
            append_log(log_path(folder, run.key), line)
        for tell in observers:
            tell(run.key, line)
    state.window.zero_()


def _outcomes(state: State, method: Personalization) -> list[TrainingOutcome]:
    """What each run has learned so far."""
    return [
        TrainingOutcome(
            {name: value[r].detach().clone() for name, value in state.parameters.items()},
            failed_at=None if state.failed_at[r] < 0 else int(state.failed_at[r]),
            loss=float(state.last_loss[r]),
            history=History.of_run(state.history, r, method.steps),
        )
        for r in range(len(state.failed_at))
    ]


def _finished(state: State, method: Personalization) -> bool:
    return state.step >= method.steps or not bool((state.failed_at < 0).any())


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _check(runs: Sequence[PreparedRun], max_batch: int) -> None:
    if not runs:
        raise UserError("There are no runs to train; name at least one concept.")
    keys = [run.key for run in runs]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise UserError(f"Two runs have the key {min(twice)!r}; give each its own.")
    if max_batch < 1:
        raise UserError(f"max_batch is {max_batch}; give at least 1 row a pass.")


def ready(
    model: Model,
    runs: Sequence[PreparedRun],
    method: Personalization,
    *,
    max_batch: int = 64,
    compile: bool = False,
    captured: bool = False,
    checkpointing: bool = False,
) -> Injection:
    """The runs' parameters at their start and how a pass uses them; writes nothing.

    Raises UserError for all that ``fit`` refuses but a checkpoint of other runs, so that a caller
    can ask before it writes anything.
    """
    _check(runs, max_batch)
    for name, used in {"compile": compile, "a captured step": captured}.items():
        if used and checkpointing:
            raise UserError(f"{name} and checkpointing do not work together; choose one of them.")
    if method.crop_rescale:
        check_size(runs[0].concept.images.shape[-1], model.factor)
    return method.inject(model, runs)


def fit(
    model: Model,
    runs: Sequence[PreparedRun],
    method: Personalization,
    folder: Path | None = None,
    *,
    progress: bool = True,
    preview: Preview | None = None,
    max_batch: int | None = None,
    compile: bool = False,
    checkpointing: bool = False,
    captured: bool = False,
    observers: Sequence[Observer] = (),
) -> list[TrainingOutcome]:
    """Trains all runs in one pass a step and returns their outcomes in order.

    ``folder`` receives ``checkpoint.safetensors`` every ``method.checkpoint_every`` steps and at
    the end, and ``logs/<key>.jsonl``; a training killed at any moment and started again with the
    same arguments goes on from there and gives the same bytes as an undisturbed one. ``preview``
    is called with the steps done and the outcomes so far every ``method.preview_every`` steps.
    ``max_batch``: rows (runs x batch size) in one forward pass, by default all on a GPU and 64 on a
    processor; fewer need less memory and give the same result to float tolerance, and to the bit
    where ``models.frozen`` applies.
    ``compile``: the network through ``torch.compile``. ``checkpointing``: recompute the network's
    activations in the backward pass, which takes a third more time and a fraction of the memory.
    ``captured``: each step as one function of static shapes, on a GPU a CUDA graph
    (``steps.CapturedStep``); the same to rounding, and the losses leave the device only when they
    are logged. ``observers``: called with a run's key and each line of its log.

    Raises UserError for no runs, keys that are not unique, unfit images, missing masks, and a
    checkpoint in ``folder`` that other runs or settings have made.
    """
    if max_batch is None:
        max_batch = 64 if model.device.type == "cpu" else max(1, len(runs) * method.batch_size)
    injection = ready(
        model,
        runs,
        method,
        max_batch=max_batch,
        compile=compile,
        captured=captured,
        checkpointing=checkpointing,
    )
    key = training_key(model, runs, method)
    checkpoint = None if folder is None else folder / CHECKPOINT
    state = None if checkpoint is None else load_state(checkpoint, key, model.device)
    if state is None:
        state = State.start(injection.initial, len(runs))
    if _finished(state, method):
        return _outcomes(state, method)
    data = training_data(model, runs, flip=method.flip, max_batch=max_batch)
    network = torch.compile(model.predict, dynamic=False) if compile else model.predict
    prior = prior_data(model, runs, max_batch=max_batch) if method.prior_weight else None
    before = partial(untrained, model, injection, max_batch)
    sampler = Sampler(model, runs, method, data, prior, injection.templates, before)
    parts = Parts(model, method, injection, sampler, network, max_batch)
    if folder is not None:
        for run in runs:
            truncate_log(log_path(folder, run.key), state.step)
    step: Step = CapturedStep(parts, state) if captured else EagerStep(parts, state)
    marks = set(mark_steps(method.steps))
    bar = tqdm(
        total=method.steps,
        initial=state.step,
        desc=f"training {len(runs)} run{'s' if len(runs) > 1 else ''}",
        unit="step",
        disable=not progress,
    )
    with model.checkpointed(checkpointing), bar:
        last = False
        while not last:
            step()
            bar.update()
            logged = state.step % method.log_every == 0 or state.step == method.steps
            last = (logged or not captured) and _finished(state, method)
            if state.step in marks:
                state.history += kept(state.parameters)
            if last or logged:
                _log(state, runs, method, folder, observers)
                bar.set_postfix(loss=f"{float(state.last_loss.nanmean()):.4f}", refresh=False)
            if checkpoint is not None and (last or _due(state.step, method.checkpoint_every)):
                save_state(state, checkpoint, key)
            if preview is not None and _due(state.step, method.preview_every):
                preview(state.step, _outcomes(state, method))
    return _outcomes(state, method)
