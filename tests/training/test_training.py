"""The training of the built-in models: resumable, its pieces as they claim to be."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from safezone import miniworld
from safezone.errors import UserError
from safezone.images import write_png
from safezone.models import Epsilon, RectifiedFlow, Velocity, load_model
from safezone.models.pixel import MINI_PIXEL, load_pixel_model
from tiny import write_tiny_folder
from training.__main__ import main
from training.autoencoder import new_autoencoder
from training.corpus import (
    ABSENT,
    CAPTIONS,
    HELD_OUT_SEED,
    Corpus,
    photographs,
    render_corpus,
    render_objects,
)
from training.denoiser import Batches, new_unet
from training.encoders import ATTRIBUTES, shrunken
from training.loop import Budget, train, trapezoid
from training.pixels import export_pixels, train_pixels
from training.text import LENGTH, WIDTH, WORDS, build_tokenizer, learn_merges, new_text_encoder
from training.twins import export_twin, train_twin

CPU = torch.device("cpu")


def _module() -> nn.Module:
    torch.manual_seed(3)
    return nn.Linear(4, 2)


def _loss(module: nn.Module, stop_at: int | None = None) -> object:
    def loss_at(step: int) -> Tensor:
        if step == stop_at:
            raise KeyboardInterrupt
        inputs = torch.from_numpy(np.random.default_rng([9, step]).standard_normal((8, 4)))
        output: Tensor = module(inputs.float())
        return output.square().mean()

    return loss_at


def test_resumed_training_equals_undisturbed(tmp_path: Path) -> None:
    whole, halted = _module(), _module()
    options = {"checkpoint_every": 5}
    train("m", tmp_path / "a", {"m": whole}, _loss(whole), Budget(20), 1e-2, **options)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        train("m", tmp_path / "b", {"m": halted}, _loss(halted, 13), Budget(20), 1e-2, **options)  # type: ignore[arg-type]
    again = _module()
    train("m", tmp_path / "b", {"m": again}, _loss(again), Budget(20), 1e-2, **options)  # type: ignore[arg-type]
    for mine, theirs in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs)


PROGRAM = """
import sys, time
from pathlib import Path
import torch
from training.loop import Budget, train
from training.parallel import launch, rank

def task(folder):
    time.sleep(rank())  # the clock of the second one starts later
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    def loss_at(step):
        time.sleep(0.05)
        return model(torch.ones(1, 2)).square().mean()
    train("m", folder, {"m": model}, loss_at, Budget(1, seconds=2), 1e-2)
    (folder / f"{rank()}.txt").write_text(str([p.tolist() for p in model.parameters()]))

if __name__ == "__main__":
    launch(2, task, Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_processes_that_train_for_a_time_end_at_one_step_and_are_equal(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path)]
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, check=True, timeout=300, env=paths)
    assert (tmp_path / "0.txt").read_text() == (tmp_path / "1.txt").read_text()


