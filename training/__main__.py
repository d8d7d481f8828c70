"""Trains the built-in models from the mini world: ``python -m training``.

Every stage resumes from its last checkpoint below ``--work`` and is skipped when it is done;
``export`` writes the pipeline's folder; ``classifier``, ``instance`` and ``clip`` write those of
the scoring networks, ``pixel`` that of the purifiers' model, ``v`` and ``rf`` those of the twins
that predict velocity and rectified flow, trained from the pipeline that ``export`` wrote. Settings
are in ``RECIPES``, one for a GPU and one for processors alone; what the result is worth:
``python -m training.quality``.
"""

import argparse
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from safezone.errors import UserError
from safezone.models.known import WEIGHTS
from safezone.models.pixel import MINI_PIXEL
from training import autoencoder as ae
from training import encoders, export, instance
from training.corpus import (
    PAIR_SEED,
    TRAIN_SEED,
    Corpus,
    photographs,
    render_corpus,
    render_objects,
)
from training.denoiser import Batches, cache_posteriors, new_unet, train_denoiser
from training.loop import Budget
from training.parallel import launch
from training.pixels import export_pixels, train_pixels
from training.sensitivity import freeze_decoder, train_sensitivity
from training.text import WIDTH, build_tokenizer, new_text_encoder
from training.twins import TWINS, export_twin, train_twin

SCORING: Final = ("classifier", "instance", "clip")
PIPELINE: Final = ("autoencoder", "sensitivity", "denoiser")
STAGES: Final = ("corpus", *PIPELINE, "export", *SCORING, "pixel", *TWINS)


@dataclass(frozen=True)
class Recipe:
    """On how much each stage trains, for how many steps, in batches of which size."""

    pictures: int
    first: int
    """Pictures of the autoencoder, which starts before all are rendered."""
    pairs: int
    objects: int
    """Pictures of the classifier."""
    steps: Mapping[str, int]
    batch: Mapping[str, int]
    denoiser_rate: float
    twin_rate: float
    pixel_rate: float
    ema: float
    """Of the denoiser's moving average."""


RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType(
    {
        # Seven minutes of an H200 made the prototype of these weights; docs/builtin-model.md.
        "cuda": Recipe(
            pictures=120_000,
            first=8_000,
            pairs=20_000,
            objects=60_000,
            steps={
                "autoencoder": 1_800,
                "sensitivity": 1_600,
                "denoiser": 2_800,
                "classifier": 4_000,
                "instance": 1_200,
                "clip": 900,
                "pixel": 2_800,
                "v": 500,
                "rf": 500,
            },
            batch={
                "autoencoder": 192,
                "sensitivity": 32,
                "denoiser": 1024,
                "classifier": 256,
                "instance": 128,
                "clip": 192,
                "pixel": 64,
                "v": 1024,
                "rf": 1024,
            },
            denoiser_rate=1.6e-3,
            twin_rate=1.2e-3,
            pixel_rate=1.2e-3,
            ema=0.9995,
        ),
        # Many hours of two cores.
        "cpu": Recipe(
            pictures=30_000,
            first=8_000,
            pairs=8_000,
            objects=40_000,
            steps={
                "autoencoder": 6_000,
                "sensitivity": 1_600,
                "denoiser": 40_000,
                "classifier": 3_000,
                "instance": 1_200,
                "clip": 900,
                "pixel": 2_800,
                "v": 4_000,
                "rf": 4_000,
            },
            batch={
                "autoencoder": 16,
                "sensitivity": 8,
                "denoiser": 48,
                "classifier": 64,
                "instance": 64,
                "clip": 96,
                "pixel": 16,
                "v": 48,
                "rf": 48,
            },
            denoiser_rate=1.3e-3,
            twin_rate=1e-3,
            pixel_rate=6e-4,
            ema=0.999,
        ),
        # So small that a test can wait for it: 20 steps of everything.
        "tiny": Recipe(
            pictures=24,
            first=24,
            pairs=16,
            objects=16,
            steps=dict.fromkeys((*PIPELINE, *SCORING, "pixel", *TWINS), 20),
            batch=dict.fromkeys((*PIPELINE, *SCORING, "pixel", *TWINS), 2),
            denoiser_rate=1.3e-3,
            twin_rate=1e-3,
            pixel_rate=6e-4,
            ema=0.9,
        ),
    }
)


