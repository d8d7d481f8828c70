"""The one training loop: many runs share each pass through the frozen model; leading axis = run.

A method (``Personalization``) brings what is learned and how it is put into the model; ``steps``
has one step, everything around it is here. Run r's gradient is that of its own loss alone and the
optimiser acts on each element alone, so a run's result does not depend on its neighbours.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

import torch
from tqdm.auto import tqdm

from safezone.errors import UserError
from safezone.files import digest
from safezone.models.base import Model
from safezone.personalize.adapters import VECTORS, Adapter, History, kept, mark_steps
from safezone.personalize.checkpoints import (
    CHECKPOINT,
    State,
    append_log,
    load_state,
    log_path,
    save_state,
    truncate_log,
)
from safezone.personalize.draws import check_size
from safezone.personalize.personalization import Personalization, PreparedRun, TrainingRun
from safezone.personalize.posteriors import prior_data, training_data
from safezone.personalize.samples import Injection, Sampler, untrained
from safezone.personalize.steps import CapturedStep, EagerStep, Parts

_VERSION = 3
"""Raised when the same settings no longer give the same result; part of the content key."""

Observer: TypeAlias = Callable[[str, Mapping[str, Any]], None]
"""Called with a run's key and each line of its log."""
Preview: TypeAlias = Callable[[int, list[Adapter]], None]
"""Called with the steps done and what each run has learned so far."""


def _training_key(model: Model, runs: Sequence[PreparedRun], method: Personalization) -> str:
    """A hash of all that the result depends on; a checkpoint of another key is refused."""
    content = {
        "version": _VERSION,
        "model": model.fingerprint(),
        "method": [type(method).__name__, method.content()],
        "runs": [run.content() for run in runs],
    }
    return digest(json.dumps(content, sort_keys=True))


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


def _adapters(
    model: Model, runs: Sequence[PreparedRun], method: Personalization, state: State, step: int
) -> list[Adapter]:
    """What each run has learned so far; of a failed run the last finite values."""
    return [_adapter(model, run, r, method, state, step) for r, run in enumerate(runs)]


def _adapter(
    model: Model, run: PreparedRun, r: int, method: Personalization, state: State, step: int
) -> Adapter:
    parameters = {name: value[r].detach().clone().cpu() for name, value in state.parameters.items()}
    deltas, loss = method.deltas(parameters), float(state.last_loss[r])
    prompts = method.prompts_of(run, len(run.concept.images))
    placeholder = run.concept.placeholder if method.vectors else None
    unseen = model.unseen(prompts, placeholder, max(1, method.vectors))
    try:
        of_package = version("safezone")
    except PackageNotFoundError:  # run from a source folder
        of_package = "unknown"
    return Adapter(
        vectors=parameters.get(VECTORS, torch.zeros(0, model.embedding_width)),
        placeholder=run.concept.placeholder,
        class_word=run.concept.class_word,
        provenance={
            "method": method.name,
            "run": run.key,
            "concept": run.concept.name,
            "concept_content_key": run.concept.content_key(),
            **run.record,
            **({"unseen": unseen} if unseen else {}),
            "model": model.name,
            "precision": model.precision,
            "seed": run.seed,
            "step": step,
            "failed_at": None if state.failed_at[r] < 0 else int(state.failed_at[r]),
            "final_loss": None if math.isnan(loss) else loss,
            "settings": dict(method.content()),
            "version": of_package,
        },
        deltas=deltas,
        history=History.of_run(state.history, r, method.steps),
        trigger=method.trigger(run.concept),
        widths=model.embedding_widths if len(model.embedding_widths) > 1 else (),
        convolutions=model.convolutions & deltas.keys(),
    )


