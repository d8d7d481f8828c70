"""Makes the detectors of `safezone inspect` and measures them: ``python -m training.inspection``.

They are fitted, and their thresholds chosen, on the six development objects and on pictures of the
built-in world, and for photographs on those that come with scikit-image. They are measured on the
ten concepts, and on the photographs below ``--photos``. Poisons of few steps are made once and kept
below ``--work``. Tables are printed, and the detectors written to ``--out``.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import torch

from safezone.concepts.datasets import miniworld_concepts
from safezone.errors import UserError
from safezone.files import write_json
from safezone.inspection.detector import DETECTORS, Detector, FlagRate
from safezone.inspection.features import features_of, image_features
from safezone.models import Model, load_model
from safezone.poisons import poison
from training.inspection_fit import Cell, auc, fit, rate
from training.inspection_pictures import (
    JPEG_75,
    LEVELS,
    VERSIONS,
    Pictures,
    changed,
    high_share,
    of_bundled_photographs,
    of_concepts,
    of_folders,
    poisoned,
    with_noise,
)

FITTED: Final = ("adm+", "sds-", "ea")
"""The poisons that detectors are fitted on."""
PAPER: Final = ("adm+", "adm-", "sds+", "sds-", "ea", "da")
NEWER: Final = ("mist", "photoguard", "ace", "pid", "diffusionguard", "adm+@szt", "adm+@blur")
ON_PHOTOGRAPHS: Final = ("adm+", "ea")


def negatives(pictures: Pictures, model: Model | None) -> Iterator[Cell]:
    """Clean pictures in all their versions, and with noise as large as a poison's budget."""
    for way, posting in VERSIONS.items():
        rows = image_features(list(changed(pictures.images, posting)), model)
        yield Cell(way, rows, pictures.objects)
    for level in LEVELS:
        rows = image_features(list(with_noise(pictures, level)), model)
        yield Cell(f"noise of {level}/255", rows, pictures.objects, noise=True)


def positives(
    model: Model, pictures: Pictures, name: str, steps: int, work: Path, with_model: bool
) -> dict[tuple[int, bool], Cell]:
    """A poison's cells by its level and by whether a JPEG of quality 75 came after it."""
    cells = {}
    clean = pictures.images[list(pictures.to_poison)]
    objects = tuple(pictures.objects[i] for i in pictures.to_poison)
    for level in LEVELS:
        images = poisoned(model, pictures, name, level, steps, work)
        high = tuple(high_share(clean, images).tolist())
        for compressed in (False, True):
            seen = changed(images, JPEG_75) if compressed else images
            rows = image_features(list(seen), model if with_model else None)
            cells[level, compressed] = Cell(name, rows, objects, high=high)
    return cells


def poison_table(
    detector: Detector,
    clean: Sequence[Cell],
    cells: Mapping[str, Mapping[tuple[int, bool], Cell]],
) -> str:
    """AUC of every poison at every level against clean images of the same way, and more."""
    by_way = {cell.way: cell for cell in clean}
    heads = [f"{level}{', JPEG 75' * jpeg}" for jpeg in (False, True) for level in LEVELS]
    extra = ["against noise of 8", "flagged: 4 / 8 / 16", "after JPEG 75", "kind right at 16"]
    lines = ["| " + " | ".join(["poison", *heads, *extra]) + " |"]
    lines.append("|---" * (1 + len(heads) + len(extra)) + "|")
    for name, levels in cells.items():
        row = [name]
        for jpeg in (False, True):
            against = by_way["JPEG 75" if jpeg else "as they are"]
            row += [auc(detector, levels[level, jpeg], against) for level in LEVELS]
        row.append(auc(detector, levels[8, False], by_way["noise of 8/255"]))
        for jpeg in (False, True):
            shares = [rate(detector, levels[level, jpeg])[0] for level in LEVELS]
            row.append(" / ".join(f"{share:.0%}" for share in shares))
        row.append(_kinds(detector, levels[16, False]))
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _kinds(detector: Detector, cell: Cell) -> str:
    """Of the flagged images, how many are told the kind that most of their change is of."""
    kinds = [detector.kind(row) for row in cell.rows]
    right = [
        kind == ("fine" if high > 0.5 else "broad")
        for kind, high in zip(kinds, cell.high, strict=True)
        if kind != "nothing"
    ]
    return f"{sum(right)} of {len(right)}"


def rate_table(rates: Mapping[str, FlagRate]) -> str:
    """The share of clean images that are flagged, by what happened to them."""
    lines = ["| clean images | flagged | 95% interval | images |", "|---|---|---|---|"]
    for way, (share, low, high, total) in rates.items():
        lines.append(f"| {way} | {share:.0%} | [{low:.0%}, {high:.0%}] | {total} |")
    return "\n".join(lines)


