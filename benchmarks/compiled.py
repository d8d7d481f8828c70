"""What ``--compile`` costs and brings: a step as it is, and through torch.compile.

    OMP_NUM_THREADS=1 python -m benchmarks.compiled --model FOLDER --images FOLDER

Several inversions in one pass, batch size 1. The two sides take turns in one process after the
compiler has done its work, which is timed by itself.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from benchmarks.textual_inversion import intervals, recorded_steps, settings, training_runs
from safezone.concepts import load_concept
from safezone.models import load_model
from safezone.personalize import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True, help="a folder, or a built-in name")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=16, help="inversions in one pass")
    parser.add_argument("--steps", type=int, default=30, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns that each side gets")
    options = parser.parse_args()
    model = load_model(options.model)
    runs = training_runs(load_concept(options.images, model.image_size), options.runs)

    def turn(steps: int, compile: bool) -> list[float]:
        with recorded_steps() as stamps:
            train(model, runs, settings(steps), progress=False, compile=compile)
        return intervals(stamps)

    start = time.monotonic()
    train(model, runs, settings(2), progress=False, compile=True)
    print(
        f"the first compiled training of 2 steps took {time.monotonic() - start:.0f} s", flush=True
    )
    found: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(options.rounds):
        for side, steps in found.items():
            steps += turn(options.steps, compile=side)
    plain, compiled = (statistics.median(found[side]) for side in (False, True))
    print("| | ms a step and inversion, median |\n|---|---:|")
    print(f"| as it is | {plain / options.runs:.1f} |")
    print(f"| compiled | {compiled / options.runs:.1f} |")
    print(f"\n{plain / compiled:.2f} times faster; torch {torch.__version__}, ", end="")
    print(f"{torch.get_num_threads()} threads, {options.runs} inversions in one pass")


if __name__ == "__main__":
    main()
