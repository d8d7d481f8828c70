"""How long a grid will take and how much disk, before it is run.

Time is an estimate: floating-point operations of the model's parts are counted (multiply and add
are two), one pass of the denoiser is timed here, and all operations are taken to run as fast.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from safezone.lab.lab import STAGES, Lab, artifacts
from safezone.lab.run import Grid
from safezone.lab.stage import done
from safezone.models.base import Model
from safezone.models.frozen import stock_kernels
from safezone.scores import CLEAN

BATCH: Final = 4
"""Samples of the pass that is timed."""
BACKWARD: Final = 2.0
"""Forward and backward of a frozen network, in forwards: activations alone have gradients."""


@dataclass(frozen=True)
class Passes:
    """Floating-point operations of one sample through each part, and those a second, measured."""

    encode: float
    predict: float
    decode: float
    per_second: float


@dataclass(frozen=True)
class Cost:
    """Of one stage. ``seconds``: of what is to do. ``size``: bytes that will be written."""

    done: int
    todo: int
    seconds: float
    size: float


@torch.no_grad()
def count_passes(model: Model) -> Passes:
    """Counts each part at the model's size; times the denoiser with ``BATCH`` samples."""
    image = torch.full((1, 3, model.image_size, model.image_size), 0.5, device=model.device)
    words = model.embed_text(model.tokenize(["a photo"]))
    latents = model.encode(image).mean
    steps = torch.zeros(1, dtype=torch.long, device=model.device)
    encode = _operations(lambda: model.encode(image))
    predict = _operations(lambda: model.predict(latents, steps, words))
    decode = _operations(lambda: model.decode(latents))
    batch = latents.expand(BATCH, -1, -1, -1)
    many = model.embed_text(model.tokenize(["a photo"] * BATCH))

    def seconds() -> float:
        started = time.perf_counter()
        model.predict(batch, steps.expand(BATCH), many).sum().item()  # waits for a GPU
        return time.perf_counter() - started

    best = min(seconds() for _ in range(4))  # the first one warms up
    return Passes(encode, predict, decode, BATCH * predict / max(best, 1e-9))


def _operations(call: Callable[[], object]) -> float:
    with stock_kernels(), FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def stage_flops(lab: Lab, grid: Grid, passes: Passes) -> dict[str, float]:
    """Operations of all that is to do of every stage; scoring and preprocessing are not counted."""
    total = dict.fromkeys(STAGES, 0.0)
    sampling = lab.settings.sampling
    images = len(sampling.texts()) * sampling.images_per_prompt
    drawn = passes.predict * sampling.steps * (1 if sampling.guidance == 1 else 2) + passes.decode
    seen = set()
    for run in grid:
        if lab.refused(run) is not None:
            continue
        poisoned, adapter, made = lab.poisoned(run), lab.adapter(run), lab.images(run)
        if run.poison != CLEAN and poisoned not in seen:
            seen.add(poisoned)
            if not poisoned.place.exists():
                step = BACKWARD * (passes.encode + passes.predict)
                count = len(lab.concepts[run.concept].images)
                total["poison"] += step * count * lab.poison_settings(run).steps
        if not adapter.place.exists():
            training = lab.training(run)
            total["personalize"] += BACKWARD * passes.predict * training.steps * training.batch_size
        if not made.place.exists():
            total["generate"] += images * drawn
    return total


def _size(lab: Lab, stage: str) -> float:
    """Bytes of one artifact: a PNG of these models takes about half of its pixels' bytes."""
    picture = 1.5 * lab.model.image_size**2
    sampling = lab.settings.sampling
    per_concept = sum(len(c.images) for c in lab.concepts.values()) / max(1, len(lab.concepts))
    return {
        "poison": 2 * picture * per_concept,
        "preprocess": picture * per_concept,
        "personalize": 50e3,
        "generate": picture * len(sampling.texts()) * sampling.images_per_prompt,
        "score": 4e3,
    }[stage]


def estimate(lab: Lab, grid: Grid, passes: Passes, workers: int = 1) -> Mapping[str, Cost]:
    """The cost of every stage; nothing is written."""
    operations = stage_flops(lab, grid, passes)
    costs = {}
    for stage, (made, record) in artifacts(lab, grid).items():
        finished = sum(done(a.place, record, a.key) for a in made)
        todo = len(made) - finished
        seconds = operations[stage] / passes.per_second / workers
        costs[stage] = Cost(finished, todo, seconds, todo * _size(lab, stage))
    return costs
