"""Figures 1, 8, 14 and 17 to 21: concepts, the most faithful images, the plane of two scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from safezone.concepts import Concept
from safezone.errors import UserError
from safezone.lab.bench import Bench
from safezone.lab.lab import Lab
from safezone.lab.makers import read_images
from safezone.lab.run import Grid, Run
from safezone.lab.schedule import run_grid
from safezone.lab.stage import job
from safezone.paper.named import PAPER
from safezone.paper.row import DEFENSES
from safezone.results.drawings.curves import draw_plane
from safezone.results.drawings.pictures import Tile, draw_tiles
from safezone.results.drawings.style import Drawing
from safezone.results.statistics import mean_interval
from safezone.scores.metrics import cosine_similarity
from safezone.scores.rows import CLEAN, summarise


def dataset(bench: Bench) -> Drawing:
    """Figure 14: one example image of each concept."""
    concepts = bench.concepts
    columns = min(5, len(concepts))
    tiles: list[Tile | None] = [Tile(c.images[0], f"{c.name} ({c.class_word})") for c in concepts]
    tiles += [None] * (-len(tiles) % columns)
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    count = sum(len(c.images) for c in concepts)
    title = f"{bench.concept_count}, {count} images; the first of each"
    figure = draw_tiles(title, rows, [""] * len(rows), [""] * columns, side=1.2)
    return Drawing(
        figure, {c.name: {"class_word": c.class_word, "images": len(c.images)} for c in concepts}
    )


def _made(bench: Bench, runs: Sequence[Run], prompt: str) -> tuple[Lab, dict[Run, Tensor]]:
    """The images of all runs for one prompt, through the stages of ``safezone claim``."""
    sampling = replace(
        bench.lab.settings.sampling,
        prompts=(prompt,),
        images_per_prompt=bench.scope.candidates,
    )
    lab = replace(bench.lab, settings=replace(bench.lab.settings, sampling=sampling))
    results = run_grid(lab, Grid("figure", tuple(runs)), progress=bench.progress, note=bench.note)
    if results.failed:
        run, reason = next(iter(results.failed.items()))
        raise UserError(f"{run.label} failed: {reason}; choose other settings")
    return lab, {run: read_images(job(lab, run).of["generate"].place)[0] for run in runs}


def _most_faithful(lab: Lab, images: Tensor, concept: Concept) -> tuple[Tensor, float]:
    """The image with the largest mean similarity to the clean images, and that similarity."""
    encoder = lab.encoders["instance"]
    found = cosine_similarity(encoder.features(images), encoder.features(concept.images))
    similarity = found.mean(dim=1)
    best = int(similarity.argmax())
    return images[best], float(similarity[best])


def gallery(bench: Bench, number: int) -> Drawing:
    """Figures 1, 8 and 18 to 21: the most faithful image of each cell.

    Rows are concepts, or clean images and poisons of a single one; columns are defenses. The
    left-most column has the images that were trained on.
    """
    shown = PAPER[f"figure{number}"]
    assert shown.part is not None
    assert shown.prompt is not None
    defenses = bench.scope.defenses or shown.defenses
    concepts = shown.part.of(bench.concepts, list(bench.lab.concepts))
    data = bench.scope.data(*shown.poisons)[0 if CLEAN in shown.poisons else 1 :]
    cells = [(concept, each) for concept in concepts for each in data]
    prompt = shown.prompt
    runs = {
        (concept.name, each, name): bench.run(concept, each, name)
        for concept, each in cells
        for name in defenses
    }
    lab, made = _made(bench, list(runs.values()), prompt)
    shown_rows = []
    for concept, each in cells:
        chosen = {}
        for name in defenses:
            run = runs[concept.name, each, name]
            chosen[name] = _most_faithful(lab, made[run], concept)
        label = f"{concept.name},\n{each}" if len(concepts) > 1 else each
        runs_of = tuple(runs[concept.name, each, name].label for name in defenses)
        shown_rows.append(Row(label, bench.poisoned(concept, each).images[0], chosen, runs_of))
    return gallery_drawing(
        shown_rows,
        prompt,
        f"of {bench.scope.candidates} images each the one most similar to the clean images, by "
        f"{lab.encoders['instance'].name} (below it), {bench.model.name}, "
        f"{len(concepts)} concept{'s' * (len(concepts) > 1)}, seed {bench.scope.seed}",
    )


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a gallery: a concept's clean or poisoned images.

    ``trained_on``: uint8 [3, h, w]; ``chosen``: by defense an image and its similarity; ``runs``:
    what the numbers are called.
    """

    label: str
    trained_on: Tensor
    chosen: Mapping[str, tuple[Tensor, float]]
    runs: tuple[str, ...]


def gallery_drawing(rows: Sequence[Row], prompt: str, told: str) -> Drawing:
    """The images of each row, the trained ones first, with the similarity below each."""
    tiles: list[list[Tile | None]] = [
        [Tile(row.trained_on), *(Tile(image, f"{s:.2f}") for image, s in row.chosen.values())]
        for row in rows
    ]
    numbers = {
        run: similarity
        for row in rows
        for run, (_, similarity) in zip(row.runs, row.chosen.values(), strict=True)
    }
    figure = draw_tiles(
        f"“{prompt.replace('{}', 'R*')}”: {told}",
        tiles,
        [row.label for row in rows],
        ["trained on", *rows[0].chosen],
        side=1.1,
    )
    return Drawing(figure, {"prompt": prompt, "similarity": numbers})


def plane(bench: Bench, *own: str) -> Drawing:
    """Figure 17: similarity to the object against fidelity to the prompt, mean over poisons."""
    lab, defenses = bench.lab, bench.scope.defenses or DEFENSES
    if "text_image" not in lab.encoders:
        raise UserError("figure 17 needs CLIP scores; give --text-image-encoder a CLIP model.")
    poisons = bench.scope.data(*own)[1:]
    runs = [
        bench.run(concept, each, name)
        for concept in bench.concepts
        for each in poisons
        for name in defenses
    ]
    results = run_grid(
        lab, Grid("figure 17", tuple(runs)), progress=bench.progress, note=bench.note
    )
    metrics = ("instance_similarity", "clip_score")
    points: dict[str, tuple[float, float]] = {}
    intervals: dict[str, tuple[float, float, float, float]] = {}
    for name in defenses:
        found = []
        for metric in metrics:
            by_cell = summarise(results.rows, metric)
            merged: dict[str, list[float]] = {}
            for (_, defense), values in by_cell.items():
                if defense == name:
                    for concept, seeds in values.items():
                        merged.setdefault(concept, []).append(sum(seeds) / len(seeds))
            if not merged:
                raise UserError(f"every run with {name} failed; choose other settings.")
            means = {concept: [sum(v) / len(v)] for concept, v in merged.items()}
            found.append(mean_interval(means))
        similarity, clip = found
        points[name] = (similarity.mean, clip.mean)
        if len(bench.concepts) > 1:
            intervals[name] = (similarity.low, similarity.high, clip.low, clip.high)
    title = (
        f"Mean over {', '.join(poisons)}; {bench.concept_count}, one seed, 95% intervals "
        f"over concepts, {bench.model.name}"
    )
    figure = draw_plane(
        title,
        points,
        intervals,
        xlabel=f"instance similarity ({lab.encoders['instance'].name})",
        ylabel="CLIP score (2.5 x cosine)",
    )
    return Drawing(figure, {"points": points, "intervals": intervals, "poisons": poisons})
