"""Figures 6 and 16: the loss by region and the in-region ratio while a word is learned."""

from functools import partial
from typing import Final

import torch
from torch import Tensor

from safezone.analysis.region_loss import region_losses
from safezone.analysis.sensitivity import in_region_ratio, word_slots
from safezone.analysis.timesteps import timestep_grid
from safezone.concepts import Concept
from safezone.files import digest
from safezone.lab.bench import Bench
from safezone.lab.variants import PAPER_STEPS
from safezone.models.base import Posterior
from safezone.paper.figure import Figure
from safezone.paper.measured.by_timestep import PROMPT
from safezone.paper.measured.probe import Probe
from safezone.results.drawings.style import Drawing
from safezone.results.drawings.training import ratio_drawing, region_drawing

RATIO_TIMES: Final = (0.3, 0.5, 0.7)
"""Of all steps, over which figure 16 averages: the paper does not say which it takes."""


def _regions(
    bench: Bench,
    concept: Concept,
    posterior: Posterior,
    vectors: Tensor,
    timesteps: Tensor,
) -> dict[str, Tensor]:
    prompts = [PROMPT.replace("{}", concept.placeholder)] * len(concept.images)
    return region_losses(
        bench.model,
        posterior,
        bench.masks(concept),
        bench.model.tokenize(prompts, concept.placeholder, len(vectors)),
        vectors,
        timesteps,
        [f"{concept.name}/{name}" for name in concept.image_names],
        seed=bench.scope.seed,
    )


def losses_in_and_out(bench: Bench, figure: Figure) -> Drawing:
    """Figure 6: losses of each region under the same timesteps and noise at every step.

    Averaged over the region's cells and all timesteps of the grid, then over images.
    """
    defense, data = figure.defenses(bench)[0], figure.data(bench)
    steps = bench.marks(*range(0, PAPER_STEPS + 1, PAPER_STEPS // 10))
    runs = [bench.run(concept, each, defense) for concept in bench.concepts for each in data]
    histories = bench.histories(runs, steps)
    timesteps = timestep_grid(bench.model.process.steps, bench.scope.timesteps)
    values: dict[str, dict[str, list[Tensor]]] = {d: {"inside": [], "outside": []} for d in data}
    for run in bench.each("losses", runs):
        concept = bench.lab.concepts[run.concept]
        images = bench.poisoned(concept, run.poison)
        posterior = bench.posterior(images)
        over: dict[str, list[Tensor]] = {"inside": [], "outside": []}
        for step in steps:
            vectors = histories[run].at(step)
            key = (images.content_key(), digest(vectors), timesteps.tolist(), bench.scope.seed)
            compute = partial(_regions, bench, concept, posterior, vectors, timesteps)
            for name, losses in bench.measures.arrays("region", compute, *key).items():
                over[name].append(losses.double().nanmean())
        for name, at_steps in over.items():
            values[run.poison][name].append(torch.stack(at_steps))
    return region_drawing(
        {d: {name: torch.stack(v) for name, v in parts.items()} for d, parts in values.items()},
        torch.tensor(steps),
        n=f"{bench.concept_count}, {len(timesteps)} timesteps, {defense} training, "
        f"{bench.model.name}",
    )


def ratios(bench: Bench, figure: Figure) -> Drawing:
    """Figure 16: the mean in-region ratio R over the training, without and with loss masking."""
    model, steps = bench.model, bench.marks(100, 500, 900)
    runs = [
        bench.run(concept, data, defense)
        for concept in bench.concepts
        for data in figure.data(bench)
        for defense in figure.defenses(bench)
    ]
    histories = bench.histories(runs, steps)
    times = torch.tensor([round(share * model.process.steps) for share in RATIO_TIMES])
    probe = Probe(bench.measures, bench.scope.rows, bench.scope.seed)
    values: dict[tuple[str, str], list[Tensor]] = {}
    for run in bench.each("sensitivity", runs):
        concept = bench.lab.concepts[run.concept]
        posterior = bench.posterior(bench.poisoned(concept, run.poison))
        inside = bench.masks(concept).repeat_interleave(len(times), dim=0)
        names = [f"{concept.name}/{name}" for name in concept.image_names]
        prompt, word = PROMPT.replace("{}", concept.placeholder), concept.placeholder
        over = []
        for step in steps:
            slots = word_slots(model, prompt, word, histories[run].at(step))
            maps = probe.arrays(slots, posterior, names, times)["maps"]
            over.append(in_region_ratio(maps.flatten(0, 1), inside).mean())
        values.setdefault((run.poison, run.defense), []).append(torch.stack(over))
    area = float(torch.cat([bench.masks(c).mean(dim=(1, 2)) for c in bench.concepts]).mean())
    return ratio_drawing(
        {key: torch.stack(each).double() for key, each in values.items()},
        torch.tensor(steps),
        area,
        f"mean over {bench.concept_count} ± standard error over them, K = {bench.scope.rows} rows, "
        f"t = {', '.join(str(int(t)) for t in times)}, {model.name}",
    )
