"""How far fewer steps take a poison: its own objective on development objects, at equal draws.

    OMP_NUM_THREADS=1 PYTHONPATH=src python scripts/poison_steps.py adm+ 100,1 50,2 40,2 30,2

Each setting is a number of steps and their length in 255ths. Nobody is trained on the images.
"""

import sys
import time
from dataclasses import replace
from fractions import Fraction
from statistics import fmean

import torch

from safezone.arrays import stream
from safezone.concepts import Concept
from safezone.concepts.datasets import miniworld_concepts
from safezone.images import to_float
from safezone.models import Model, load_model
from safezone.poisons import Poison, fixed_guide, poison, poison_concept
from safezone.poisons.guide import bound

CONCEPTS, DRAWS = 3, 40


@torch.no_grad()
def objective(model: Model, concept: Concept, row: Poison, pixels: torch.Tensor) -> float:
    """Mean over images and draws, the same draws for every setting."""
    guide = fixed_guide(model, row, to_float(concept.images))
    value = bound(row.objective, model).value
    names = range(len(pixels))
    values = [
        value(model, to_float(pixels), [stream("look", draw, name) for name in names], guide)
        for draw in range(DRAWS)
    ]
    return float(torch.stack(values).mean())


def main() -> None:
    """Prints one line a setting, the clean images first."""
    name, *settings = sys.argv[1:]
    model, concepts = load_model("mini", "cpu"), miniworld_concepts(which="development")[:CONCEPTS]
    row = poison(name)
    before = [objective(model, concept, row, concept.images) for concept in concepts]
    print(f"clean: {fmean(before):.3f}")
    for setting in settings:
        steps, eta = setting.split(",")
        own = replace(row, steps=int(steps), eta=float(Fraction(eta) / 255))
        started = time.process_time()
        made = [poison_concept(model, each, own, seed=0, progress=False) for each in concepts]
        seconds = (time.process_time() - started) / len(concepts)
        after = [
            objective(model, concept, row, each.images)
            for concept, each in zip(concepts, made, strict=True)
        ]
        each = ", ".join(f"{value:.3f}" for value in after)
        print(f"{steps} steps of {eta}/255: {fmean(after):.3f} ({each}), {seconds:.0f} s a concept")


if __name__ == "__main__":
    main()
