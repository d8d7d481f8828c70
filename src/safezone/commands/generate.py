"""``safezone generate`` and ``export``: what is done with what was learned."""

import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import tyro

from safezone.commands.command import (
    Answer,
    Command,
    Flat,
    Folders,
    Machine,
    OnModel,
    note,
    progress,
)
from safezone.errors import UserError
from safezone.fields import Count, Natural, plural
from safezone.lab.run import TEXTUAL_INVERSION
from safezone.lab.settings import Sampling, Settings

if TYPE_CHECKING:
    from safezone.lab.makers import DrawingJob
    from safezone.models import Model
    from safezone.personalize import Adapter


@dataclass(frozen=True, kw_only=True)
class GenerateCommand(OnModel):
    """Makes images of learned objects: for every embedding the same prompts from the same noise.

    Give embeddings or folders that hold some. Images are written beside each embedding, in images/,
    or below --out. Prompts: mini, all25, paper24, a text file with one a line, or the text of a
    prompt; {} stands for the learned word.

    Example:
        safezone generate runs/my-toy --prompts all25 --prompts "a {} on the moon"

    Next:
        safezone report runs/my-toy
    """

    embeddings: Folders
    """Embedding files, or folders with embeddings below them."""
    out: Path | None = None
    """Folder for the images; by default images/ beside each embedding."""
    seed: Natural | None = None
    """Of the noise; by default the seed that each embedding was trained with."""
    captured: bool = False
    """Each prediction as one CUDA graph (GPU), far less work for the processor."""
    sampling: Flat[Sampling] = field(default_factory=Sampling)

    def run(self) -> Answer:
        from safezone.commands.opening import open_model, require_out_folder
        from safezone.generate import sampler_for, with_words
        from safezone.lab.makers import generate_all
        from safezone.results.meaning import MINI_LIMITS

        files = _adapter_files(self.embeddings)
        prompts = self.sampling.texts()
        if self.out is not None:
            require_out_folder(self.out)
        model = open_model(self.model, self.machine, self)
        # Refused before anything is made.
        sampler_for(model, self.sampling.scheduler, self.sampling.steps)
        jobs = _jobs(self, files, model)
        if not jobs:
            raise UserError(f"{self.embeddings[0]} holds failed runs only; train again")
        for job in jobs:  # refused before anything is made
            for prompt in prompts:
                filled, word = with_words(prompt, job.adapter), job.adapter.placeholder
                if not job.adapter.deltas and word not in filled:
                    raise UserError(
                        f"the prompt {prompt!r} does not name the learned word; put {{}} or {word} "
                        "where it belongs"
                    )
        new = self.out is not None and not self.out.exists()
        if any(job.record["photographs"] for job in jobs):
            note(f"note: {MINI_LIMITS}.")
        try:
            reasons = generate_all(
                model, jobs, self.sampling, captured=self.captured, progress=progress()
            )
        finally:
            if new and self.out is not None and not any(map(Path.is_file, self.out.rglob("*"))):
                shutil.rmtree(self.out, ignore_errors=True)  # locks have made folders in it
        failed = {str(place): reason for place, reason in reasons.items()}
        places = [place for job in jobs if (place := str(job.artifact.place)) not in failed]
        count = len(prompts) * self.sampling.images_per_prompt
        of_each = f"{plural(count, 'image')} for each of {plural(len(places), 'embedding')}"
        lines = [f"generated: {of_each}"]
        lines += [f"  {place}" for place in places]
        lines += [f"  failed: {place}: {reason}" for place, reason in failed.items()]
        if places:
            first = self.embeddings[0] if self.embeddings[0].is_dir() else places[0]
            lines.append(f"next: {shlex.join(['safezone', 'report', str(self.out or first)])}")
        data = {"images": places, "failed": failed}
        return Answer(data, "\n".join(lines), status=1 if failed else 0)


