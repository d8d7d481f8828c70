"""Figures 1, 8, 14 and 17 to 21: concepts, the most faithful images, the plane of two scores."""

from dataclasses import replace

from torch import Tensor

from safezone.concepts import Concept
from safezone.errors import UserError
from safezone.lab.bench import Bench
from safezone.lab.makers import read_images
from safezone.lab.run import Grid, Run
from safezone.lab.schedule import run_grid
from safezone.paper.figure import Figure
from safezone.results.drawings.curves import draw_plane
from safezone.results.drawings.gallery import Best, Line, dataset_drawing, gallery_drawing
from safezone.results.drawings.style import Drawing
from safezone.results.statistics import mean_interval
from safezone.scores.metrics import cosine_similarity
from safezone.scores.rows import CLEAN, summarise


def dataset(bench: Bench, figure: Figure) -> Drawing:
    """Figure 14: one example image of each concept."""
    count = sum(len(c.images) for c in bench.concepts)
    return dataset_drawing(
        {c.name: c.images[0] for c in bench.concepts},
        {c.name: c.class_word for c in bench.concepts},
        f"{bench.concept_count}, {count} images; the first of each",
    )


def _best(bench: Bench, run: Run, images: Tensor, concept: Concept) -> Best:
    """The image with the largest mean similarity to the clean images."""
    encoder = bench.lab.encoders["instance"]
    pairs = cosine_similarity(encoder.features(images), encoder.features(concept.images))
    similarity = pairs.mean(dim=1)
    place = int(similarity.argmax())
    return Best(run.label, images[place], float(similarity[place]))


def gallery(bench: Bench, figure: Figure) -> Drawing:
    """Figures 1, 8 and 18 to 21: the most faithful image of each cell.

    Lines are concepts, with an original image at the left; or clean images and poisons of a single
    concept, with an image that was trained on. Columns are defenses.
    """
    several = CLEAN not in figure.row.poisons
    defenses, concepts = figure.defenses(bench), figure.concepts(bench)
    data = figure.data(bench)[1 if several else 0 :]
    sampling = replace(bench.lab.settings.sampling, images_per_prompt=bench.scope.candidates)
    lab = replace(bench.lab, settings=replace(bench.lab.settings, sampling=sampling))
    bench = replace(bench, lab=lab)
    cells = [(concept, each) for concept in concepts for each in data]
    runs = {(c.name, d, f): bench.run(c, d, f) for c, d in cells for f in defenses}
    jobs, lines = bench.made(runs.values(), "generate"), []
    for concept, each in cells:
        best = {}
        for name in defenses:
            run = runs[concept.name, each, name]
            images, _ = read_images(jobs[run].of["generate"].place)
            best[name] = _best(bench, run, images, concept)
        owner = concept if several else bench.poisoned(concept, each)
        lines.append(Line(f"{concept.name},\n{each}" if several else each, owner.images[0], best))
    count = len(sampling.texts()) * sampling.images_per_prompt
    title = (
        f"of {count} images each the one most similar to the clean images, by "
        f"{lab.encoders['instance'].name} (below it), {bench.model.name}, "
        f"{len(concepts)} concept{'s' * (len(concepts) > 1)}, seed {bench.scope.seed}"
    )
    left = "original" if several else "trained on"
    return gallery_drawing(lines, left, title, sampling.texts())


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
    points: dict[str, tuple[float, float]] = {}
    intervals: dict[str, tuple[float, float, float, float]] = {}
    for name in defenses:
        both = []
        for metric in ("instance_similarity", "clip_score"):
            merged: dict[str, list[float]] = {}
            for (_, defense), values in summarise(rows, metric).items():
                for concept, seeds in values.items() if defense == name else ():
                    merged.setdefault(concept, []).append(sum(seeds) / len(seeds))
            if not merged:
                raise UserError(f"every run with {name} failed; choose other settings.")
            both.append(mean_interval({c: [sum(v) / len(v)] for c, v in merged.items()}))
        similarity, clip = both
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
