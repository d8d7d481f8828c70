"""What the card at hand makes of Stable Diffusion 1.5 and of the built-in model, in minutes.

    python -m benchmarks.gpu --folder sd15-random --script SCRIPT --json gpu.json

Each row has what one step, image or job takes, the aim set for an H200, and the share of the
card's own matrix rate, measured by a product of 8192 x 8192 in the row's precision, that the
counted operations come to. FOLDER is made with random weights where it is not there (4.3 GB;
neither time nor memory depends on what they are). ``--script`` is diffusers' textual_inversion.py,
unchanged and not part of this project; it runs in float32 and with its own ``--mixed_precision
bf16``. ``--tiny`` takes few and small steps, to try the command on a processor.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.sd15_step import WORD, write_images, write_random
from benchmarks.textual_inversion import theirs, training_runs
from safezone.arrays import stream
from safezone.concepts import Concept
from safezone.generate import generate
from safezone.lab.cost import BACKWARD, Passes, count_passes
from safezone.models import Model, load_model
from safezone.models.known import Precision, dtype_of, set_precision
from safezone.personalize import LoRA, TextualInversion, train
from safezone.poisons import POISONS, Poison, Unpoisoned, poison_many
from safezone.poisons.objectives import SampledDistance


@dataclass(frozen=True)
class Row:
    """``ms``: milliseconds of one unit of ``what``. ``operations``: of it, or None."""

    what: str
    precision: str
    ms: float
    aim: str = ""
    operations: float | None = None

    def share(self, rates: dict[str, float]) -> str:
        """Of the card's matrix rate in this precision."""
        if self.operations is None:
            return ""
        return f"{self.operations / (self.ms / 1000) / rates[self.precision]:.0%}"


@dataclass(frozen=True)
class Bench:
    """``few``: steps that warm up; ``many``: that are timed; ``most``: runs in a pass; ``side``: of
    the matrices of the card's rates."""

    device: torch.device
    few: int = 3
    many: int = 25
    most: int = 32
    side: int = 8192

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, call: Callable[[], object]) -> float:
        """Of one call, to the end of all that it has started on the device."""
        self.wait()
        started = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - started

    def step(self, run: Callable[[int], object], many: int | None = None) -> float:
        """Milliseconds of a step of ``run(steps)``, without what it does before and after.

        The first call warms up; captured steps are recorded in both of the others.
        """
        few, more = self.few, self.few + min(self.many, many or self.many)
        run(few)
        first, second = (self.seconds(lambda steps=steps: run(steps)) for steps in (few, more))  # type: ignore[misc]
        return max(second - first, 1e-9) / (more - few) * 1000

    def rate(self, precision: Precision) -> float:
        """Operations a second of a large matrix product."""
        set_precision(precision, self.device)
        one, other = (
            torch.randn(self.side, self.side, device=self.device, dtype=dtype_of(precision))
            for _ in range(2)
        )
        one @ other
        best = min(self.seconds(lambda: one @ other) for _ in range(5))
        return float(2 * self.side**3 / best)

    def copied(self) -> float:
        """Bytes a second of a copy on the device, reading and writing."""
        values = torch.zeros(self.side, self.side, device=self.device)
        values.clone()
        best = min(self.seconds(values.clone) for _ in range(5))
        return 2 * values.nbytes / best


def _noise(count: int, side: int) -> Tensor:
    return torch.randint(
        0, 256, (count, 3, side, side), dtype=torch.uint8, generator=stream("benchmark")
    )


def inversions(bench: Bench, model: Model, passes: Passes, precision: str) -> Iterator[Row]:
    """A step of textual inversion and of LoRA, for each run of a pass."""
    images, names = _noise(5, model.image_size), tuple("abcde")
    concept = Concept(
        name="noise", class_word="object", images=images, image_names=names, masks=None
    )
    counts = {"bfloat16": {1: "25", 4: "", 16: "", 32: "5"}, "float32": {1: "", 4: "", 16: "12"}}
    operations = BACKWARD * passes.predict
    for count, aim in counts[precision].items():
        if count > bench.most:
            continue
        runs = training_runs(concept, count)
        ms = bench.step(
            lambda steps, runs=runs: train(  # type: ignore[misc]
                model, runs, TextualInversion(steps=steps, checkpoint_every=0),
                captured=True, progress=False,
            )
        )  # fmt: skip
        yield Row(
            f"textual inversion, {count} in a pass, a run", precision, ms / count, aim, operations
        )
    for count, aim in ({1: "40", 8: "8"} if precision == "bfloat16" else {}).items():
        if count > bench.most:
            continue
        runs = training_runs(concept, count)
        ms = bench.step(
            lambda steps, runs=runs: train(  # type: ignore[misc]
                model, runs, LoRA(steps=steps, checkpoint_every=0), captured=True, progress=False
            )
        )
        yield Row(f"LoRA, {count} in a pass, a run", precision, ms / count, aim)


