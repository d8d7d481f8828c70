"""What one item of a stage takes: a reckoned limit, and a short pass that is thrown away."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from safezone.concepts import Concept
from safezone.errors import UserError
from safezone.generate import generate
from safezone.lab.memory import Probe
from safezone.lab.meters import meter_of
from safezone.lab.settings import Sampling
from safezone.lab.training import Training
from safezone.models.base import Model
from safezone.models.fingerprint import tensors
from safezone.personalize import Adapter, PreparedRun, TrainingRun, train
from safezone.poisons import Poison, poison_images

AnyRun: TypeAlias = TrainingRun | PreparedRun
ClassImages: TypeAlias = Callable[[Model, Sequence[AnyRun], int], list[AnyRun]]

BYTES: Final = 4
KEPT: Final = 3
"""Tensors that a gradient keeps for each layer: its input, and that normalised and activated."""
CHAIN: Final = 8
"""Passes of the denoiser that one step of a poison's gradient goes through, at most."""
_AT_PIXELS: Final = ("vae",)
"""Modules whose layers may be as large as the image; those of the others are at most as large as
the latents, or as a prompt is long."""
WORDS: Final = 77


def pass_name(model: Model, *names: str) -> str:
    """Of a kind of pass, to remember it by: those of another model or poison take other memory."""
    return " ".join((*names, Path(model.name).name))


def _values(model: Model) -> tuple[float, float]:
    """Values in all outputs of all layers, of one sample: at latent size, and at pixel size.

    Every layer counts as if it were as large as the first: an upper limit, several times too high.
    """
    cells = max((model.image_size // model.factor) ** 2, WORDS)
    latent = pixel = 0.0
    for path, weight in tensors(model):
        width = weight.shape[0] if weight.ndim >= 2 else 0
        if path.split(".")[1].strip("_") in _AT_PIXELS:
            pixel += width * model.image_size**2
        else:
            latent += width * cells
    return latent, pixel


def poison_probe(model: Model, concept: Concept, poison: Poison, seed: int) -> Probe | None:
    """Of one image: a single step of its poison."""
    meter = meter_of(model.device)
    if meter is None:
        return None
    latent, pixel = _values(model)
    one = slice(0, 1)
    small = partial(
        poison_images,
        model,
        concept.pixels()[one],
        replace(poison, steps=1),
        seed,
        concept.image_names[one],
        masks=None if concept.masks is None else concept.masks[one],
        progress=False,
    )
    return Probe(meter, BYTES * KEPT * (CHAIN * latent + pixel), small)


def training_probe(
    model: Model, run: TrainingRun | PreparedRun, training: Training, class_images: ClassImages
) -> Probe | None:
    """Of one run: a single step of its training."""
    meter = meter_of(model.device)
    if meter is None:
        return None
    method = training.personalization()
    latent, _ = _values(model)
    samples = training.batch_size * (2 if method.prior else 1)

    def small() -> None:
        short = replace(method, steps=1, preview_every=0)
        runs = class_images(model, [run], 1) if method.prior else [run]
        train(model, runs, short, progress=False, checkpointing=training.checkpointing)

    return Probe(meter, BYTES * KEPT * samples * latent, small)


def image_probe(
    model: Model, adapter: Adapter, noise_key: str, seed: int, sampling: Sampling
) -> Probe | None:
    """Of one generated image: a single denoising step, and its decoding."""
    meter = meter_of(model.device)
    if meter is None:
        return None
    latent, pixel = _values(model)

    def small() -> None:
        with suppress(UserError):  # of an adapter that makes NaN; the pass itself will tell
            generate(
                model,
                [adapter],
                sampling.texts()[:1],
                1,
                seed=seed,
                noise_keys=[noise_key],
                steps=1,
                guidance=sampling.guidance,
                scheduler=sampling.scheduler,
                batch_size=1,
                progress=False,
            )

    return Probe(meter, BYTES * (2 * latent + pixel), small)
