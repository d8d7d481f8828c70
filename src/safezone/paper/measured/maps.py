"""Figures 2, 3, 9 and 16: where in the image a word acts, before and during training."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from safezone.analysis.sensitivity import (
    START,
    in_region_ratio,
    word_slots,
)
from safezone.concepts import Concept
from safezone.errors import UserError
from safezone.images import to_square
from safezone.lab.bench import Bench
from safezone.lab.trajectory import Cell, trajectories
from safezone.miniworld import BACKGROUND_PHRASES, Scene, novel_concepts, render, scene_at
from safezone.models.base import Posterior
from safezone.paper.measured.by_timestep import PROMPT, SCENES
from safezone.paper.measured.probe import TIMES, Probe, Ratio
from safezone.results.drawings.curves import Panel, Series, draw_panels
from safezone.results.drawings.pictures import Tile, draw_tiles
from safezone.results.drawings.style import Drawing, legend

RATIO_TIMES: Final = (0.3, 0.5, 0.7)
"""Of all steps, over which figure 16 averages: the paper does not say which it takes."""
EVERY: Final = 2
"""Of the training's ten marks figure 16 looks at every second: maps are the costliest measure."""
ATTENTION_AT: Final = 0.5


def _probe(bench: Bench, noises: int = 1) -> Probe:
    scope = bench.scope
    return Probe(bench.model, bench.lab.model_key, bench.cache, scope.rows, scope.seed, noises)