def poisons(bench: Bench, model: Model, passes: Passes, precision: str) -> Iterator[Row]:
    """A step of poisons, for each of five images in a pass."""
    one = Unpoisoned(_noise(5, model.image_size), tuple("abcde"))
    gradient = BACKWARD * passes.encode
    rows: tuple[tuple[str, str, int, float | None], ...] = (
        ("adm+", "25", 25, gradient + BACKWARD * passes.predict),
        ("ea", "10", 25, gradient),
        ("sds-", "15", 25, gradient + passes.predict),
        ("da", "400", 2, None),
    )
    for name, aim, many, operations in rows:
        ms = bench.step(lambda steps, name=name: _poisoned(model, one, POISONS[name], steps), many)  # type: ignore[misc]
        yield Row(f"{name}, an image and step", precision, ms / 5, aim, operations)


def _poisoned(model: Model, images: Unpoisoned, row: Poison, steps: int) -> object:
    row = replace(row, steps=steps)
    return poison_many([model], [images], row, 0, batch_size=64, captured=True, progress=False)


def drawing(bench: Bench, model: Model, passes: Passes, precision: str) -> Row:
    """Four images of 25 guided steps."""

    def draw() -> object:
        return generate(
            model, [None], ["a photo of a cup"], 4,
            seed=0, steps=bench.many, captured=True, progress=False,
        )  # fmt: skip

    draw()
    operations = 4 * (2 * bench.many * passes.predict + passes.decode)
    what = f"four images of {bench.many} steps"
    return Row(what, precision, 1000 * bench.seconds(draw), "1500", operations)


def built_in(bench: Bench, model: Model) -> Iterator[Row]:
    """A hundred steps of the poisons of fifty images, from some of them."""
    count = min(50, 2 * bench.many)
    images = Unpoisoned(_noise(count, model.image_size), tuple(map(str, range(count))))
    short = replace(POISONS["da"], repetitions=1, objective=SampledDistance(checkpointing=False))
    for name, row, aim, many in (("adm+", POISONS["adm+"], "5000", 25), ("da", short, "20000", 5)):
        ms = bench.step(lambda steps, row=row: _poisoned(model, images, row, steps), many)  # type: ignore[misc]
        what = f"built-in model, {name} of one draw, {count} images, 100 steps"
        yield Row(what, "float32", 100 * ms, aim)


def script(options: argparse.Namespace, bench: Bench, side: int) -> Iterator[Row]:
    """A step of diffusers' script."""
    images = options.folder.with_name(f"{options.folder.name}-images")
    if not images.exists():
        write_images(images)
    for precision, mixed in (("float32", "no"), ("bfloat16", "bf16")):
        steps = theirs(options.script, options.folder, images, side, WORD, bench.many + 8, mixed)
        yield Row("diffusers' textual inversion, one run", precision, median(steps))


def opened(folder: Path | str, bench: Bench, precision: Precision) -> Model:
    model = load_model(folder, str(bench.device), dtype_of(precision))
    model.precision = set_precision(precision, bench.device)
    return model


def measured(options: argparse.Namespace, bench: Bench) -> Iterator[Row]:
    """All rows, one after the other."""
    side = 0
    for precision in ("bfloat16", "float32"):
        model = opened(options.folder, bench, precision)
        side, passes = model.image_size, count_passes(model)
        yield from inversions(bench, model, passes, precision)
        if precision == "bfloat16":
            yield drawing(bench, model, passes, precision)
        yield from poisons(bench, model, passes, precision)
        del model
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
    if options.script:
        yield from script(options, bench, side)
    yield from built_in(bench, opened(options.small, bench, "float32"))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="SD 1.5 in diffusers' form")
    parser.add_argument("--small", default="mini", help="the built-in model, or a folder")
    parser.add_argument("--script", type=Path, help="diffusers' textual_inversion.py")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="few and small steps")
    parser.add_argument("--json", type=Path, help="where to write the numbers as well")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    bench = Bench(device, few=1, many=1, most=1, side=256) if options.tiny else Bench(device)
    if not (options.folder / "model_index.json").exists():
        write_random(options.folder)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "a processor"
    rates: dict[str, float] = {name: bench.rate(name) for name in ("bfloat16", "float32")}
    copied = bench.copied()
    print(f"{card}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    tera = ", ".join(f"{name} {rate / 1e12:.3g}" for name, rate in rates.items())
    print(f"matrix products, 10^12 operations a second: {tera}; copies: {copied / 1e9:.3g} GB/s\n")
    print("| what | precision | ms | aim | of the matrix rate |\n|---|---|---:|---:|---:|")
    rows = []
    for row in measured(options, bench):
        rows.append(row)
        share = row.share(rates)
        print(f"| {row.what} | {row.precision} | {row.ms:.3g} | {row.aim} | {share} |", flush=True)
    ratios = {
        each.precision: each.ms / ours.ms
        for each in rows
        for ours in rows
        if each.what.startswith("diffusers")
        and ours.what.startswith("textual inversion, 1 ")
        and ours.precision == each.precision
    }
    for precision, ratio in ratios.items():
        print(f"one run in {precision}: {ratio:.2f} times as fast as diffusers' script")
    about = {"card": card, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
    numbers = about | {"matrix": rates, "copy": copied, "ratios": ratios, "tiny": options.tiny}
    numbers |= {"rows": [asdict(row) for row in rows]}
    print(json.dumps(numbers))
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
