"""A folder of results: reading its images, writing its tables and its page."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from safezone import __version__
from safezone.concepts import Concept, load_concept
from safezone.errors import UserError
from safezone.files import cannot_write, read_json, write_json, write_text
from safezone.images import read_image
from safezone.lab.kinds import kind_of
from safezone.lab.run import Run
from safezone.lab.store import IMAGES_RECORD, ROWS
from safezone.results import ConceptPanel, Generated, Report, meaning_sentences, render_report
from safezone.results.summary import METRIC, summary_json, summary_markdown
from safezone.results.tables import score_table, settings_of, write_table
from safezone.scores import CLEAN, Row, write_rows

INDEX: Final = "index.json"
"""Names the image folders that belong to a result, and what its page says beside them."""

PAGE: Final = "report.html"
PROMPTS_SHOWN: Final = 6

MINI_LIMITS: Final = (
    "The built-in model was trained on a small procedural world of flat, coloured objects on eight "
    "backgrounds: it cannot draw photographs, faces, text or any other object, so what it makes of "
    "real photographs shows that the steps run, not whether a protection holds"
)


@dataclass(frozen=True, eq=False)
class Made:
    """The images of one run, uint8 [n, 3, h, w], with the prompt of each and where they lie.

    ``clean`` and ``training``: the folders of the clean and of the trained-on images, if known.
    """

    run: Run
    class_word: str
    placeholder: str
    images: Tensor
    prompts: list[str]
    place: Path
    clean: Path | None
    training: Path | None

    def clean_concept(self) -> Concept | None:
        """The clean images at the generated images' size, with the run's words."""
        if self.clean is None or not self.clean.is_dir():
            return None
        size = self.images.shape[-1]
        return load_concept(
            self.clean, size, class_word=self.class_word or None, placeholder=self.placeholder
        )


def _path(place: Path, value: Any) -> Path | None:
    return Path(os.path.normpath(place / value)) if isinstance(value, str) and value else None


def read_made(place: Path, *, with_images: bool = True, most: int | None = None) -> Made:
    """Reads what ``stages.generate_stage`` wrote, or ``most`` images of it.

    Raises UserError when it is damaged.
    """
    record = read_json(place / IMAGES_RECORD)
    try:
        cell = [record[k] for k in ("concept", "poison", "defense", "method", "model", "seed")]
        files = [place / image["file"] for image in record["images"]]
        prompts = [str(image["prompt"]) for image in record["images"]]
        words = str(record["class_word"]), str(record["placeholder"])
    except (KeyError, TypeError) as error:
        record_path = place / IMAGES_RECORD
        raise UserError(f"{record_path} lacks {error}; generate the images again") from error
    arrays = [torch.from_numpy(read_image(file)) for file in files[:most]] if with_images else []
    images = torch.stack(arrays).permute(0, 3, 1, 2).contiguous() if arrays else torch.empty(0)
    clean, training = _path(place, record.get("clean")), _path(place, record.get("training"))
    return Made(Run(*cell), *words, images, prompts, place, clean, training)


def image_folders(folder: Path) -> list[Path]:
    """The image folders of a result: those of its index, else all below it, in order."""
    if (folder / INDEX).is_file():
        return [folder / name for name in read_json(folder / INDEX).get("images", [])]
    found = sorted(path.parent for path in folder.rglob(IMAGES_RECORD))
    return [path for path in found if not any(part.startswith(".") for part in path.parts)]


def _shown(made: Made, most: int | None) -> Generated:
    count = len(made.prompts) if most is None else min(most, len(made.prompts))
    return Generated(made.images[:count], made.prompts[:count])


def panels(folders: Sequence[Path], most_prompts: int | None = None) -> list[ConceptPanel]:
    """The pictures of every concept, of the lowest seed of each (poison, defense)."""
    chosen: dict[str, dict[tuple[str, str], Made]] = {}
    made = (read_made(folder, with_images=False) for folder in folders)
    for each in sorted(made, key=lambda m: m.run.seed):
        cell = (each.run.poison, each.run.defense)
        chosen.setdefault(each.run.concept, {}).setdefault(cell, each)
    result = []
    for name, cells in chosen.items():
        whole = {cell: read_made(each.place) for cell, each in cells.items()}
        first = next(iter(whole.values()))
        size = first.images.shape[-1]
        clean = next((c for m in whole.values() if (c := m.clean_concept()) is not None), None)
        poisoned = {
            m.run.poison: load_concept(m.training, size).images
            for m in whole.values()
            if m.run.poison != CLEAN and m.training is not None and m.training.is_dir()
        }
        result.append(
            ConceptPanel(
                name,
                first.class_word,
                torch.empty(0, 3, size, size, dtype=torch.uint8) if clean is None else clean.images,
                poisoned,
                {cell: _shown(m, most_prompts) for cell, m in whole.items()},
            )
        )
    return result


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    found = {"safezone": __version__}
    for name in ("torch", "diffusers", "transformers", "pillow", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def caveats(rows: Sequence[Row], failed: Mapping[str, str], photographs: bool) -> list[str]:
    """What a reader has to know before trusting the numbers."""
    found = []
    if photographs:
        found.append(MINI_LIMITS + ".")
    elif any(kind_of(row.model) == "mini" for row in rows):
        found.append(
            "Measured on the built-in model of a procedural world: the same code runs on Stable "
            "Diffusion, the numbers do not carry over."
        )
    concepts = len({row.concept for row in rows})
    seeds = len({row.seed for row in rows})
    if rows and (concepts < 6 or seeds < 2):
        found.append(
            f"{concepts} concept{'s' * (concepts != 1)} and {seeds} seed{'s' * (seeds != 1)}: "
            "too few to tell small differences from noise."
        )
    if failed:
        first, reason = next(iter(failed.items()))
        found.append(f"{len(failed)} runs failed and are left out; the first is {first}: {reason}.")
    return found


def write_results(
    folder: Path,
    rows: Sequence[Row],
    *,
    title: str,
    folders: Sequence[Path],
    settings: Mapping[str, object],
    command: str = "",
    failed: Mapping[str, str] | None = None,
    photographs: bool = False,
    duration: float | None = None,
    most_prompts: int | None = None,
) -> Path:
    """Writes rows, tables (CSV, Markdown, LaTeX), summary.json and the page; returns its path.

    ``folders``: the image folders shown. ``failed``: reasons by run. Raises UserError when the
    folder cannot be written.
    """
    reasons = dict(failed or {})
    report = Report(
        title=title,
        summary_sentences=meaning_sentences(rows) if rows else ["No scores were measured."],
        concepts=panels(folders, most_prompts),
        rows=rows,
        caveats=caveats(rows, reasons, photographs),
        settings=settings,
        command=command,
        versions=versions(),
        duration=duration,
    )
    summary = {
        "settings": settings,
        "versions": versions(),
        "results": summary_json(rows) if rows else [],
        "meaning": meaning_sentences(rows) if rows else [],
        "failed": reasons,
        "duration_seconds": duration,
    }
    try:
        if rows:
            write_rows(folder / ROWS, rows)
            write_rows(folder / "rows.csv", rows)
            write_text(folder / "table.md", summary_markdown(rows))
        for index, (model, method) in enumerate(settings_of(rows)):
            ours = [row for row in rows if (row.model, row.method) == (model, method)]
            suffix = "" if index == 0 else f"-{index + 1}"
            for form in ("csv", "tex"):
                write_table(score_table(ours, METRIC), folder / f"table{suffix}.{form}")
        write_json(folder / "summary.json", summary)
        render_report(report, folder / PAGE)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder / PAGE
