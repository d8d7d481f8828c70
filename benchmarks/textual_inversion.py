"""A step of our textual inversion beside a step of diffusers' example script.

    python benchmarks/textual_inversion.py --script SCRIPT --model FOLDER --images FOLDER

``--script`` is diffusers' examples/textual_inversion/textual_inversion.py, unchanged and not part
of this project. Both sides train on the same folder at batch size 1 on the same machine, in turns;
a step is the time between two updates of the progress bar, so that loading, encoding images ahead
and saving do not count for either. The table has each side's fastest tenth of steps, which a
machine busy with other things disturbs least; the JSON line has the medians too.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tqdm.auto import tqdm

from safezone.concepts import Concept, load_concept
from safezone.defenses import defense
from safezone.models import Model, load_model
from safezone.personalize import TextualInversion, TrainingRun, engine, train

SUMMARY = "A step of our textual inversion beside a step of diffusers' example script."

WARMUP = 3
"""Steps at the start of each side that do not count: caches, kernels and allocators fill."""

STAND_IN = '''
"""The two parts of torchvision that the script uses, for machines without it."""
import enum, random
from PIL import Image

class InterpolationMode(enum.Enum):
    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"

class RandomHorizontalFlip:
    def __init__(self, p=0.5):
        self.p = p
    def __call__(self, image):
        flip = random.random() < self.p
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image
'''

RUNNER = '''
"""Runs a script as it is, with the time of every update of its progress bars written down."""
import json, runpy, sys, time
import tqdm.auto

stamps = []

class Timed(tqdm.auto.tqdm):
    def update(self, n=1):
        stamps.append(time.perf_counter())
        return super().update(n)

tqdm.auto.tqdm = Timed
out, script, *arguments = sys.argv[1:]
sys.argv = [script, *arguments]
# Only the script's own `from torchvision import transforms` may see the stand-in: libraries ask
# for more of torchvision than it has, so they are imported before.
import accelerate, diffusers, transformers
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer
sys.path.insert(0, __STAND_IN__)
runpy.run_path(script, run_name="__main__")
json.dump(stamps, open(out, "w"))
'''


@dataclass(frozen=True)
class Result:
    """Milliseconds a step and inversion: the tenth percentile, and the median."""

    theirs_ms: float
    single_ms: float
    many_ms: float
    theirs_median_ms: float
    single_median_ms: float
    many_median_ms: float
    runs: int
    single_network_share: float
    many_network_share: float
    threads: int
    torch: str

    @property
    def single_ratio(self) -> float:
        return self.theirs_ms / self.single_ms

    @property
    def many_ratio(self) -> float:
        return self.theirs_ms / self.many_ms

    def markdown(self) -> str:
        """The table that a person reads."""
        many = f"ours, {self.runs} inversions in one pass"
        return "\n".join(
            [
                "| | ms a step and inversion | times faster | share of U-Net and text encoder |",
                "|---|---:|---:|---:|",
                f"| diffusers' script | {self.theirs_ms:.1f} | 1.00 | |",
                f"| ours, one inversion | {self.single_ms:.1f} | {self.single_ratio:.2f} "
                f"| {self.single_network_share:.1%} |",
                f"| {many} | {self.many_ms:.1f} | {self.many_ratio:.2f} "
                f"| {self.many_network_share:.1%} |",
            ]
        )


def intervals(stamps: Sequence[float]) -> list[float]:
    """Milliseconds between stamps, without the warm-up."""
    return [
        1000 * (after - before)
        for before, after in zip(stamps[WARMUP:], stamps[WARMUP + 1 :], strict=False)
    ]


def fast(milliseconds: Sequence[float]) -> float:
    """The tenth percentile."""
    return statistics.quantiles(milliseconds, n=10)[0]


def theirs(
    script: Path, model: Path, images: Path, size: int, word: str, steps: int, mixed: str = "no"
) -> list[float]:
    """One run of diffusers' script in its own process: milliseconds of each step.

    ``mixed``: its ``--mixed_precision``.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        package = folder / "stand-in" / "torchvision"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("from . import transforms\n")
        (package / "transforms.py").write_text(STAND_IN)
        runner = folder / "runner.py"
        runner.write_text(RUNNER.replace("__STAND_IN__", repr(str(package.parent))))
        arguments = {
            "pretrained_model_name_or_path": model,
            "train_data_dir": images,
            "output_dir": folder / "out",
            "placeholder_token": "<benchmark>",
            "initializer_token": word,
            "learnable_property": "object",
            "resolution": size,
            "train_batch_size": 1,
            "max_train_steps": steps,
            "save_steps": 10 * steps,
            "checkpointing_steps": 10 * steps,
            "seed": 0,
            "mixed_precision": mixed,
        }
        finished = subprocess.run(
            [
                sys.executable,
                str(runner),
                str(folder / "stamps.json"),
                str(script),
                *(f"--{key}={value}" for key, value in arguments.items()),
            ],
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode:
            raise SystemExit(f"diffusers' script failed:\n{finished.stderr[-3000:]}")
        return intervals(json.loads((folder / "stamps.json").read_text()))


@contextmanager
def recorded_steps() -> Iterator[list[float]]:
    """The time of each of our steps in seconds, taken as the script's are."""
    stamps: list[float] = []

    class Timed(tqdm):  # type: ignore[type-arg]  # generic to a type checker only
        def update(self, n: float | None = 1) -> bool | None:
            stamps.append(time.perf_counter())
            return super().update(n)

    with mock.patch.object(engine, "tqdm", Timed):
        yield stamps


@contextmanager
def recorded_network(model: Model) -> Iterator[list[float]]:
    """The seconds of each call of the text encoder, the U-Net and the gradient, in this order.

    The gradient is timed as a whole: apart from a handful of elementwise operations of the loss all
    of it is the two networks'.
    """
    seconds: list[float] = []

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = call(*args, **kwargs)
            seconds.append(time.perf_counter() - start)
            return result

        return wrapper

    with ExitStack() as stack:
        for owner, name in ((model, "embed_text"), (model, "predict"), (torch.autograd, "grad")):
            stack.enter_context(mock.patch.object(owner, name, timed(getattr(owner, name))))
        yield seconds


def ours(model: Model, runs: Sequence[TrainingRun], steps: int) -> list[float]:
    """One training of ours: milliseconds of each step of all runs together."""
    with recorded_steps() as stamps:
        train(model, runs, settings(steps), progress=False)
    return intervals(stamps)


def network_share(model: Model, runs: Sequence[TrainingRun], steps: int) -> float:
    """The part of a step that is spent in the text encoder and the U-Net, in [0, 1]."""
    with recorded_steps() as stamps, recorded_network(model) as seconds:
        train(model, runs, settings(steps), progress=False)
    calls = len(seconds) // steps
    # The first stamp ends step 1, so the calls of step WARMUP + 2 are the first that count.
    return sum(seconds[calls * (WARMUP + 1) :]) / (stamps[-1] - stamps[WARMUP])


def settings(steps: int) -> TextualInversion:
    return TextualInversion(steps=steps, checkpoint_every=0)


def training_runs(concept: Concept, count: int) -> list[TrainingRun]:
    """Runs that differ in seed and, as in the paper's columns, in timesteps."""
    kinds = [defense("nominal"), defense("t500"), defense("t600"), defense("jpeg")]
    return [TrainingRun(f"run-{i}", concept, kinds[i % 4], seed=i // 4) for i in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=SUMMARY)
    parser.add_argument("--script", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--initializer", default="object", help="one token of the model")
    parser.add_argument("--steps", type=int, default=40, help="steps of each side in a round")
    parser.add_argument("--rounds", type=int, default=3, help="turns that each side gets")
    parser.add_argument("--runs", type=int, default=16, help="inversions in one pass")
    parser.add_argument("--json", type=Path, help="where to write the numbers as well")
    options = parser.parse_args()

    model = load_model(options.model)
    concept = load_concept(options.images, model.image_size, class_word=options.initializer)
    single, many = training_runs(concept, 1), training_runs(concept, options.runs)
    their_ms: list[float] = []
    single_ms: list[float] = []
    many_ms: list[float] = []
    for _ in range(options.rounds):  # in turns, so that a busy machine is busy for both
        their_ms += theirs(
            options.script,
            options.model,
            options.images,
            model.image_size,
            options.initializer,
            options.steps,
        )
        single_ms += ours(model, single, options.steps)
        many_ms += ours(model, many, options.steps)
    result = Result(
        theirs_ms=fast(their_ms),
        single_ms=fast(single_ms),
        many_ms=fast(many_ms) / options.runs,
        theirs_median_ms=statistics.median(their_ms),
        single_median_ms=statistics.median(single_ms),
        many_median_ms=statistics.median(many_ms) / options.runs,
        runs=options.runs,
        single_network_share=network_share(model, single, options.steps),
        many_network_share=network_share(model, many, options.steps),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )
    print(result.markdown())
    numbers = asdict(result) | {
        "single_ratio": result.single_ratio,
        "many_ratio": result.many_ratio,
    }
    print(json.dumps(numbers))
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
