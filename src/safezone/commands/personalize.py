"""``safezone personalize``: what is learned from folders of images."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import tyro

from safezone.commands.command import Answer, Flat, Folders, OnModel, note, progress
from safezone.errors import UserError
from safezone.fields import Count, Natural, plural
from safezone.lab.presets import own_cells
from safezone.lab.settings import Names
from safezone.lab.training import Training

if TYPE_CHECKING:
    from safezone.concepts import Concept
    from safezone.lab.trainings import TrainingJob
    from safezone.models import Model

FEWEST_IMAGES: Final = 3


@dataclass(frozen=True, kw_only=True)
class PersonalizeCommand(OnModel):
    """Learns the objects of folders: all folders, defenses and seeds in one pass through the model.
    By textual inversion (ti), lora or custom-diffusion, each with its own preset.

    Defenses: nominal (none), jpeg, t600 (train at timesteps from 600), lm (loss mask),
    szt (Safe-Zone Training: JPEG, timesteps from 500, a dilated loss mask), or parts joined by +,
    as in jpeg+t600. Further ones: advclean, regen, pdmpure, tanh5, power2, im, lim, zm and
    more (docs/defenses.md). lm, im, lim, zm and szt need masks: `safezone mask FOLDER`.

    Writes OUT/<folder>/<defense>/seed<k>/learned_embeds.safetensors, which diffusers,
    AUTOMATIC1111, ComfyUI and kohya's scripts read, with its log beside it; of the other methods
    pytorch_lora_weights.safetensors or custom_diffusion.safetensors (`safezone export` writes both
    for other programs). Killed and started again, it goes on.

    Example:
        safezone personalize my-toy my-toy-poisoned --defense nominal --defense szt \\
            --out runs/my-toy

    Next:
        safezone generate runs/my-toy
    """

    folders: Folders
    """Folders, each with 3 to 15 images of one object, clean or poisoned."""
    out: Path
    """Folder for what is learned."""
    defense: Names = ("nominal",)
    """A defense; may be given repeatedly. (default: nominal)"""
    class_word: str | None = None
    """What the object is called, for every folder; by default concept.json's or the name's."""
    placeholder: str | None = None
    """The new word (ti, custom-diffusion); by default the name of the object in angle brackets."""
    seed: Natural = 0
    """The first seed."""
    seeds: Count = 1
    """How many seeds, from the first."""
    reuse: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Copy what is wanted and lies below this folder, such as the --out of a grid."""
    training: Flat[Training] = field(default_factory=Training)

    def run(self) -> Answer:
        from safezone.commands.opening import open_model, require_out_folder, tell_limits
        from safezone.concepts import CONCEPT_FILE, image_files
        from safezone.defenses import defense, resolve
        from safezone.files import locked
        from safezone.lab.memory import ItemBytes
        from safezone.lab.store import artifacts_in
        from safezone.lab.trainings import runs_a_pass, train_fitting
        from safezone.personalize import PreparedRun, check_placeholder, ready
        from safezone.personalize.checkpoints import require_tracker

        own_cells(self.machine.config, self.model)
        rows = [defense(name) for name in self.defense]
        method = self.training.personalization()
        if self.placeholder is not None and not method.vectors:
            raise UserError(
                f"--placeholder is given, but {self.training.method} learns no new word; leave it "
                "out, or name its dummy word by --token"
            )
        if self.training.tracker is not None:
            require_tracker(self.training.tracker)
        require_out_folder(self.out)
        for folder in self.folders:
            if (count := len(image_files(folder))) < FEWEST_IMAGES:
                raise UserError(
                    f"{folder} holds {plural(count, 'image')} and {FEWEST_IMAGES} are needed; give "
                    f"{FEWEST_IMAGES} to 15 images of one object"
                )
        model = open_model(self.model, self.machine, self)
        concepts = _concepts(self, model.image_size)
        for row in rows:
            resolve(row.preprocess, model)
        for concept, _ in concepts.values():
            check_placeholder(model, concept.placeholder)
            for row in rows:
                row.loss_mask(concept.images, concept.masks, model.factor, concept=concept.name)
            # What the method does not fit, such as targets or a start, before anything is written.
            for row in {row.words: row for row in rows}.values():
                parts = (concept, row.timesteps, row.loss_mask, self.seed)
                ready(
                    model,
                    [PreparedRun(concept.name, *parts, words=row.words)],
                    method,
                    compile=self.training.compile,
                    captured=self.training.captured,
                    checkpointing=self.training.checkpointing,
                )
        for label, (concept, folder) in concepts.items():
            if self.class_word is None and not (folder / CONCEPT_FILE).is_file():
                word = concept.class_word
                note(
                    f"{label}: its class word is {word!r}, the folder's name, without --class-word"
                )
        clean = {label: _clean(folder, concept) for label, (concept, folder) in concepts.items()}
        photographs = tell_limits(self.model, self.folders)
        again = {} if self.reuse is None else artifacts_in(self.reuse)
        with locked(self.out):
            jobs = _jobs(self, model, concepts, clean, again, photographs)
            scratch, item = self.out / ".training", ItemBytes.of(model).trained
            capacity = runs_a_pass(scratch, model, self.training, len(jobs), item)
            how = {"progress": progress(), "note": note}
            train_fitting(capacity, jobs, self.training, scratch, **how)
        places = [str(job.artifact.place) for job in jobs if job.failed_at is None]
        lost = [job for job in jobs if job.failed_at is not None]
        failed = {str(job.artifact.place): job.failed_at for job in lost}
        lines = [f"learned: {len(places)} of {len(jobs)} runs, {method.steps} steps each"]
        lines += [f"  {place}" for place in places]
        lines += [f"  failed: {place} became NaN at step {step}" for place, step in failed.items()]
        if places:
            draw = ["safezone", "generate", str(self.out), "--model", self.model]
            lines.append(f"next: {shlex.join(draw)}")
        data = {"out": str(self.out), "runs": places, "failed": failed}
        return Answer(data, "\n".join(lines), status=1 if failed else 0)


