"""Makes images of learned objects: for every embedding the same prompts from the same noise.

Give embeddings or folders that hold some. Images are written beside each embedding, in images/,
or below --out. Prompts: mini, all25, paper24, a text file with one a line, or the text of a prompt;
{} stands for the learned word.

Example:
    safezone generate runs/my-toy --prompts all25 --prompts "a {} on the moon"

Next:
    safezone report runs/my-toy
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safezone.commands.console import (
    Answer,
    Command,
    Flat,
    Folders,
    OnModel,
    note,
    progress,
)
from safezone.errors import UserError
from safezone.fields import Natural
from safezone.lab.run import TEXTUAL_INVERSION
from safezone.lab.settings import Sampling

if TYPE_CHECKING:
    from safezone.lab.makers import DrawingJob
    from safezone.models import Model


@dataclass(frozen=True, kw_only=True)
class Options(OnModel):
    """The options."""

    embeddings: Folders
    """Embedding files, or folders with embeddings below them."""
    out: Path | None = None
    """Folder for the images; by default images/ beside each embedding."""
    seed: Natural | None = None
    """Of the noise; by default the seed that each embedding was trained with."""
    captured: bool = False
    """Each prediction as one CUDA graph (GPU), far less work for the processor."""
    sampling: Flat[Sampling] = field(default_factory=Sampling)


def run(options: Options) -> Answer:
    """Makes the images that are missing."""
    from safezone.commands.opening import open_model, require_out_folder
    from safezone.generate import with_words
    from safezone.lab.makers import generate_all
    from safezone.results.notes import MINI_LIMITS

    files = adapter_files(options.embeddings)
    prompts = options.sampling.texts()
    if options.out is not None:
        require_out_folder(options.out)
    model = open_model(options.model, options.machine, options)
    model.scheduler(options.sampling.scheduler)  # refused before anything is made
    jobs = _jobs(options, files, model)
    if not jobs:
        raise UserError(f"{options.embeddings[0]} holds failed runs only; train again")
    for job in jobs:  # refused before anything is made
        for prompt in prompts:
            filled, word = with_words(prompt, job.adapter), job.adapter.placeholder
            if not job.adapter.deltas and word not in filled:
                raise UserError(
                    f"the prompt {prompt!r} does not name the learned word; put {{}} or {word} "
                    "where it belongs"
                )
    new = options.out is not None and not options.out.exists()
    if any(job.record["photographs"] for job in jobs):
        note(f"note: {MINI_LIMITS}.")
    try:
        reasons = generate_all(
            model, jobs, options.sampling, captured=options.captured, progress=progress()
        )
    finally:
        if new and options.out is not None and not any(map(Path.is_file, options.out.rglob("*"))):
            shutil.rmtree(options.out, ignore_errors=True)  # locks have made folders in it
    failed = {str(place): reason for place, reason in reasons.items()}
    made = [job for job in jobs if job.artifact.place not in reasons]
    count = len(prompts) * options.sampling.images_per_prompt
    lines = [f"generated: {count} images for each of {len(made)} embeddings"]
    lines += [f"  {job.artifact.place}" for job in made]
    lines += [f"  failed: {place}: {reason}" for place, reason in failed.items()]
    if made:
        lines.append(f"next: safezone report {options.out or options.embeddings[0]}")
    data = {"images": [str(job.artifact.place) for job in made], "failed": failed}
    return Answer(data, "\n".join(lines), status=1 if failed else 0)


COMMAND = Command(__doc__, Options, run)


def adapter_files(paths: Sequence[Path]) -> dict[Path, Path]:
    """Every file of an adapter, with its place below what was given."""
    from safezone.personalize import ADAPTER_FILES

    files: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            files[path] = Path(path.stem)
            continue
        inside = sorted(
            p
            for p in path.rglob("*.safetensors")
            if p.name in ADAPTER_FILES and ".partial-" not in str(p)
        )
        if not inside:
            names = ", ".join(ADAPTER_FILES)
            raise UserError(f"{path} holds none of {names}; train with `safezone personalize`")
        files |= {each: each.parent.relative_to(path) for each in inside}
    return files


def _jobs(options: Options, files: dict[Path, Path], model: "Model") -> "list[DrawingJob]":
    from safezone.lab.makers import DrawingJob
    from safezone.lab.stage import drawn, named
    from safezone.lab.store import RUN_RECORD, made_key
    from safezone.personalize import load_adapter
    from safezone.reading import read_json
    from safezone.scores import CLEAN, NOMINAL

    weights, jobs = model.fingerprint(), []
    places: dict[Path, Path] = {}
    for file, below in files.items():
        adapter = load_adapter(file, model)
        if adapter.failed:
            continue
        own = file.parent / RUN_RECORD
        origin: dict[str, Any] = read_json(own) if own.is_file() else {}
        place = file.parent / "images" if options.out is None else options.out / below
        if options.out is None and not origin:
            place = file.parent / f"{file.stem}-images"
        if place in places:
            raise UserError(
                f"{places[place]} and {file} would both be drawn into {place}; give one at a time, "
                "each with an --out of its own"
            )
        places[place] = file
        concept = str(origin.get("concept", adapter.placeholder.strip("<>")))
        seed = options.seed if options.seed is not None else int(origin.get("seed", 0))
        record = {
            "concept": concept,
            "poison": origin.get("poison", CLEAN),
            "defense": origin.get("defense", NOMINAL),
            "method": origin.get("method", TEXTUAL_INVERSION),
            "model": model.name,
            "photographs": origin.get("photographs", False),
            "embedding": os.path.abspath(file),
        }
        for name in ("clean", "training"):
            value = origin.get(name)
            record[name] = value and os.path.relpath(file.parent / value, place)
        parts = drawn(weights, options.sampling, concept, seed)
        images = named("generate").artifact(place, "", made_key(file, RUN_RECORD), *parts)
        jobs.append(DrawingJob(replace(images, place=place), adapter, concept, seed, record))
    return jobs
