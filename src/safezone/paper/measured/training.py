"""Figures 5, 6, 11 and 16: what changes while a word is learned.

Gradients by timestep, the loss inside and outside the object, and the in-region ratio.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safezone.analysis.sensitivity import in_region_ratio, word_slots
from safezone.analysis.timesteps import (
    ImageDraws,
    embedding_gradients,
    peak_interval,
    quantile_bands,
    region_losses,
    timestep_grid,
)
from safezone.arrays import Timesteps
from safezone.concepts import Concept
from safezone.files import digest
from safezone.lab.bench import Bench
from safezone.lab.variants import PAPER_STEPS
from safezone.models.base import Posterior, Tokens
from safezone.paper.measured.by_timestep import PROMPT, banded
from safezone.paper.measured.maps import Probe
from safezone.paper.rows import Figure
from safezone.results.drawings.panels import Panel, Series, draw_panels
from safezone.results.drawings.style import Drawing, legend

PAPER_LOSSES: Final = 1000
"""For each concept and timestep of figure 5 (Sec. 4.2)."""
RATIO_TIMES: Final = (0.3, 0.5, 0.7)
"""Of all steps, over which figure 16 averages: the paper does not say which it takes."""
_REGIONS: Final = ("inside", "outside")


def _tokens(bench: Bench, concept: Concept, vectors: Tensor) -> Tokens:
    """The prompt with the learned word, for each of the concept's images."""
    prompts = [PROMPT.replace("{}", concept.placeholder)] * len(concept.images)
    return bench.model.tokenize(prompts, concept.placeholder, len(vectors))


def _draws(
    bench: Bench, concept: Concept, posterior: Posterior, timesteps: Timesteps, end: str = ""
) -> ImageDraws:
    names = [f"{concept.name}/{name}{end}" for name in concept.image_names]
    return ImageDraws(bench.model, posterior, timesteps, names, bench.scope.seed)


def _drawn_gradients(
    bench: Bench, concept: Concept, pixels: Concept, vectors: Tensor, times: Timesteps, count: int
) -> dict[str, Tensor]:
    tokens, posterior = _tokens(bench, concept, vectors), bench.posterior(pixels)
    every = [_draws(bench, concept, posterior, times, f"/{k}") for k in range(count)]
    return {"gradient": torch.cat([embedding_gradients(d, tokens, vectors) for d in every])}