def test_rate_rises_stays_then_falls() -> None:
    rates = [trapezoid(step, step / 1000, 1.0, warmup=100) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[100:751] == [1.0] * 651
    assert rates[750:] == sorted(rates[750:], reverse=True)
    assert rates[-1] == pytest.approx(0.02, abs=1e-3)


def test_rate_before_the_fall_does_not_depend_on_the_length() -> None:
    assert [trapezoid(s, s / 1000, 1.0) for s in range(700)] == [
        trapezoid(s, s / 4000, 1.0) for s in range(700)
    ]


def test_every_word_of_the_world_is_one_token(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path / "tokenizer")
    for word in WORDS:
        if word.isalpha():
            assert len(tokenizer(word).input_ids) == 3, word
    ids = tokenizer("a photo of a zeppelin", padding="max_length").input_ids
    assert len(ids) == LENGTH
    assert tokenizer.unk_token_id not in tokenizer("a photo of a zeppelin").input_ids[1:-1]


def test_the_same_words_give_the_same_merges() -> None:
    words = ["low", "lower", "slow", "new", "newer"]
    merges = learn_merges(reversed(words))
    assert merges == learn_merges(words)
    # by hand: "lo" and "we" and "ne" are in three, two and two words
    assert merges[0] == ("l", "o")
    assert {"".join(pair) for pair in merges} >= {f"{word}</w>" for word in words}


def test_autoencoder_starts_as_a_smoothing_transform() -> None:
    """The Haar start keeps the mean of an image in its lowest band, whatever the image."""
    model = new_autoencoder()

    def lowest_band(value: float) -> Tensor:
        hidden: Tensor = model.encoder.conv_in(torch.full((1, 3, 64, 64), value))
        for block in model.encoder.down_blocks:
            hidden = block(hidden)
        return hidden[:, :3, 2:-2, 2:-2]

    inner = lowest_band(0.5) - lowest_band(0.0)  # without the biases
    assert torch.allclose(inner, torch.full_like(inner, 0.5 * 2**3), atol=1e-4)


def test_networks_fit_together(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path / "tokenizer")
    text_encoder, unet = new_text_encoder(tokenizer), new_unet(WIDTH)
    ids = tokenizer("a red ball", padding="max_length", return_tensors="pt").input_ids
    states = text_encoder(input_ids=ids).last_hidden_state
    output = unet(torch.randn(1, 4, 16, 16), torch.tensor([10]), states).sample
    assert output.shape == (1, 4, 16, 16)
    assert float(output.detach().abs().max()) < 10


def test_corpus_is_that_of_its_seed(tmp_path: Path) -> None:
    corpus = render_corpus(tmp_path / "c", HELD_OUT_SEED, 6, workers=1)
    assert len(corpus) == 6
    example = miniworld.example_at(HELD_OUT_SEED, 4)
    assert np.array_equal(corpus.images[4], example.paint().transpose(2, 0, 1))
    assert isinstance(example.subject, miniworld.Scene)
    assert corpus.examples[4]["attributes"]["shape"] == example.subject.spec.shape
    assert len(corpus.examples[4]["captions"]) == CAPTIONS
    assert len(render_corpus(tmp_path / "c", HELD_OUT_SEED, 6)) == 6


def test_every_second_object_of_the_classifier_has_a_part(tmp_path: Path) -> None:
    objects = render_objects(tmp_path / "o", 12, workers=1)
    assert objects.images.shape == (12, 3, 128, 128)
    told = [example["attributes"] for example in objects.examples]
    assert {*told[0]} == {*ATTRIBUTES}
    parts = [sum(each[name] != ABSENT for name in miniworld.EXTRAS) for each in told]
    assert all(parts[1::2]) and not all(parts)
    assert len(render_objects(tmp_path / "o", 12)) == 12


def test_a_corpus_that_was_cut_short_is_rendered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.corpus.ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    tokenizer = build_tokenizer(tmp_path / "tokenizer")
    first = render_corpus(tmp_path / "c", HELD_OUT_SEED, 2, workers=1)
    assert len(first.tokens(tokenizer)) == len(shrunken(tmp_path / "c", first.images)) == 2
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("training.corpus.write_text", Mock(side_effect=KeyboardInterrupt))
        render_corpus(tmp_path / "c", HELD_OUT_SEED, 3, workers=1)
    corpus = render_corpus(tmp_path / "c", HELD_OUT_SEED, 3, workers=1)
    assert len(corpus.examples) == len(corpus.tokens(tokenizer)) == 3
    assert len(shrunken(tmp_path / "c", corpus.images)) == 3


def test_photographs_that_no_crop_fits_into_are_refused(tmp_path: Path) -> None:
    write_png(tmp_path / "wide.png", torch.zeros(3, 200, 2000, dtype=torch.uint8))
    assert photographs(tmp_path)[-1].shape == (200, 2000, 3)
    write_png(tmp_path / "low.png", torch.zeros(3, 100, 400, dtype=torch.uint8))
    with pytest.raises(UserError, match=r"low\.png has fewer than 128 pixels on a side"):
        photographs(tmp_path)


def test_a_missing_corpus_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"images\.npy is missing; run `--stage corpus`"):
        len(Corpus(tmp_path))


