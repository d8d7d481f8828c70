"""Trains the built-in models from the mini world: ``python -m training``.

Every stage resumes from its last checkpoint below ``--work`` and is skipped when it is done;
``export`` writes the pipeline's folder; ``classifier``, ``instance`` and ``clip`` write those of
the scoring networks, ``pixel`` that of the purifiers' model, ``v`` and ``rf`` those of the twins
that predict velocity and rectified flow, trained from the pipeline that ``export`` wrote. Settings
are in ``Recipe``; what the result is worth: ``python -m training.quality``.
"""

import argparse
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTokenizer

from safezone.errors import UserError
from safezone.models.builtin import WEIGHTS
from safezone.models.pixel import MINI_PIXEL
from training import autoencoder as ae
from training import encoders, export, instance
from training.corpus import (
    PAIR_SEED,
    TRAIN_SEED,
    Corpus,
    photographs,
    render_corpus,
)
from training.denoiser import (
    cache_posteriors,
    new_unet,
    train_denoiser,
)
from training.parallel import launch
from training.pixels import export_pixels, train_pixels
from training.text import WIDTH, build_tokenizer, new_text_encoder
from training.twins import TWINS, export_twin, open_vae, train_twin

SCORING = ("classifier", "instance", "clip")
STAGES = ("corpus", "autoencoder", "denoiser", "decoder", "export", *SCORING, "pixel", *TWINS)


@dataclass(frozen=True)
class Recipe:
    """How long each stage trains (steps) and on how much."""

    scenes: int = 30_000
    pairs: int = 8_000
    autoencoder: int = 2_800
    denoiser: int = 12_000
    decoder: int = 900
    classifier: int = 4_000
    instance: int = 1_200
    clip: int = 900
    pixel: int = 2_800
    v: int = 2_000
    rf: int = 2_000


def _autoencoder(work: Path, start: Path | None) -> AutoencoderKL:
    """The trained autoencoder, with the fine-tuned decoder once there is one, else ``start``'s."""
    if not (work / "autoencoder.safetensors").exists():
        if start is None:
            raise UserError(
                f"{work}/autoencoder.safetensors is missing; run the stage autoencoder first, or "
                "give --start with the folder of a trained model"
            )
        return AutoencoderKL.from_pretrained(start / "vae").eval().requires_grad_(False)
    model = ae.new_autoencoder().eval().requires_grad_(False)
    for stage in ("autoencoder", "decoder"):
        checkpoint = work / f"{stage}.safetensors"
        if checkpoint.exists():
            export.averaged(model, "vae", checkpoint)
    return model


def _tokenizer(work: Path, start: Path | None) -> CLIPTokenizer:
    folder = work / "tokenizer"
    if not (folder / "vocab.json").exists():
        if start is None:
            build_tokenizer(folder)
        else:
            shutil.copytree(start / "tokenizer", folder, dirs_exist_ok=True)
    return CLIPTokenizer.from_pretrained(folder)


def _train_denoiser(
    work: Path, recipe: Recipe, workers: int, scale: float, start: Path | None
) -> None:
    corpus = Corpus(work / "train")
    tokenizer = _tokenizer(work, start)
    posteriors = cache_posteriors(work, _autoencoder(work, start), corpus, workers)
    unet, text_encoder = new_unet(WIDTH), new_text_encoder(tokenizer)
    if start is not None:
        earlier = StableDiffusionPipeline.from_pretrained(start, safety_checker=None)
        if earlier.unet.config.block_out_channels == unet.config.block_out_channels:
            unet.load_state_dict(earlier.unet.state_dict())
        text_encoder.load_state_dict(earlier.text_encoder.state_dict())
    train_denoiser(
        work,
        posteriors,
        scale,
        tokenizer,
        unet.to(memory_format=torch.channels_last),
        text_encoder,
        recipe.denoiser,
    )