def _gradients(bench: Bench, figure: Figure, steps: Sequence[int]) -> Drawing:
    """One panel a step of the training, one curve a data set."""
    runs = [bench.run(concept, data) for concept in bench.concepts for data in figure.data(bench)]
    histories, scope = bench.histories(runs, steps), bench.scope
    timesteps = timestep_grid(bench.model.process.steps, scope.timesteps)
    values: dict[str, dict[str, list[Tensor]]] = {}
    draws = {
        name: scope.draws if scope.losses is None else -(-scope.losses // len(concept.images))
        for name, concept in bench.lab.concepts.items()
    }
    for step, run in bench.each("gradients", [(step, run) for step in steps for run in runs]):
        concept, vectors = bench.lab.concepts[run.concept], histories[run].at(step)
        pixels, count = bench.poisoned(concept, run.poison), draws[run.concept]
        compute = partial(_drawn_gradients, bench, concept, pixels, vectors, timesteps, count)
        key = (pixels.content_key(), digest(vectors), timesteps.tolist(), PROMPT, count, scope.seed)
        gradient = bench.measures.arrays("gradient", compute, *key)["gradient"]
        panel = values.setdefault(f"after {step} steps", {})
        panel.setdefault(run.poison, []).append(gradient)
    each = sum(draws[c.name] * len(c.images) for c in bench.concepts) / len(bench.concepts)
    n = f"{bench.concept_count}, n = {each:.0f} losses a concept and timestep"
    if each < PAPER_LOSSES:
        n += f", the paper {PAPER_LOSSES}"
    return gradient_drawing(values, timesteps, n=n, means=len(steps) == 1)


def gradients(bench: Bench, figure: Figure) -> Drawing:
    """Figure 5: one step; by default a fifth of the training, as 1000 steps of 5000."""
    fifth = bench.lab.settings.training.steps // 5
    return _gradients(bench, figure, [fifth if bench.scope.at is None else bench.scope.at])


def gradients_throughout(bench: Bench, figure: Figure) -> Drawing:
    """Figure 11: equally spaced steps over the whole training, clean and several poisons."""
    return _gradients(bench, figure, bench.marks(1000, 2000, 3000, 4000, 5000))


def gradient_drawing(
    gradients: Mapping[str, Mapping[str, list[Float[Tensor, "samples timesteps"]]]],
    timesteps: Timesteps,
    *,
    n: str,
    means: bool = False,
) -> Drawing:
    """|dL / d embedding| by timestep, one panel a checkpoint.

    ``gradients[panel][data]``: one array a concept, whose quantiles and means are averaged over
    concepts. ``means``: drawn beside the medians; the numbers have both.
    """
    row, numbers = [], {}
    for title, by_data in gradients.items():
        series, peaks = [], {}
        for name, concepts in by_data.items():
            bands = [quantile_bands(each) for each in concepts]
            mean = {k: torch.stack([b[k] for b in bands]).mean(dim=0) for k in bands[0]}
            series.append(banded(name, timesteps, mean))
            average = torch.stack([each.double().mean(dim=0) for each in concepts]).mean(dim=0)
            if means:
                series.append(Series(f"{name}, mean", timesteps.double(), average, bare=True))
            peak = int(mean["median"].argmax())
            peaks[name] = {
                "peak_at": int(timesteps[peak]),
                "peak_interval": peak_interval(concepts, timesteps),
                "peak": float(mean["median"][peak]),
                "median": mean["median"],
                "mean": average,
            }
        row.append(Panel(title, series, "timestep t", "|dL / d embedding|, l2", floor=0.0))
        numbers[title] = peaks
    lines = "median, mean" if means else "median"
    figure = draw_panels(
        f"Gradient of the loss on the learned vectors; {lines}, 50% and 95% bands ({n})",
        [row[i : i + 2] for i in range(0, len(row), 2)],
        width=4.2 if len(row) == 1 else 3.6,
        height=2.8,
    )
    return Drawing(figure, {"n": n, "timesteps": timesteps, "gradient": numbers})


def _mean_curve(
    name: str, steps: Int[Tensor, " marks"], values: Float[Tensor, "concepts marks"]
) -> tuple[Series, Tensor, Tensor]:
    """The mean over concepts with its standard error as a band, and both as numbers."""
    mean = values.mean(dim=0)
    error = values.std(dim=0, correction=min(1, len(values) - 1)) / len(values) ** 0.5
    return Series(name, steps.double(), mean, [(mean - error, mean + error)]), mean, error


def losses_in_and_out(bench: Bench, figure: Figure) -> Drawing:
    """Figure 6: losses of each region under the same timesteps and noise at every step.

    Averaged over the region's cells and all timesteps of the grid, then over images; drawn as
    changes in per cent of the first step.
    """
    defense, data = figure.defenses(bench)[0], figure.data(bench)
    steps = bench.marks(*range(0, PAPER_STEPS + 1, PAPER_STEPS // 10))
    runs = [bench.run(concept, each, defense) for concept in bench.concepts for each in data]
    histories = bench.histories(runs, steps)
    timesteps = timestep_grid(bench.model.process.steps, bench.scope.timesteps)
    values: dict[tuple[str, str], list[Tensor]] = {}
    for run in bench.each("losses", runs):
        concept = bench.lab.concepts[run.concept]
        images = bench.poisoned(concept, run.poison)
        draws = _draws(bench, concept, bench.posterior(images), timesteps)
        masks = bench.masks(concept)
        over: dict[str, list[Tensor]] = {name: [] for name in _REGIONS}
        for step in steps:
            vectors = histories[run].at(step)
            key = (images.content_key(), digest(vectors), timesteps.tolist(), bench.scope.seed)
            tokens = _tokens(bench, concept, vectors)
            compute = partial(region_losses, draws, masks, tokens, vectors)
            for name, losses in bench.measures.arrays("region", compute, *key).items():
                over[name].append(losses.double().nanmean())
        for name, at_steps in over.items():
            values.setdefault((run.poison, name), []).append(torch.stack(at_steps))
    row, numbers = [], {}
    for region in _REGIONS:
        series = []
        for each in data:
            mean_losses = torch.stack(values[each, region])  # [concepts, steps]
            change = 100 * (mean_losses / mean_losses[:, :1] - 1)
            curve, mean, _ = _mean_curve(each, torch.tensor(steps), change)
            series.append(curve)
            loss = mean_losses.mean(dim=0)
            numbers[f"{each}, {region}"] = {"loss": loss, "change_percent": mean}
        row.append(Panel(f"{region} the object", series, "training step", "change of the loss (%)"))
    n = f"{bench.concept_count}, {len(timesteps)} timesteps, {defense} training, {bench.model.name}"
    since = f"step {steps[0]}" if steps[0] else "the start of training"
    title = f"Loss since {since}; mean over concepts ± standard error ({n})"
    drawn = draw_panels(title, [row], share_y=True, width=3.6, height=3)
    return Drawing(drawn, {"n": n, "steps": steps, "loss": numbers})


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
    numbers: dict[str, Any] = {}
    series: dict[str, list[Series]] = {}
    for (data, defense), each in values.items():
        curve, mean, error = _mean_curve(data, torch.tensor(steps), torch.stack(each).double())
        series.setdefault(defense, []).append(curve)
        own = {"mean": mean, "standard_error": error, "concepts": len(each)}
        numbers[f"{data}, {defense}"] = own
    row = [
        Panel(f"{defense} training", curves, "training step", "in-region ratio R")
        for defense, curves in series.items()
    ]
    # What chance gives:
    area = float(torch.cat([bench.masks(c).mean(dim=(1, 2)) for c in bench.concepts]).mean())
    title = (
        "Share of the learned word's sensitivity inside the object: mean over "
        f"{bench.concept_count} ± standard error over them, K = {bench.scope.rows} rows, "
        f"t = {', '.join(str(int(t)) for t in times)}, {model.name}; the object's area is "
        f"{area:.2f}"
    )
    drawn = draw_panels(title, [row], share_y=True, width=3.6, height=3.4)
    for axes in drawn.axes:
        legend(axes, below=True)
    return Drawing(drawn, {"steps": steps, "in_region_ratio": numbers, "area": area})