def _finished(state: State, method: Personalization) -> bool:
    return state.step >= method.steps or not bool((state.failed_at < 0).any())


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


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

    Raises UserError for all that ``train`` refuses but a checkpoint of other runs, so that a caller
    can ask before it writes anything.
    """
    if not runs:
        raise UserError("There are no runs to train; name at least one concept.")
    keys = [run.key for run in runs]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise UserError(f"Two runs have the key {min(twice)!r}; give each its own.")
    if max_batch < 1:
        raise UserError(f"max_batch is {max_batch}; give at least 1 row a pass.")
    for name, used in {"compile": compile, "a captured step": captured}.items():
        if used and checkpointing:
            raise UserError(f"{name} and checkpointing do not work together; choose one of them.")
    if method.crop_rescale:
        check_size(runs[0].concept.images.shape[-1], model.factor)
    return Injection(model, method, runs)


def train(
    model: Model,
    runs: Sequence[TrainingRun | PreparedRun],
    settings: Personalization,
    folder: Path | None = None,
    *,
    progress: bool = True,
    preview: Preview | None = None,
    max_batch: int | None = None,
    compile: bool = False,
    checkpointing: bool = False,
    captured: bool = False,
    observers: Sequence[Observer] = (),
) -> list[Adapter]:
    """Learns what the method says for all runs in one pass a step; adapters in the runs' order.

    A ``TrainingRun`` is first prepared: its defense's preprocess runs on its images. A run that
    became NaN comes back as ``failed``.

    ``folder`` receives ``checkpoint.safetensors`` every ``settings.checkpoint_every`` steps and at
    the end, and ``logs/<key>.jsonl``; a training killed at any moment and started again with the
    same arguments goes on from there and gives the same bytes as an undisturbed one.
    ``preview(step, adapters)``, such as ``safezone.generate.preview_writer`` makes, is called every
    ``settings.preview_every`` steps.
    ``max_batch``: rows (runs x batch size) in one forward pass, by default all on a GPU and 64 on a
    processor; fewer need less memory and give the same result to float tolerance, and to the bit
    where ``models.frozen`` applies.
    ``compile``: the network through ``torch.compile``. ``checkpointing``: recompute the network's
    activations in the backward pass, which takes a third more time and a fraction of the memory.
    ``captured``: each step as one function of static shapes, on a GPU a CUDA graph
    (``steps.CapturedStep``); the same to rounding, and the losses leave the device only when they
    are logged. ``observers``: called with a run's key and each line of its log.

    Raises UserError for no runs, keys that are not unique, unfit images, missing masks, a
    checkpoint in ``folder`` that other runs or settings have made, and as ``TrainingRun.prepare``
    and the method's ``begin`` do.
    """
    if max_batch is None:
        max_batch = 64 if model.device.type == "cpu" else max(1, len(runs) * settings.batch_size)
    prepared = [run.prepare(model) if isinstance(run, TrainingRun) else run for run in runs]
    injection = ready(
        model,
        prepared,
        settings,
        max_batch=max_batch,
        compile=compile,
        captured=captured,
        checkpointing=checkpointing,
    )
    key = _training_key(model, prepared, settings)
    checkpoint = None if folder is None else folder / CHECKPOINT
    state = None if checkpoint is None else load_state(checkpoint, key, model.device)
    if state is None:
        state = State.start(injection.initial, len(prepared))
    result = partial(_adapters, model, prepared, settings, state)
    if _finished(state, settings):
        return result(settings.steps)
    data = training_data(model, prepared, flip=settings.flip, max_batch=max_batch)
    network = torch.compile(model.predict, dynamic=False) if compile else model.predict
    prior = prior_data(model, prepared, max_batch=max_batch) if settings.prior_weight else None
    before = partial(untrained, model, injection, max_batch)
    sampler = Sampler(model, prepared, settings, data, prior, injection.templates, before)
    parts = Parts(model, settings, injection, sampler, network, max_batch)
    if folder is not None:
        for run in prepared:
            truncate_log(log_path(folder, run.key), state.step)
    step: Callable[[], None] = CapturedStep(parts, state) if captured else EagerStep(parts, state)
    marks = set(mark_steps(settings.steps))
    bar = tqdm(
        total=settings.steps,
        initial=state.step,
        desc=f"training {len(prepared)} run{'s' if len(prepared) > 1 else ''}",
        unit="step",
        disable=not progress,
    )
    with model.checkpointed(checkpointing), bar:
        last = False
        while not last:
            step()
            bar.update()
            logged = state.step % settings.log_every == 0 or state.step == settings.steps
            last = (logged or not captured) and _finished(state, settings)
            if state.step in marks:
                state.history += kept(state.parameters)
            if last or logged:
                _log(state, prepared, settings, folder, observers)
                bar.set_postfix(loss=f"{float(state.last_loss.nanmean()):.4f}", refresh=False)
            if checkpoint is not None and (last or _due(state.step, settings.checkpoint_every)):
                save_state(state, checkpoint, key)
            if preview is not None and _due(state.step, settings.preview_every):
                preview(state.step, result(state.step))
    return result(settings.steps)