@dataclass(frozen=True)
class Plan:
    """What the stages need to know. ``seconds``: the denoiser's time instead of its steps."""

    work: Path
    out: Path
    recipe: Recipe
    device: torch.device
    workers: int
    start: Path | None
    photos: Path | None
    seconds: float | None

    @property
    def corpus(self) -> Corpus:
        return Corpus(self.work / "train")

    def budget(self, stage: str) -> Budget:
        seconds = self.seconds if stage == "denoiser" else None
        return Budget(self.recipe.steps[stage], seconds)

    def in_parallel(self, task: Callable[..., None], *arguments: Any) -> None:
        """Processes that average their gradients on processors, one process on a GPU."""
        launch(self.workers if self.device.type == "cpu" else 1, task, *arguments)


def _tokenizer(plan: Plan) -> CLIPTokenizer:
    folder = plan.work / "tokenizer"
    if not (folder / "vocab.json").exists():
        if plan.start is None:
            build_tokenizer(folder)
        else:
            shutil.copytree(plan.start / "tokenizer", folder, dirs_exist_ok=True)
    return CLIPTokenizer.from_pretrained(folder)


def _first_vae(plan: Plan) -> AutoencoderKL:
    """The autoencoder that was trained here, else ``--start``'s, in single precision."""
    checkpoint = plan.work / "autoencoder.safetensors"
    if checkpoint.exists():
        model = ae.new_autoencoder()
        export.averaged(model, "vae", checkpoint)
    elif plan.start is not None:
        model = AutoencoderKL.from_pretrained(plan.start / "vae", torch_dtype=torch.float32)
    else:
        raise UserError(
            f"{checkpoint} is missing; run the stage autoencoder first, or give --start with the "
            "folder of a trained model"
        )
    return model


def _vae(plan: Plan) -> AutoencoderKL:
    """The same, with the sensitive encoder where that was trained; frozen."""
    model, checkpoint = _first_vae(plan), plan.work / "sensitivity.safetensors"
    if checkpoint.exists():
        freeze_decoder(model)
        export.averaged(model, "vae", checkpoint)
    return model.eval().requires_grad_(False)


def _batches(plan: Plan, stage: str, scale: float, stream: int) -> Batches:
    tokenizer = _tokenizer(plan)
    posteriors = cache_posteriors(plan.work, _vae(plan), plan.corpus, plan.device)
    empty = tokenizer("", padding="max_length").input_ids
    tokens = plan.corpus.tokens(tokenizer)
    size = plan.recipe.batch[stage]
    return Batches(posteriors, scale, tokens, empty, size, plan.device, stream=(stream,))


def _autoencoder(plan: Plan) -> None:
    corpus, photos = Corpus(plan.work / "first"), photographs(plan.photos)
    ae.train_autoencoder(
        plan.work,
        corpus,
        photos,
        plan.budget("autoencoder"),
        plan.device,
        batch=plan.recipe.batch["autoencoder"],
    )


def _sensitivity(plan: Plan) -> None:
    corpus, start = Corpus(plan.work / "first"), _first_vae(plan)
    train_sensitivity(
        plan.work,
        start,
        corpus,
        photographs(plan.photos),
        plan.budget("sensitivity"),
        plan.device,
        ae.measure_scale(start, corpus),
        batch=plan.recipe.batch["sensitivity"],
    )


def _denoiser(plan: Plan, scale: float) -> None:
    unet, text_encoder = new_unet(WIDTH), new_text_encoder(_tokenizer(plan))
    train_denoiser(
        plan.work,
        _batches(plan, "denoiser", scale, 3),
        unet.train(),
        text_encoder.train(),
        plan.budget("denoiser"),
        rate=plan.recipe.denoiser_rate,
        ema=plan.recipe.ema,
    )


def _twin(plan: Plan, stage: str, scale: float) -> None:
    train_twin(
        stage,
        plan.work,
        plan.out / "mini",
        _batches(plan, stage, scale, 5 + list(TWINS).index(stage)),
        plan.budget(stage),
        rate=plan.recipe.twin_rate,
        ema=min(plan.recipe.ema, 0.999),
    )


def _pixel(plan: Plan) -> None:
    train_pixels(
        plan.work,
        plan.corpus,
        photographs(plan.photos),
        plan.budget("pixel"),
        plan.device,
        batch=plan.recipe.batch["pixel"],
        rate=plan.recipe.pixel_rate,
    )


def _export(plan: Plan) -> None:
    """Of what was trained here; U-Net and text encoder are ``--start``'s where they were not."""
    tokenizer, vae = _tokenizer(plan), _vae(plan)
    checkpoint = plan.work / "denoiser.safetensors"
    if plan.start is not None and not checkpoint.exists():
        unet = UNet2DConditionModel.from_pretrained(plan.start / "unet")
        text_encoder = CLIPTextModel.from_pretrained(plan.start / "text_encoder")
        scale = AutoencoderKL.load_config(plan.start / "vae")["scaling_factor"]
    else:
        unet, text_encoder = new_unet(WIDTH), new_text_encoder(tokenizer)
        export.averaged(unet, "unet", checkpoint)
        export.averaged(text_encoder, "text_encoder", checkpoint)
        scale = ae.measure_scale(vae, plan.corpus)
    export.export_pipeline(
        plan.out / "mini", vae, text_encoder, tokenizer, unet, scale, plan.work / "tokenizer"
    )