def measured(
    detector: Detector,
    clean: Sequence[Cell],
    cells: Mapping[str, Mapping[tuple[int, bool], Cell]],
) -> Detector:
    """Prints both tables; the detector with its rates."""
    rates = {cell.way: rate(detector, cell) for cell in clean}
    print(f"{poison_table(detector, clean, cells)}\n\n{rate_table(rates)}\n", flush=True)
    return replace(detector, rates=rates)


def world_detector(model: Model, options: argparse.Namespace) -> Detector:
    """For pictures of the built-in world, with the model's features."""

    def cells(pictures: Pictures, names: Sequence[str]) -> dict[str, Any]:
        return {
            name: positives(
                model, pictures, name, _steps(name, options.steps), options.work, with_model=True
            )
            for name in names
        }

    development = miniworld_concepts(which="development")
    pictures = of_concepts("development", development, options.images, options.extra)
    fitted = cells(pictures, options.fitted)
    every = [cell for levels in fitted.values() for cell in levels.values()]
    detector = fit(list(negatives(pictures, model)), every, model)
    ten = of_concepts("novel", miniworld_concepts()[: options.concepts], 1)
    return measured(detector, list(negatives(ten, model)), cells(ten, options.poison))


def _steps(name: str, steps: int) -> int:
    return max(1, steps // 3) if name == "da" else steps  # it samples, several passes a step


def random_encoder() -> Model:
    """The built-in model with an encoder of random weights: what nothing was fitted on."""
    model: Any = load_model("mini", "cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in model.vae.encoder.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    random: Model = model
    return random


def photograph_detector(model: Model, options: argparse.Namespace) -> Detector:
    """For photographs, by pixels alone; measured where there are some below ``--photos``."""

    def cells(pictures: Pictures) -> dict[str, Any]:
        return {
            name: positives(model, pictures, name, options.steps, options.work, with_model=False)
            for name in ON_PHOTOGRAPHS
        }

    bundled = of_bundled_photographs(options.crops, options.images)
    every = [cell for levels in cells(bundled).values() for cell in levels.values()]
    detector = fit(list(negatives(bundled, None)), every, None)
    if options.photos is None:
        return detector
    found = of_folders(options.photos, options.images)
    carried = positives(
        random_encoder(), found, "ea", options.steps, options.work, with_model=False
    )
    folders = sorted({path.parent for path in options.photos.rglob("*.jpg")})
    whole = [row for folder in folders for row in features_of(folder, None).values()]
    clean = [*negatives(found, None), Cell("whole files as they are", whole, found.objects)]
    return measured(detector, clean, cells(found) | {"ea on random weights": carried})


def main(arguments: list[str] | None = None) -> None:
    """Fits, measures, prints the tables and writes the detectors."""
    parser = argparse.ArgumentParser(prog="python -m training.inspection")
    parser.add_argument("--photos", type=Path, help="a folder of folders of photographs (*.jpg)")
    parser.add_argument("--work", type=Path, default=Path("work-train/inspection"))
    parser.add_argument("--out", type=Path, default=DETECTORS, help="where the detectors go")
    parser.add_argument("--steps", type=int, default=12, help="of every poison, da a third of them")
    parser.add_argument("--poison", action="append", help="measured; may be repeated")
    parser.add_argument("--fitted", action="append", help="fitted on; may be repeated")
    parser.add_argument("--concepts", type=int, default=10, help="that it is measured on")
    parser.add_argument("--images", type=int, default=2, help="poisoned of each object fitted on")
    parser.add_argument("--crops", type=int, default=25, help="clean pieces of each photograph")
    parser.add_argument("--extra", type=int, default=30, help="clean pictures beside the objects'")
    options = parser.parse_args(arguments)
    options.poison = options.poison or [*PAPER, *NEWER]
    options.fitted = options.fitted or list(FITTED)
    try:  # before the hours that all else takes
        for name in (*options.poison, *options.fitted):
            poison(name)
    except UserError as error:
        parser.error(str(error))
    if options.photos is not None and not any(options.photos.rglob("*.jpg")):
        parser.error(f"no photographs (*.jpg) below {options.photos}; name another folder")
    torch.set_num_threads(1)
    model = load_model("mini", "cpu")
    made = {
        "mini": world_detector(model, options),
        "photographs": photograph_detector(model, options),
    }
    write_json(options.out, {name: asdict(detector) for name, detector in made.items()})


if __name__ == "__main__":
    main()
