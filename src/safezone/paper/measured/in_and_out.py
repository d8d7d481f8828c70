"""Figure 6: the loss inside and outside the concept during training."""

from functools import partial

import torch
from torch import Tensor

from safezone.analysis.region_loss import region_losses
from safezone.analysis.timesteps import timestep_grid
from safezone.files import digest
from safezone.lab.bench import Bench
from safezone.lab.trajectory import Cell, trajectories
from safezone.models.base import Posterior
from safezone.paper.measured.by_timestep import PROMPT
from safezone.results.drawings.curves import Panel, Series, draw_panels
from safezone.results.drawings.style import Drawing
from safezone.scores import NOMINAL


def _measure(
    bench: Bench, cell: Cell, posterior: Posterior, vectors: Tensor, timesteps: Tensor
) -> dict[str, Tensor]:
    concept = cell.concept
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


def losses_in_and_out(bench: Bench, *own: str) -> Drawing:
    """Changes since the start, under the same timesteps and noise at every mark.

    The loss is averaged over the cells of each region and all timesteps of the grid, then over
    images, then over concepts.
    """
    data = bench.scope.data(*own)
    defense = bench.scope.defenses[0] if bench.scope.defenses else NOMINAL
    cells = [Cell(concept, each, defense) for concept in bench.concepts for each in data]
    found = trajectories(bench, cells)
    timesteps = timestep_grid(bench.model.process.steps, bench.scope.timesteps)
    values: dict[str, dict[str, list[Tensor]]] = {d: {"inside": [], "outside": []} for d in data}
    for cell in bench.each("losses", cells):
        images = bench.poisoned(cell.concept, cell.data)
        posterior = bench.posterior(images)
        over: dict[str, list[Tensor]] = {"inside": [], "outside": []}
        for vectors in found[cell.label].vectors:
            key = (bench.lab.model_key, images.content_key(), digest(vectors))
            place = bench.cache.place("region", *key, timesteps.tolist(), bench.scope.seed)
            compute = partial(_measure, bench, cell, posterior, vectors, timesteps)
            for name, losses in bench.cache.arrays(place, compute).items():
                over[name].append(losses.double().nanmean())
        for name, marks in over.items():
            values[cell.data][name].append(torch.stack(marks))
    return region_drawing(
        {d: {name: torch.stack(v) for name, v in parts.items()} for d, parts in values.items()},
        torch.tensor(next(iter(found.values())).steps),
        n=f"{bench.concept_count}, {len(timesteps)} timesteps, {defense} training, "
        f"{bench.model.name}",
    )


def region_drawing(values: dict[str, dict[str, Tensor]], steps: Tensor, *, n: str) -> Drawing:
    """``values[data][region]``: mean losses, [concepts, marks]."""
    row, numbers = [], {}
    for region in ("inside", "outside"):
        series = []
        for data, parts in values.items():
            change = 100 * (parts[region] / parts[region][:, :1] - 1)  # [concepts, marks]
            mean = change.mean(dim=0)
            error = change.std(dim=0, correction=min(1, len(change) - 1)) / len(change) ** 0.5
            series.append(Series(data, steps.double(), mean, [(mean - error, mean + error)]))
            numbers[f"{data}, {region}"] = {
                "loss": parts[region].mean(dim=0).tolist(),
                "change_percent": mean.tolist(),
            }
        row.append(Panel(f"{region} the object", series, "training step", "change of the loss (%)"))
    title = f"Loss since the start of training; mean over concepts ± standard error ({n})"
    figure = draw_panels(title, [row], share_y=True, width=3.6, height=3)
    return Drawing(figure, {"n": n, "steps": steps.tolist(), "loss": numbers})
