"""Hours and disk of every table on large models, counted: prints the table of the docs.

    PYTHONPATH=src python scripts/gpu_hours.py

Multiplications and additions of U-Nets and autoencoders are counted on torch's meta device, without
weights; what a card sustains is an assumption, stated below.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from safezone.lab.run import Run, Scope
from safezone.lab.variants import training_of
from safezone.models.known import KNOWN
from safezone.paper.named import finding, headline, settings_for
from safezone.paper.rows import PAPER, PaperRow
from safezone.scores import CLEAN

SUSTAINED = {"24 GB": 30e12, "80 GB": 60e12}
"""Operations a second in float32 with TF32 convolutions: about a third of what such cards claim."""
CARDS = 8
SHARED = 0.94
"""What is left of eight cards' speed when they share the work."""
CONCEPTS = {"NovelConcepts10": 10, "CustomConcept101": 101}
IMAGES = 5
"""Of one concept."""
BACKWARD = 2.0
"""Forward and backward of a frozen network, in forwards."""
WEIGHTS = 0.5
"""More for the gradients of some layers' weights."""
PURIFY = {"regen": 60, "pdmpure": 100}
"""Passes of a network for one image; PDMPure's own network counts as one of this size."""


def _count(call: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return float(counter.get_total_flops())


def _unet(model: str) -> Any:
    shape: dict[str, Any] = {"block_out_channels": (320, 640, 1280, 1280)}
    shape |= {"cross_attention_dim": 768, "attention_head_dim": 8}
    if model.startswith("sd21"):
        shape |= {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20)}
        shape |= {"use_linear_projection": True}
    if model == "sdxl":
        crossed = ("CrossAttnDownBlock2D",) * 2, ("CrossAttnUpBlock2D",) * 2
        shape = {
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", *crossed[0]),
            "up_block_types": (*crossed[1], "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "use_linear_projection": True,
        }
    with torch.device("meta"):
        return UNet2DConditionModel(**shape)


def sd_vae() -> AutoencoderKL:
    """The autoencoder of Stable Diffusion and XL, without memory for its weights."""
    with torch.device("meta"):
        return AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )


def passes(model: str) -> tuple[float, float, float]:
    """Operations of one sample through encoder, U-Net and decoder."""
    side = KNOWN[model].image_size
    unet, vae = _unet(model), sd_vae()
    with torch.device("meta"):
        image, latents = torch.empty(1, 3, side, side), torch.empty(1, 4, side // 8, side // 8)
        words = torch.empty(1, 77, unet.config.cross_attention_dim)
    return (
        _count(lambda: vae.encode(image)),
        _count(lambda: unet(latents, torch.zeros(1, device="meta"), words)),
        _count(lambda: vae.decode(latents)),
    )


def operations(
    row: PaperRow, runs: set[Run], counted: Mapping[str, tuple[float, float, float]]
) -> float:
    """All of these runs of one concept and seed, poisons and purified images once.

    Poisons are made and images purified on SD 1.5, by whatever model they are met.
    """
    _, predict, decode = counted[row.model]
    encode, denoise, _ = counted["sd15"]
    settings = settings_for(row, row.model)
    total = 0.0
    for poison in {run.poison for run in runs} - {CLEAN}:
        made = settings.poisoning.poison(poison)
        total += made.steps * made.repetitions * IMAGES * BACKWARD * (encode + denoise)
    for poison in {run.poison for run in runs}:
        defenses = {run.defense for run in runs if run.poison == poison}
        for name, count in PURIFY.items():
            total += IMAGES * count * denoise * sum(name in each.split("+") for each in defenses)
    sampling = settings.sampling
    for run in runs:
        training = training_of(settings.training, run.method, settings.model)
        step = BACKWARD + WEIGHTS * (training.method != "ti")
        prior = 2 if training.prior_weight else 1  # as many images of the class
        passes = training.steps * training.batch_size * training.accumulation
        total += prior * step * predict * passes
        images = len(sampling.texts()) * sampling.images_per_prompt
        total += images * (2 * sampling.steps * predict + decode)
    return total


def _hours(count: float, card: str) -> str:
    hours = count / SUSTAINED[card] / 3600
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}"


def main() -> None:
    """Prints one line a table, and the sums."""
    counted = {model: passes(model) for model in {row.model for row in PAPER.values()}}
    seen: dict[tuple[str, str, Run], str] = {}
    print("| table | what | the paper | new runs | 24 GB, h | 80 GB, h | 8 x 80 GB, h | disk, GB |")
    print("|---|---|---|---|---|---|---|---|")
    totals = dict.fromkeys(CONCEPTS, 0.0)
    for name, row in PAPER.items():
        if row.figure is not None:  # the runs of tables 1 and 17
            continue
        grid = row.build(Scope(row.model, ("any",), (0,)))
        keys = {(row.dataset, row.model, run) for run in grid}
        fresh = {run for dataset, model, run in keys if (dataset, model, run) not in seen}
        words = f"| `{name}` | {headline(row).rstrip('.')} | {finding(row)} |"
        if not fresh:
            latest = max((seen[key] for key in keys), key=list(PAPER).index)
            print(f"{words} with {latest} |  |  |  |  |")
            continue
        seen |= dict.fromkeys(keys - seen.keys(), name)
        count = CONCEPTS[row.dataset]
        total = count * operations(row, fresh, counted)
        totals[row.dataset] += total
        sampling = settings_for(row, row.model).sampling
        images = len(sampling.texts()) * sampling.images_per_prompt
        size = len(fresh) * count * images * 1.5 * KNOWN[row.model].image_size ** 2 / 1e9
        eight = total / CARDS / SHARED
        print(
            f"{words} {len(fresh) * count:,} | {_hours(total, '24 GB')} | "
            f"{_hours(total, '80 GB')} | {_hours(eight, '80 GB')} | {size:.1f} |"
        )
    for dataset, total in totals.items():
        hours = [_hours(total, card) for card in SUSTAINED]
        eight = total / CARDS / SHARED
        print(f"{dataset}: {hours[0]} h, {hours[1]} h, {_hours(eight, '80 GB')} h")


if __name__ == "__main__":
    main()