def _train_scoring(
    stage: str, work: Path, recipe: Recipe, start: Path | None
) -> Callable[[Path], None]:
    """Trains one scoring network; returns what writes it into a folder."""
    corpus = Corpus(work / "train")
    if stage == "classifier":
        classifier = encoders.train_classifier(work, corpus, recipe.classifier)
        return lambda folder: encoders.save_classifier(folder, classifier)
    if stage == "instance":
        pairs = instance.render_pairs(work, PAIR_SEED, recipe.pairs)
        network = instance.train_instance(work, pairs, recipe.instance)
        return lambda folder: instance.save_instance(folder, network)
    tokenizer = _tokenizer(work, start)
    clip = encoders.train_clip(work, corpus, tokenizer, recipe.clip)
    return lambda folder: encoders.save_clip(folder, clip, tokenizer)


def _export(work: Path, out: Path, start: Path | None) -> None:
    tokenizer, vae = _tokenizer(work, start), _autoencoder(work, start)
    unet, text_encoder = new_unet(WIDTH), new_text_encoder(tokenizer)
    export.averaged(unet, "unet", work / "denoiser.safetensors")
    export.averaged(text_encoder, "text_encoder", work / "denoiser.safetensors")
    scale = ae.measure_scale(vae, Corpus(work / "train"))
    export.export_pipeline(
        out / "mini", vae, text_encoder, tokenizer, unet, scale, work / "tokenizer"
    )


def main(arguments: list[str] | None = None) -> None:
    """Runs the stages asked for, all of them by default."""
    parser = argparse.ArgumentParser(prog="python -m training")
    parser.add_argument("--stage", action="append", choices=STAGES, help="may be repeated")
    parser.add_argument("--work", type=Path, default=Path("work-train"), help="checkpoints")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the weights go")
    parser.add_argument("--workers", type=int, default=2, help="processes, one core each")
    parser.add_argument(
        "--start",
        type=Path,
        help="a trained folder: its U-Net and text encoder are where the denoiser starts, its "
        "autoencoder and tokenizer are used where --work has none",
    )
    parser.add_argument("--steps", type=int, help="steps of the stages v and rf")
    parser.add_argument("--photos", type=Path, help="a folder of photographs for the autoencoder")
    options = parser.parse_args(arguments)
    recipe, work = Recipe(), options.work
    stages = options.stage or STAGES
    torch.set_num_threads(1)
    if "corpus" in stages:
        render_corpus(work / "train", TRAIN_SEED, recipe.scenes, options.workers)
    corpus = Corpus(work / "train")
    if "autoencoder" in stages:
        launch(
            options.workers,
            ae.train_autoencoder,
            work,
            corpus,
            photographs(options.photos),
            recipe.autoencoder,
        )
    if "denoiser" in stages:
        vae = _autoencoder(work, options.start)
        scale = ae.measure_scale(vae, corpus)
        cache_posteriors(work, vae, corpus, options.workers)
        _tokenizer(work, options.start)
        launch(
            options.workers, _train_denoiser, work, recipe, options.workers, scale, options.start
        )
    if "decoder" in stages:
        launch(
            options.workers,
            ae.finetune_decoder,
            work,
            _autoencoder(work, options.start),
            corpus,
            photographs(options.photos),
            recipe.decoder,
        )
    if "pixel" in stages:
        photos = photographs(options.photos)
        launch(options.workers, train_pixels, work, corpus, photos, recipe.pixel)
        export_pixels(options.out / MINI_PIXEL, work / "pixel.safetensors")
    if "export" in stages:
        _export(work, options.out, options.start)
    for stage in [stage for stage in SCORING if stage in stages]:
        save = _train_scoring(stage, work, recipe, options.start)
        export.replace_folder(options.out / f"mini-{stage}", save)
    for stage in [stage for stage in TWINS if stage in stages]:
        base, steps = options.out / "mini", options.steps or getattr(recipe, stage)
        # Before the processes part: each of them reads what is written here.
        cache_posteriors(work, open_vae(base), corpus, options.workers)
        launch(options.workers, train_twin, stage, work, base, steps, options.workers)
        export_twin(stage, work, base, options.out)


if __name__ == "__main__":
    main()
