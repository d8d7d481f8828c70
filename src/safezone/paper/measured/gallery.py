"""Figures 1, 8, 14 and 17 to 21: concepts, the most faithful images, the plane of two scores."""

from dataclasses import replace

from safezone.errors import UserError
from safezone.lab.bench import Bench
from safezone.lab.makers import read_images
from safezone.lab.run import Grid
from safezone.lab.schedule import run_grid
from safezone.paper.rows import Figure
from safezone.results.drawings.panels import Tile, draw_plane, draw_tiles
from safezone.results.drawings.style import Drawing
from safezone.results.statistics import mean_interval
from safezone.scores.metrics import cosine_similarity
from safezone.scores.rows import CLEAN, summarise


def dataset(bench: Bench, figure: Figure) -> Drawing:
    """Figure 14: one example image of each concept with its class word."""
    concepts = bench.concepts
    columns = min(5, len(concepts))
    tiles: list[Tile | None] = [Tile(c.images[0], f"{c.name} ({c.class_word})") for c in concepts]
    tiles += [None] * (-len(tiles) % columns)
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    count = sum(len(c.images) for c in concepts)
    title = f"{bench.concept_count}, {count} images; the first of each"
    drawn = draw_tiles(title, rows, [""] * len(rows), [""] * columns, side=1.2)
    return Drawing(drawn, {"class_words": {c.name: c.class_word for c in concepts}})


def gallery(bench: Bench, figure: Figure) -> Drawing:
    """Figures 1, 8 and 18 to 21: the image of each cell that is most similar to the clean images.

    Lines are concepts, with an original image at the left; or clean images and poisons of a single
    concept, with an image that was trained on. Columns are defenses.
    """
    several = CLEAN not in figure.row.poisons
    defenses, concepts = figure.defenses(bench), figure.concepts(bench)
    data = figure.data(bench)[1 if several else 0 :]
    sampling = bench.lab.settings.sampling
    if bench.scope.candidates is not None:
        sampling = replace(sampling, images_per_prompt=bench.scope.candidates)
    lab = replace(bench.lab, settings=replace(bench.lab.settings, sampling=sampling))
    bench, encoder = replace(bench, lab=lab), lab.encoders["instance"]
    cells = [(concept, each) for concept in concepts for each in data]
    runs = {(c.name, d, f): bench.run(c, d, f) for c, d in cells for f in defenses}
    jobs = bench.made(runs.values(), "generate")
    tiles: list[list[Tile | None]] = []
    similarities = {}
    for concept, each in cells:
        left = concept if several else bench.poisoned(concept, each)
        tiles.append([Tile(left.images[0])])
        for name in defenses:
            run = runs[concept.name, each, name]
            images, _ = read_images(jobs[run].of["generate"].place)
            pairs = cosine_similarity(encoder.features(images), encoder.features(concept.images))
            similarity = pairs.mean(dim=1)
            best = int(similarity.argmax())
            similarities[run.label] = value = float(similarity[best])
            tiles[-1].append(Tile(images[best], f"{value:.2f}"))
    prompts = sampling.texts()
    count = len(prompts) * sampling.images_per_prompt
    quoted = " and ".join(f"“{prompt.replace('{}', 'R*')}”" for prompt in prompts)
    drawn = draw_tiles(
        f"{quoted}: of {count} images each the one most similar to the clean images, by "
        f"{encoder.name} (below it), {bench.model.name}, "
        f"{len(concepts)} concept{'s' * (len(concepts) > 1)}, seed {bench.scope.seed}",
        tiles,
        [f"{concept.name},\n{each}" if several else each for concept, each in cells],
        ["original" if several else "trained on", *defenses],
        side=1.1,
    )
    return Drawing(drawn, {"prompts": list(prompts), "similarity": similarities})


def poison_plane(bench: Bench, figure: Figure) -> Drawing:
    """Figure 17: similarity to the object against fidelity to the prompt, mean over poisons."""
    lab, defenses, poisons = bench.lab, figure.defenses(bench), figure.data(bench)[1:]
    if "text_image" not in lab.encoders:
        raise UserError("figure 17 needs CLIP scores; give --text-image-encoder a CLIP model.")
    runs = [
        bench.run(c, each, name) for c in bench.concepts for each in poisons for name in defenses
    ]
    grid = Grid("figure 17", tuple(runs))
    rows = run_grid(lab, grid, progress=bench.progress, note=bench.note).rows
    rows = [replace(row, seed=poisons.index(row.poison)) for row in rows]  # nested as seeds are
    scores = [summarise(rows, name, ["defense"]) for name in ("instance_similarity", "clip_score")]
    points: dict[str, tuple[float, float]] = {}
    intervals: dict[str, tuple[float, float, float, float]] = {}
    for name in defenses:
        whole = [
            {c: v for c, v in each.get((name,), {}).items() if len(v) == len(poisons)}
            for each in scores
        ]
        if not all(whole):
            raise UserError(
                f"no concept has a value under every poison with {name}; choose other settings."
            )
        similarity, clip = (
            mean_interval({c: {0: sum(v.values()) / len(v)} for c, v in each.items()})
            for each in whole
        )
        points[name] = (similarity.mean, clip.mean)
        if len(bench.concepts) > 1:
            intervals[name] = (similarity.low, similarity.high, clip.low, clip.high)
    drawn = draw_plane(
        f"Mean over {', '.join(poisons)}; {bench.concept_count}, one seed, 95% intervals "
        f"over concepts, {bench.model.name}",
        points,
        intervals,
        xlabel=f"instance similarity ({lab.encoders['instance'].name})",
        ylabel="CLIP score (2.5 x cosine)",
    )
    return Drawing(drawn, {"points": points, "intervals": intervals, "poisons": poisons})