def words(bench: Bench) -> Drawing:
    """Figure 2: attention and sensitivity of the start token and of two words, t = T / 2."""
    if not bench.procedural:
        raise UserError("figure 2 asks words of known captions; leave --data out")
    model = bench.model
    time = torch.tensor([model.process.steps // 2])
    rows: list[list[Tile | None]] = []
    labels, ratios = [], {}
    for index in range(min(3, bench.scope.images)):
        scene = scene_at(SCENES, index)
        noun, phrase = scene.spec.shape, BACKGROUND_PHRASES[scene.background]
        prompt = f"a photo of a {scene.spec.color} {noun} {phrase}"
        picture = render(scene)
        image, mask = _square(picture.image, picture.mask >= 128, model.image_size)
        concept = Concept(
            name="Scene",
            class_word=noun,
            images=image[None],
            masks=mask[None],
            image_names=(f"{index}",),
        )
        inside = bench.masks(concept)
        posterior, name = bench.posterior(concept), [f"scene/{index}"]
        attention: list[Tile | None] = []
        sensitivity: list[Tile | None] = []
        for word in (START, noun, phrase.split()[-1]):
            slots = word_slots(model, prompt, word)
            probe = _probe(bench, bench.scope.noises)
            arrays = probe.arrays(slots, posterior, name, time)
            share = Ratio(float(in_region_ratio(arrays["attention"][:, 0], inside)[0]), None)
            felt = probe.ratio(arrays, 0, 0, inside[0])
            shown = (("attention", attention, share), ("maps", sensitivity, felt))
            for kind, tiles, ratio in shown:
                ratios[f"{prompt}: {word}, {kind}"] = ratio.numbers
                tiles.append(Tile(arrays[kind][0, 0], f"“{word}”\n{ratio}", inside[0]))
        rows.append([Tile(image), *attention, *sensitivity])
        labels.append(f"scene {index + 1}")
    columns = ["image", *(f"attention,\n{w}" for w in _WORDS), *(f"SSM,\n{w}" for w in _WORDS)]
    title = (
        f"Cross-attention and semantic sensitivity of words, t = {int(time)}, "
        f"K = {bench.scope.rows} rows, {bench.scope.noises} noises (± standard error over them), "
        f"{model.name}; outline: the object, R: the share inside; each map from 0 to its own 98% "
        "quantile"
    )
    return Drawing(draw_tiles(title, rows, labels, columns), {"in_region_ratio": ratios})


_WORDS: Final = ("start token", "object", "background")


def _square(image: object, mask: object, size: int) -> tuple[Tensor, Tensor]:
    pixels = torch.from_numpy(to_square(image, size)).permute(2, 0, 1)  # type: ignore[type-var]
    return pixels.contiguous(), torch.from_numpy(to_square(mask, size))  # type: ignore[type-var]


def _chosen(bench: Bench, name: str, place: int) -> Concept:
    """The built-in concept of that name, else the one at that place, else the last."""
    return bench.lab.concepts.get(name) or bench.concepts[min(place, len(bench.concepts) - 1)]


def _prompt(concept: Concept) -> str:
    """The learned word where the first image shows it, as far as that is known."""
    scenes: dict[str, Scene] = {each.name: each.scenes[0] for each in novel_concepts()}
    if concept.name in scenes:
        return f"{PROMPT} {BACKGROUND_PHRASES[scenes[concept.name].background]}"
    return PROMPT


def before_and_after(bench: Bench, name: str, place: int) -> Drawing:
    """Figures 3 and 9: maps of the learned word on one image, clean and poisoned."""
    concept = _chosen(bench, name, place)
    data, model = bench.scope.data("adm+"), bench.model
    steps = bench.lab.settings.training.steps
    at = steps // 10 if bench.scope.at is None else bench.scope.at
    found = trajectories(bench, [Cell(concept, each) for each in data], at)
    times = torch.tensor([round(share * model.process.steps) for share in TIMES])
    inside = bench.masks(concept)[:1]
    prompt = _prompt(concept).replace("{}", concept.placeholder)
    rows: list[list[Tile | None]] = []
    labels: list[str] = []
    numbers: dict[str, Mapping[str, Any]] = {}
    for when in (0, at):
        for each in data:
            trajectory = found[Cell(concept, each).label]
            mark = trajectory.nearest(when)
            images = bench.poisoned(concept, each)
            whole = bench.posterior(images)
            slots = word_slots(model, prompt, concept.placeholder, trajectory.vectors[mark])
            probe = _probe(bench, bench.scope.noises)
            arrays = probe.arrays(
                slots,
                Posterior(whole.mean[:1], whole.std[:1]),
                [f"{concept.name}/{concept.image_names[0]}"],
                times,
            )
            label = f"{each},\n{trajectory.steps[mark]} steps"
            ratios = [probe.ratio(arrays, 0, k, inside[0]) for k in range(len(times))]
            numbers[label.replace("\n", " ")] = {
                f"t={int(t)}": ratio.numbers for t, ratio in zip(times, ratios, strict=True)
            }
            attention = arrays["attention"][0, TIMES.index(ATTENTION_AT)]
            share = float(in_region_ratio(attention[None], inside)[0])
            tiles = [
                Tile(values, str(ratio), inside[0])
                for values, ratio in zip(arrays["maps"][0], ratios, strict=True)
            ]
            rows.append(
                [Tile(images.images[0]), *tiles, Tile(attention, f"R = {share:.2f}", inside[0])]
            )
            labels.append(label)
    columns = [
        "image",
        *(f"SSM,\nt = {int(t)}" for t in times),
        f"attention,\nt = {int(times[TIMES.index(ATTENTION_AT)])}",
    ]
    spoken = _prompt(concept).replace("{}", "R*")
    title = (
        f"Semantic sensitivity of the learned word, {concept.name}, “{spoken}”, "
        f"K = {bench.scope.rows} rows, {bench.scope.noises} noises (± standard error over them), "
        f"{model.name}; outline: the object, R: the share inside; each map from 0 to its own 98% "
        f"quantile; a map alike everywhere has R = {float(inside.mean()):.2f}"
    )
    return Drawing(
        draw_tiles(title, rows, labels, columns),
        {"in_region_ratio": numbers, "area": float(inside.mean())},
    )


def ratios(bench: Bench, *own: str) -> Drawing:
    """Figure 16: the mean in-region ratio R over the training, without and with loss masking."""
    data, model = bench.scope.data(*own), bench.model
    defenses = bench.scope.defenses or ("nominal", "lm")
    cells = [Cell(c, d, f) for c in bench.concepts for d in data for f in defenses]
    found = trajectories(bench, cells)
    times = torch.tensor([round(share * model.process.steps) for share in RATIO_TIMES])
    values: dict[tuple[str, str], list[Tensor]] = {}
    for cell in bench.each("sensitivity", cells):
        concept = cell.concept
        posterior = bench.posterior(bench.poisoned(concept, cell.data))
        inside = bench.masks(concept).repeat_interleave(len(times), dim=0)
        names = [f"{concept.name}/{name}" for name in concept.image_names]
        make = partial(
            word_slots, model, PROMPT.replace("{}", concept.placeholder), concept.placeholder
        )
        over = []
        for vectors in found[cell.label].vectors[::EVERY]:
            arrays = _probe(bench).arrays(make(vectors), posterior, names, times)
            over.append(in_region_ratio(arrays["maps"].flatten(0, 1), inside).mean())
        values.setdefault((cell.data, cell.defense), []).append(torch.stack(over))
    area = float(torch.cat([bench.masks(c).mean(dim=(1, 2)) for c in bench.concepts]).mean())
    return ratio_drawing(
        {key: torch.stack(each).double() for key, each in values.items()},
        torch.tensor(next(iter(found.values())).steps[::EVERY], dtype=torch.float64),
        area,
        f"mean over {bench.concept_count} ± standard error over them, K = {bench.scope.rows} rows, "
        f"t = {', '.join(str(int(t)) for t in times)}, {model.name}",
    )


def ratio_drawing(
    values: Mapping[tuple[str, str], Float[Tensor, "concepts marks"]],
    steps: Float[Tensor, " marks"],
    area: float,
    told: str,
) -> Drawing:
    """Figure 16. ``values``: R by (data, defense); ``area``: of the object, what chance gives."""
    numbers: dict[str, Any] = {}
    panels: dict[str, list[Series]] = {}
    for (each, defense), by_concept in values.items():
        mean = by_concept.mean(dim=0)
        error = by_concept.std(dim=0, correction=min(1, len(by_concept) - 1))
        error = error / len(by_concept) ** 0.5
        line = Series(each, steps, mean, [(mean - error, mean + error)])
        panels.setdefault(defense, []).append(line)
        numbers[f"{each}, {defense}"] = {
            "mean": mean.tolist(),
            "standard_error": error.tolist(),
            "concepts": len(by_concept),
        }
    row = [
        Panel(f"{defense} training", series, "training step", "in-region ratio R")
        for defense, series in panels.items()
    ]
    title = (
        f"Share of the learned word's sensitivity inside the object: {told}; the object's area is "
        f"{area:.2f}"
    )
    figure = draw_panels(title, [row], share_y=True, width=3.6, height=3.4)
    for axes in figure.axes:
        legend(axes, below=True)
    return Drawing(figure, {"steps": steps.tolist(), "in_region_ratio": numbers, "area": area})