@dataclass(frozen=True, kw_only=True)
class ExportCommand(Command):
    """Writes what was learned as files for other programs.

    kohya: for AUTOMATIC1111, ComfyUI and kohya's scripts; there an embedding's word is its file's
    name. diffusers: for load_textual_inversion and load_lora_weights. Custom Diffusion becomes a
    LoRA of the given rank, and its error is printed; without a rank the whole change is
    written (kohya only).

    Example:
        safezone export runs/my-toy --out for-comfyui
        safezone export runs/my-toy --form diffusers --rank 64 --out for-diffusers
    """

    adapters: Folders
    """Files of adapters, or folders with such files below them."""
    out: Path
    """Folder for the files."""
    form: Literal["kohya", "diffusers"] = "kohya"
    """Whose names the file has."""
    rank: Annotated[Count | None, tyro.conf.arg(metavar="N")] = None
    """Write changes in full as the nearest ones of this rank."""
    base: Annotated[str | None, tyro.conf.arg(name="model", metavar="MODEL")] = None
    """Model that the adapters are for, as in generate; LoRAs in others' names than diffusers' need
    it."""

    def run(self) -> Answer:
        from safezone.commands.opening import open_model, require_out_folder
        from safezone.models.deltas import Full
        from safezone.personalize import ADAPTER_FILES, export_adapter, load_adapter
        from safezone.personalize.exports import other_width, prompt_name, require_form

        require_out_folder(self.out)
        model = None if self.base is None else open_model(self.base, Machine(), Settings())
        adapters: dict[str, Adapter] = {}
        taken: set[str] = set()
        for file, below in _adapter_files(self.adapters).items():
            adapter = load_adapter(file, model)
            if adapter.failed:
                continue
            alone = file in self.adapters and file.name in ADAPTER_FILES
            word = adapter.placeholder if alone else "-".join(below.parts)
            name = prompt_name(word or file.stem)
            both = self.form == "kohya" and len(adapter.vectors) and adapter.deltas
            names = {name, f"{name}-lora"} if both else {name}
            if twice := names & taken:
                raise UserError(
                    f"two adapters would both be written as {min(twice)}; export one at a time"
                )
            taken |= names
            require_form(adapter, self.form, self.rank)
            told = {k: v for k, v in adapter.provenance.items() if k not in _PLACES}
            adapters[name] = replace(adapter, provenance=told)
        if not adapters:
            raise UserError(f"{self.adapters[0]} holds failed runs only; train again")
        deltas = [delta for adapter in adapters.values() for delta in adapter.deltas.values()]
        if self.rank is not None and not any(isinstance(delta, Full) for delta in deltas):
            raise UserError(
                f"--rank is {self.rank}, and no adapter here has changes in full, as Custom "
                "Diffusion makes them; leave it out"
            )
        before = set(self.out.rglob("*.safetensors"))
        lines, records = [], []
        for name, adapter in adapters.items():
            folder = self.out / name if self.form == "diffusers" else self.out
            export = export_adapter(adapter, folder, name, self.form, rank=self.rank)
            replaced = [path for path in export.files if path in before]
            lines += [f"{'replaced' if p in replaced else 'wrote'} {p}" for p in export.files]
            if export.error is not None:
                lines.append(f"  relative error of rank {self.rank}: {export.error:.2%}")
            if export.words:
                lines.append(f"  in prompts: {export.words}")
            limits = list(export.limits)
            if self.form == "kohya" and (width := other_width(adapter)):
                limits.append(
                    f"it is for a text encoder of width {width}; those programs' models have 768 "
                    "(SD 1.5), 1024 (SD 2.1) or SDXL's two, and cannot use it"
                )
            lines += [f"  note: {limit}" for limit in limits]
            paths = {"files": export.files, "replaced": replaced}
            texts = {name: list(map(str, each)) for name, each in paths.items()}
            records.append({**texts, "error": export.error})
        return Answer({"exported": records}, "\n".join(lines))


_PLACES: Final = ("images", "training", "clean")
"""Folders that a file's record names, which are not beside an exported one; in older files that of
the photographs, too."""


def _adapter_files(paths: Sequence[Path]) -> dict[Path, Path]:
    """Every file of an adapter, with its place below what was given."""
    from safezone.files import PARTIAL
    from safezone.personalize import ADAPTER_FILES

    files: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            files[path] = Path(path.stem)
            continue
        every = sorted(path.rglob("*.safetensors"))
        inside = [p for p in every if p.name in ADAPTER_FILES and PARTIAL not in str(p)]
        if not inside:
            names = ", ".join(ADAPTER_FILES)
            raise UserError(f"{path} holds none of {names}; train with `safezone personalize`")
        files |= {each: each.parent.relative_to(path) for each in inside}
    return files


def _jobs(options: GenerateCommand, files: dict[Path, Path], model: "Model") -> "list[DrawingJob]":
    from safezone.files import digest
    from safezone.lab.makers import DrawingJob
    from safezone.lab.stage import drawn, named
    from safezone.lab.store import RUN_RECORD, recorded_key
    from safezone.personalize import load_adapter
    from safezone.reading import read_json
    from safezone.scores import CLEAN, NOMINAL

    weights, jobs = model.fingerprint(), []
    places: dict[Path, Path] = {}
    others: dict[str, Path] = {}
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
        if (learned_on := str(origin.get("model", model.name))) != model.name:
            others.setdefault(learned_on, file)
        concept = str(origin.get("concept", adapter.placeholder.strip("<>")))
        seed = options.seed if options.seed is not None else int(origin.get("seed", 0))
        usual = {"poison": CLEAN, "defense": NOMINAL, "method": TEXTUAL_INVERSION}
        record = {
            "concept": concept,
            **{name: origin.get(name, value) for name, value in usual.items()},
            "model": model.name,
            "photographs": origin.get("photographs", False),
            "embedding": os.path.abspath(file),
        }
        for name in ("clean", "training"):
            value = origin.get(name)
            record[name] = value and os.path.relpath(file.parent / value, place)
        parts = drawn(weights, options.sampling, concept, seed)
        key = recorded_key(own, digest(file), file.name)
        images = named("generate").artifact(place, "", key, *parts)
        jobs.append(DrawingJob(replace(images, place=place), adapter, concept, seed, record))
    for name, file in others.items():
        note(f"note: {file} was learned on {name}, and {model.name} draws it; --model says which.")
    return jobs
