"""What a stage's artifact takes: floating-point operations, counted, and bytes on disk.

Multiply and add are two operations. One pass of the denoiser is timed on this machine, and all
operations are taken to run as fast; scoring and preprocessing are not counted.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from safezone.lab.lab import Lab
from safezone.lab.run import Run
from safezone.models.base import Conditioning, Model
from safezone.models.frozen import stock_kernels
from safezone.poisons.table import reads

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
    poison: tuple[float, float]
    """Through the encoders, and through the denoisers, of all models that poisons are made on."""


@torch.no_grad()
def count_passes(model: Model, poisoning: Sequence[Model] = ()) -> Passes:
    """Counts each part at the model's size; times the denoiser with ``BATCH`` samples.

    ``poisoning``: the models that poisons are made on, where they are others.
    """
    encode, predict = _encode_and_predict(model)
    latents, steps, words = _inputs(model, BATCH)
    decode = _operations(lambda: model.decode(latents[:1]))

    def seconds() -> float:
        started = time.perf_counter()
        model.predict(latents, steps, words).sum().item()  # waits for a GPU
        return time.perf_counter() - started

    best = min(seconds() for _ in range(4))  # the first one warms up
    others = [_encode_and_predict(each) for each in poisoning] or [(encode, predict)]
    encoders, denoisers = (sum(parts) for parts in zip(*others, strict=True))
    per_second = BATCH * predict / max(best, 1e-9)
    return Passes(encode, predict, decode, per_second, (encoders, denoisers))


def _image(model: Model) -> Tensor:
    return torch.full((1, 3, model.image_size, model.image_size), 0.5, device=model.device)


def _inputs(model: Model, count: int = 1) -> tuple[Tensor, Tensor, Conditioning]:
    latents = model.encode(_image(model)).mean.expand(count, -1, -1, -1)
    steps = torch.zeros(count, dtype=torch.long, device=model.device)
    return latents, steps, model.embed_text(model.tokenize(["a photo"] * count))


def _encode_and_predict(model: Model) -> tuple[float, float]:
    image, inputs = _image(model), _inputs(model)
    return _operations(lambda: model.encode(image)), _operations(lambda: model.predict(*inputs))


def _operations(call: Callable[[], object]) -> float:
    with stock_kernels(), FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def poison_operations(lab: Lab, run: Run, passes: Passes) -> float:
    """Every step goes through the encoder and, where the poison reads a prompt, the denoiser, and
    back, once for each repetition."""
    if (run.concept, run.poison) in lab.given:
        return 0.0
    row, images = lab.poison_settings(run), len(lab.concepts[run.concept].images)
    encoders, denoisers = passes.poison
    through = encoders + denoisers if reads(row.objective, "prompt") else encoders
    return BACKWARD * through * images * row.steps * row.repetitions


def training_operations(lab: Lab, run: Run, passes: Passes) -> float:
    """Every step goes through the denoiser and back with all images that it averages over."""
    training = lab.training(run)
    samples = training.batch_size * training.accumulation * (2 if training.prior_weight else 1)
    return BACKWARD * passes.predict * training.steps * samples


def images_of(lab: Lab) -> int:
    """How many images are drawn with one adapter."""
    return len(lab.settings.sampling.texts()) * lab.settings.sampling.images_per_prompt


def image_operations(lab: Lab, run: Run, passes: Passes) -> float:
    """Every image goes through the denoiser at each step, twice with guidance, and is decoded."""
    sampling = lab.settings.sampling
    predictions = sampling.steps * (1 if sampling.guidance == 1 else 2)
    return images_of(lab) * (passes.predict * predictions + passes.decode)


def concept_size(lab: Lab, run: Run) -> float:
    """The bytes of a concept's images as PNG, each about half of its pixels'."""
    return 1.5 * lab.model.image_size**2 * len(lab.concepts[run.concept].images)


def image_size(lab: Lab, run: Run) -> float:
    """The bytes of a run's generated images, likewise."""
    return 1.5 * lab.model.image_size**2 * images_of(lab)