def _concepts(options: PersonalizeCommand, size: int) -> "dict[str, tuple[Concept, Path]]":
    """Each folder's concept under a label of its own: the concept's name, else the folder's."""
    from safezone.concepts import folder_name, load_concept

    every = [
        load_concept(
            folder,
            size,
            class_word=options.class_word,
            placeholder=options.placeholder,
            require_captions=options.training.templates == "captions",
        )
        for folder in options.folders
    ]
    names = [concept.name for concept in every]
    labels: dict[str, tuple[Concept, Path]] = {}
    for concept, folder in zip(every, options.folders, strict=True):
        label = concept.name if names.count(concept.name) == 1 else folder_name(folder)
        if label in labels:
            raise UserError(
                f"{labels[label][1]} and {folder} would both be called {label}; rename one folder"
            )
        labels[label] = concept, folder
    return labels


def _clean(folder: Path, concept: "Concept") -> "Concept | None":
    """The concept as it was before its poison; None where that is not known any more."""
    from safezone.commands.opening import clean_source
    from safezone.concepts import load_concept

    source = clean_source(folder)
    if source is None or source == folder:
        return None if source is None else concept
    size, word, placeholder = concept.images.shape[-1], concept.class_word, concept.placeholder
    return load_concept(source, size, class_word=word, placeholder=placeholder)


def _jobs(
    options: PersonalizeCommand,
    model: "Model",
    concepts: "dict[str, tuple[Concept, Path]]",
    clean_concepts: "dict[str, Concept | None]",
    again: "Mapping[str, Path]",
    photographs: bool,
) -> "list[TrainingJob]":
    """One job for each folder, defense and seed; copies the training images into ``out``."""
    from safezone.defenses import defense
    from safezone.lab.lab import UNSCORED, Lab
    from safezone.lab.run import Run
    from safezone.lab.settings import Settings
    from safezone.lab.stage import job
    from safezone.lab.store import MANIFEST, poison_of, recorded_key, take
    from safezone.lab.trainings import TrainingJob
    from safezone.personalize import TrainingRun
    from safezone.scores import CLEAN

    method = options.training.personalization()
    settings = Settings(options.model, training=options.training)
    by_label = {label: concept for label, (concept, _) in concepts.items()}
    sources = {
        label: recorded_key(folder / MANIFEST, concept.content_key())
        for label, (concept, folder) in concepts.items()
    }
    lab = Lab(options.out, model, UNSCORED, settings, by_label, sources=sources)
    jobs = []
    for label, (concept, folder) in concepts.items():
        training = _copy(concept, options.out / label / "training")
        poison, of_clean = poison_of(folder), clean_concepts[label]
        clean = None if of_clean is None else training
        if of_clean is not None and of_clean is not concept:
            clean = _copy(of_clean, options.out / label / "clean")
        for row in {row.name: row for row in map(defense, options.defense)}.values():
            for seed in range(options.seed, options.seed + options.seeds):
                place = options.out / label / row.name / f"seed{seed}"
                cell = Run(label, CLEAN, row.name, method.name, model.name, seed)
                artifact = replace(job(lab, cell).of["personalize"], place=place)
                record: dict[str, Any] = {
                    "concept": concept.name,
                    "class_word": concept.class_word,
                    "placeholder": concept.placeholder,
                    "poison": poison,
                    "defense": row.name,
                    "method": method.name,
                    "model": model.name,
                    "training": os.path.relpath(training, place),
                    "clean": None if clean is None else os.path.relpath(clean, place),
                    "photographs": photographs,
                }
                name_of_run = f"{label},{row.name},{seed}"
                open_run = partial(TrainingRun, name_of_run, concept, row, seed)
                jobs.append(TrainingJob(open_run, artifact, record))
                if artifact.key in again and not artifact.done:
                    take(again[artifact.key], artifact, record)
    return jobs


def _copy(concept: "Concept", place: Path) -> Path:
    """The images as they are trained on, kept with the results."""
    from safezone.concepts import CONCEPT_FILE, save_concept
    from safezone.lab.store import Artifact

    key = concept.content_key()
    if not Artifact("training", key, place, CONCEPT_FILE).done:
        save_concept(concept, place, extra={"key": key})
    return place
