"""From runs and a method to adapters."""

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeAlias

import torch

from safezone.models.base import Model
from safezone.personalize.adapters import Adapter
from safezone.personalize.engine import Observer, TrainingOutcome, fit
from safezone.personalize.history import VECTORS
from safezone.personalize.personalization import Personalization
from safezone.personalize.runs import PreparedRun, TrainingRun

AdapterPreview: TypeAlias = Callable[[int, list[Adapter]], None]


def train(
    model: Model,
    runs: Sequence[TrainingRun | PreparedRun],
    settings: Personalization,
    folder: Path | None = None,
    *,
    progress: bool = True,
    preview: AdapterPreview | None = None,
    max_batch: int | None = None,
    compile: bool = False,
    checkpointing: bool = False,
    captured: bool = False,
    observers: Sequence[Observer] = (),
) -> list[Adapter]:
    """Learns what the method says for all runs in one pass a step; adapters in the runs' order.

    A ``TrainingRun`` is first prepared: its defense's preprocess runs on its images.

    ``preview(step, adapters)``, such as ``safezone.generate.preview_writer`` makes, is called every
    ``settings.preview_every`` steps; the rest is as in ``engine.fit``. A run that became NaN comes
    back as ``failed``.

    Raises UserError as ``TrainingRun.prepare``, ``engine.fit`` and the method's ``begin`` do.
    """
    prepared = [run.prepare(model) if isinstance(run, TrainingRun) else run for run in runs]

    def adapters(step: int, outcomes: Sequence[TrainingOutcome]) -> list[Adapter]:
        return [
            _adapter(model, run, settings, step, outcome)
            for run, outcome in zip(prepared, outcomes, strict=True)
        ]

    def show(step: int, outcomes: Sequence[TrainingOutcome]) -> None:
        if preview is not None:
            preview(step, adapters(step, outcomes))

    outcomes = fit(
        model,
        prepared,
        settings,
        folder,
        progress=progress,
        preview=show,
        max_batch=max_batch,
        compile=compile,
        checkpointing=checkpointing,
        captured=captured,
        observers=observers,
    )
    return adapters(settings.steps, outcomes)


def _adapter(
    model: Model, run: PreparedRun, settings: Personalization, step: int, outcome: TrainingOutcome
) -> Adapter:
    parameters = {name: value.cpu() for name, value in outcome.parameters.items()}
    trigger, deltas = settings.trigger(run.concept), settings.deltas(parameters)
    prompts = settings.prompts_of(run, len(run.concept.images))
    placeholder = run.concept.placeholder if settings.vectors else None
    unseen = model.unseen(prompts, placeholder, max(1, settings.vectors))
    return Adapter(
        vectors=parameters.get(VECTORS, torch.zeros(0, model.embedding_width)),
        placeholder=run.concept.placeholder,
        class_word=run.concept.class_word,
        provenance={
            "method": settings.name,
            "run": run.key,
            "concept": run.concept.name,
            "concept_content_key": run.concept.content_key(),
            **run.record,
            **({"unseen": unseen} if unseen else {}),
            "model": model.name,
            "precision": model.precision,
            "seed": run.seed,
            "step": step,
            "failed_at": outcome.failed_at,
            "final_loss": outcome.loss if outcome.loss == outcome.loss else None,
            "settings": dict(settings.content()),
            "version": _version(),
        },
        deltas=deltas,
        history=outcome.history,
        trigger=trigger,
        widths=model.embedding_widths if len(model.embedding_widths) > 1 else (),
        convolutions=model.convolutions & deltas.keys(),
    )


def _version() -> str:
    try:
        return version("safezone")
    except PackageNotFoundError:  # run from a source folder
        return "unknown"