def test_a_missing_stage_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--stage", "sensitivity", "--workers", "1", "--work", str(tmp_path)])
    assert "run the stage autoencoder first" in capsys.readouterr().err


def test_the_pixel_model_trains_resumes_and_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = render_corpus(tmp_path / "c", HELD_OUT_SEED, 4, workers=1)
    photos = [np.full((80, 90, 3), 90, np.uint8)]
    train_pixels(tmp_path, corpus, photos, Budget(1), CPU, batch=2, rate=6e-4)
    train_pixels(tmp_path, corpus, photos, Budget(2), CPU, batch=2, rate=6e-4)
    log = (tmp_path / "pixel.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2]
    export_pixels(tmp_path / MINI_PIXEL, tmp_path / "pixel.safetensors")
    monkeypatch.setattr("safezone.models.pixel.WEIGHTS", tmp_path)
    load_pixel_model.cache_clear()
    model = load_pixel_model(MINI_PIXEL)
    load_pixel_model.cache_clear()
    assert model.image_size == 128
    images = torch.rand(1, 3, 64, 64)
    noise = model.denoiser(images, [])(images, torch.tensor([50]))
    assert noise.shape == images.shape
    assert noise.isfinite().all()


def test_missing_pixel_weights_name_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safezone.models.pixel.WEIGHTS", tmp_path)
    load_pixel_model.cache_clear()
    with pytest.raises(UserError, match=r"python -m training .*--stage pixel"):
        load_pixel_model(MINI_PIXEL)


@pytest.mark.parametrize(
    ("stage", "process"), [("v", Velocity), ("rf", RectifiedFlow)], ids=["v", "rf"]
)
def test_a_twin_trains_from_the_model_and_shares_its_other_parts(
    tmp_path: Path, stage: str, process: type
) -> None:
    work, out = tmp_path / "work", tmp_path / "weights"
    base = write_tiny_folder(out / "mini")
    posteriors = {"mean": torch.zeros(8, 4, 8, 8).half(), "std": torch.ones(8, 4, 8, 8).half()}
    tokens = np.zeros((8, CAPTIONS, 16), np.int32)
    batches = Batches(posteriors, 0.5, tokens, [0] * 16, 4, CPU, stream=(5,))
    train_twin(stage, work, base, batches, Budget(2), rate=1e-3, ema=0.999)
    folder = export_twin(stage, work, base, out)
    model, first = load_model(folder), load_model(base)
    assert isinstance(model.process, process)
    assert (folder / "vae").resolve() == (base / "vae").resolve()
    ours, theirs = model.unet.conv_in.weight, first.unet.conv_in.weight  # type: ignore[attr-defined]
    assert 0 < float((ours - theirs).abs().max()) < 1e-2
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    assert type(pipeline.scheduler).__name__ in ("DDIMScheduler", "FlowMatchEulerDiscreteScheduler")


def _losses(work: Path, stage: str) -> list[float]:
    lines = (work / f"{stage}.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.slow
def test_the_command_lowers_the_losses_resumes_to_the_bit_and_exports(tmp_path: Path) -> None:
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    common = ["--recipe", "tiny", "--workers", "1"]
    stages = ("corpus", "autoencoder", "sensitivity", "denoiser", "export")
    every = [f"--stage={stage}" for stage in stages]
    main([*common, *every, "--work", str(whole), "--out", str(whole / "weights")])
    for stage in stages:
        for steps in ("5", "20"):  # the first one ends early, as one that is killed
            places = ["--work", str(halted), "--out", str(halted / "weights")]
            main([*common, f"--stage={stage}", *places, "--steps", steps])
    first, second = (folder / "weights/mini" for folder in (whole, halted))
    for part in ("vae", "unet"):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        assert (first / name).read_bytes() == (second / name).read_bytes()
    for stage in ("autoencoder", "denoiser"):
        early, late = _losses(halted, stage)
        assert late < early
    assert isinstance(load_model(first).process, Epsilon)