def _scoring(plan: Plan, stage: str) -> Callable[[Path], None]:
    """Trains one scoring network; returns what writes it into a folder."""
    budget, batch, device = plan.budget(stage), plan.recipe.batch[stage], plan.device
    if stage == "classifier":
        objects = render_objects(plan.work / "objects", plan.recipe.objects, plan.workers)
        classifier = encoders.train_classifier(plan.work, objects, budget, device, batch=batch)
        return lambda folder: encoders.save_classifier(folder, classifier)
    if stage == "instance":
        pairs = instance.render_pairs(plan.work, PAIR_SEED, plan.recipe.pairs)
        network = instance.train_instance(plan.work, pairs, budget, device, batch=batch)
        return lambda folder: instance.save_instance(folder, network)
    tokenizer = _tokenizer(plan)
    clip = encoders.train_clip(plan.work, plan.corpus, tokenizer, budget, device, batch=batch)
    return lambda folder: encoders.save_clip(folder, clip, tokenizer)


def run(plan: Plan, stages: tuple[str, ...]) -> None:
    """Runs the stages in their order; the corpus is rendered while the autoencoder trains."""
    recipe = plan.recipe
    with ThreadPoolExecutor(1) as background:
        rendering = None
        if "corpus" in stages:
            render_corpus(plan.work / "first", TRAIN_SEED, recipe.first, plan.workers)
            rendering = background.submit(
                render_corpus, plan.work / "train", TRAIN_SEED, recipe.pictures, plan.workers
            )
            if plan.device.type == "cpu":  # the processors are the autoencoder's then
                rendering.result()
        if "autoencoder" in stages:
            plan.in_parallel(_autoencoder, plan)
        if rendering is not None:
            rendering.result()
    if "sensitivity" in stages:
        plan.in_parallel(_sensitivity, plan)
    if {"denoiser", *TWINS} & set(stages):
        # Before the processes part: each of them reads what is written here.
        vae = _vae(plan)
        scale = ae.measure_scale(vae, plan.corpus)
        cache_posteriors(plan.work, vae, plan.corpus, plan.device)
        plan.corpus.tokens(_tokenizer(plan))
    if "denoiser" in stages:
        plan.in_parallel(_denoiser, plan, scale)
    if "export" in stages:
        _export(plan)
    for name in [name for name in SCORING if name in stages]:
        export.replace_folder(plan.out / f"mini-{name}", _scoring(plan, name))
    if "pixel" in stages:
        plan.in_parallel(_pixel, plan)
        export_pixels(plan.out / MINI_PIXEL, plan.work / "pixel.safetensors")
    for twin in [twin for twin in TWINS if twin in stages]:
        plan.in_parallel(_twin, plan, twin, scale)
        export_twin(twin, plan.work, plan.out / "mini", plan.out)


def main(arguments: list[str] | None = None) -> None:
    """Runs the stages asked for, all of them by default."""
    parser = argparse.ArgumentParser(prog="python -m training")
    parser.add_argument("--stage", action="append", choices=STAGES, help="may be repeated")
    parser.add_argument("--work", type=Path, default=Path("work-train"), help="checkpoints")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the weights go")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--recipe", choices=tuple(RECIPES), help="by default the device's own")
    parser.add_argument("--workers", type=int, default=2, help="processes, one core each")
    parser.add_argument(
        "--start",
        type=Path,
        help="a trained folder, whose parts are used where --work has none",
    )
    parser.add_argument("--steps", type=int, help="of every stage instead of the recipe's")
    parser.add_argument("--seconds", type=float, help="of the denoiser instead of its steps")
    parser.add_argument("--photos", type=Path, help="a folder of photographs for the autoencoder")
    options = parser.parse_args(arguments)
    recipe = RECIPES[options.recipe or options.device]
    if options.steps is not None:
        recipe = replace(recipe, steps=dict.fromkeys(recipe.steps, options.steps))
    if options.device == "cpu":
        torch.set_num_threads(1)
    else:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    plan = Plan(
        options.work,
        options.out,
        recipe,
        torch.device(options.device),
        options.workers,
        options.start,
        options.photos,
        options.seconds,
    )
    try:
        run(plan, tuple(options.stage or STAGES))
    except UserError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
