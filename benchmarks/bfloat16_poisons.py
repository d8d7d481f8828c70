"""What a poison loses in bfloat16: signs of its gradient, and what it takes from textual inversion.

    python -m benchmarks.bfloat16_poisons

ADM+ on the first built-in concepts, made in float32 and in bfloat16; the images, the step and the
gradient's sign are float32 in both. The first table has the share of values whose sign differs at
the start and at the end, from the same draws, beside that between two draws in float32. The second
has the similarity of what textual inversion, in float32, learns from each.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from statistics import mean

import torch
from torch import Tensor

from safezone.arrays import Images, stream
from safezone.concepts import Concept
from safezone.concepts.datasets import miniworld_concepts
from safezone.defenses import defense
from safezone.generate import generate
from safezone.images import to_float
from safezone.lab.presets import DEMO
from safezone.models import Model, load_model
from safezone.personalize import TrainingRun, train
from safezone.poisons import Poison, fixed_guide, poison, poison_concept
from safezone.scores import Pictures, load_encoder, score_images


def signs(model: Model, row: Poison, clean: Images, images: Images, draw: int) -> Tensor:
    """Of the objective's gradient at the images, at one draw of timesteps and noise."""
    generators = [stream("benchmark", draw, image) for image in range(len(images))]
    pixels = images.clone().requires_grad_(True)
    value = row.objective(model, pixels, generators, fixed_guide(model, row, clean))  # type: ignore[operator]
    return torch.autograd.grad(value.sum(), pixels)[0].float().sign()


def learned(model: Model, concepts: Mapping[str, Concept], clean: Concept) -> dict[str, float]:
    """The instance similarity of what is learned from each, drawn with the demo's prompts."""
    runs = [TrainingRun(name, each, defense("nominal"), 0) for name, each in concepts.items()]
    adapters = train(model, runs, DEMO.training.personalization(), progress=False)
    sampling, encoder = DEMO.sampling, load_encoder("mini-instance")
    result = {}
    for name, adapter in zip(concepts, adapters, strict=True):
        (images,) = generate(
            model,
            [adapter],
            sampling.texts(),
            seed=0,
            noise_keys=[clean.name],
            steps=sampling.steps,
            guidance=sampling.guidance,
            progress=False,
        )
        pictures = Pictures(
            images, list(sampling.texts()), clean.images, clean.class_word, adapter.words
        )
        scores = score_images(pictures, {"instance": encoder})
        result[name] = next(s.value for s in scores if s.metric == "instance_similarity")
    return result


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--concepts", type=int, default=1)
    parser.add_argument("--steps", type=int, default=30, help="of each poison")
    parser.add_argument("--signs-only", action="store_true", help="train nothing")
    options = parser.parse_args(arguments)
    exact, rough = (load_model("mini", "cpu", dtype) for dtype in (torch.float32, torch.bfloat16))
    row = replace(poison("adm+"), steps=options.steps)
    shares: dict[str, list[float]] = {}
    takes: dict[str, list[float]] = {}
    for concept in miniworld_concepts(exact.image_size)[: options.concepts]:
        clean = concept.pixels()
        begun = clean + row.budget.start(
            [stream("begin", i) for i in range(len(clean))], clean[0].shape
        )
        made = poison_concept(exact, concept, row, 0, progress=False)
        for place, images in (("first step", begun), ("last step", to_float(made.images))):
            one, other = (signs(exact, row, clean, images, draw) for draw in (0, 1))
            differ = {"bfloat16": signs(rough, row, clean, images, 0), "another draw": other}
            for what, each in differ.items():
                share = float((one != each).float().mean())
                shares.setdefault(f"{what}, {place}", []).append(share)
        if not options.signs_only:
            roughly = poison_concept(rough, concept, row, 0, progress=False)
            kinds = {"clean": concept, "float32": made, "bfloat16": roughly}
            for name, value in learned(exact, kinds, concept).items():
                takes.setdefault(name, []).append(value)
    print("| signs that differ | share of values |\n|---|---:|")
    for what, values in shares.items():
        print(f"| {what} | {mean(values):.1%} |")
    if takes:
        print("\n| learned from | similarity to the clean object |\n|---|---:|")
        for name, values in takes.items():
            print(f"| {name} | {mean(values):.2f} |")
    print(json.dumps({"signs": shares, "similarity": takes, "steps": options.steps}))


if __name__ == "__main__":
    main()
