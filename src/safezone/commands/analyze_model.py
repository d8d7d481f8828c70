"""``safezone analyze timesteps`` and ``sensitivity``: what a model makes of folders of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from pydantic import Field

from safezone.commands.command import Answer, Folders, OnModel, progress
from safezone.errors import UserError
from safezone.fields import Count, Natural

if TYPE_CHECKING:
    from safezone.analysis.sensitivity import Slots
    from safezone.concepts import Concept
    from safezone.models import Model
    from safezone.personalize import Adapter


@dataclass(frozen=True, kw_only=True)
class AnalyzeTimestepsCommand(OnModel):
    """The loss of a model on images, and the norm of the noise that it predicts, by timestep.

    Shows medians with 50% and 95% bands beside the closed form for Gaussian latents, and where the
    other folders part from the first and meet it again; with --embedding also the gradient on the
    learned vectors. Images of equal names in several folders are compared under the same noise.

    Example:
        safezone analyze timesteps my-toy my-toy-poisoned --prompt "a photo of a toy" --out analysis
        safezone analyze timesteps my-toy --prompt "a photo of a <my-toy>" \\
            --embedding runs/my-toy/my-toy/nominal/seed0/learned_embeds.safetensors --out analysis
    """

    folders: Folders
    """Folders of images; the first, clean one is what the others are compared with."""
    out: Path
    """Folder for timesteps.svg, .png and .json, and what was measured."""
    prompt: str = "a photo"
    """What the model is told of every image."""
    embedding: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A learned_embeds.safetensors, whose placeholder the prompt holds."""
    timesteps: Annotated[int, Field(ge=2)] = 21
    """How many timesteps, equally spaced."""
    draws: Count = 4
    """Noises for every image."""
    seed: Natural = 0
    """Of the noise."""

    def run(self) -> Answer:
        from safezone.analysis.closed_form import closed_forms
        from safezone.analysis.sensitivity import word_slots
        from safezone.analysis.timesteps import timestep_grid
        from safezone.commands.opening import open_model, require_out_folder
        from safezone.files import digest
        from safezone.lab.bench import Measures
        from safezone.models.base import Posterior
        from safezone.paper.measured.by_timestep import expanded_drawing, statistics
        from safezone.paper.measured.training import gradient_drawing
        from safezone.personalize.files import check_fits
        from safezone.results.drawings.style import save

        require_out_folder(self.out)
        adapter = _adapter(self.embedding)
        model = open_model(self.model, self.machine, self)
        if adapter is not None:
            check_fits(adapter, model, self.embedding)
            if not word_slots(model, self.prompt, adapter.placeholder, adapter.vectors).present:
                raise UserError(
                    f"the prompt {self.prompt!r} does not hold {adapter.placeholder}, the "
                    f"placeholder of {self.embedding}; write it into --prompt"
                )
        timesteps = timestep_grid(model.process.steps, self.timesteps)
        measures = Measures(self.out / "work", model)
        vectors = None if adapter is None else digest(adapter.vectors)
        arrays = {}
        for label, concept in _concepts(self.folders, model.image_size).items():
            names = [[f"{each}/{k}" for each in concept.image_names] for k in range(self.draws)]
            compute = partial(
                statistics,
                model,
                concept.images,
                [self.prompt] * len(concept.images),
                timesteps,
                names,
                self.seed,
                adapter,
                progress(),
            )
            key = (concept.content_key(), self.prompt, vectors, timesteps.tolist())
            arrays[label] = measures.arrays("timesteps", compute, *key, self.draws, self.seed)
        theory = closed_forms(
            {name: Posterior(each["mean"], each["std"]) for name, each in arrays.items()},
            model.process,
            timesteps,
        )
        fewest = min(len(each["loss"]) for each in arrays.values())
        n = f"n = {fewest} images x noises, {model.name}"
        drawing = expanded_drawing(arrays, theory, timesteps, n)
        paths = save(drawing, self.out, "timesteps")
        data: dict[str, Any] = dict(drawing.numbers)
        if adapter is not None:
            gradients = {name: [each["gradient"]] for name, each in arrays.items()}
            second = gradient_drawing({adapter.placeholder: gradients}, timesteps, n=n)
            paths += save(second, self.out, "timesteps-gradient")
            data |= second.numbers
        lines = [
            f"{name}: parts at t = {each['part']}, meets again at t = {each['meet']}"
            for name, each in drawing.numbers["loss"].items()
            if "part" in each
        ]
        lines += [f"{name}: no closed form: {why}" for name, why in theory.left_out.items()]
        lines.append(f"written: {', '.join(map(str, paths))}")
        return Answer(data, "\n".join(lines))


@dataclass(frozen=True, kw_only=True)
class AnalyzeSensitivityCommand(OnModel):
    """Semantic sensitivity maps (Eq. 6): where in the image a word of the prompt acts.

    A map shows how much the predicted noise changes at every place when the word is replaced by
    random rows of the vocabulary; beside it is the cross-attention of the same word. Where a folder
    has masks, R is the share of a map inside the object (Eq. 16).

    Example:
        safezone analyze sensitivity my-toy my-toy-poisoned --prompt "a photo of a toy" \\
            --word toy --out analysis
        safezone analyze sensitivity my-toy --prompt "a photo of a <my-toy>" \\
            --embedding runs/my-toy/my-toy/nominal/seed0/learned_embeds.safetensors --out analysis
    """

    folders: Folders
    """Folders of images."""
    prompt: str
    """What the images show, with the word."""
    out: Path
    """Folder for sensitivity.svg, .png and .json, and what was measured."""
    word: str | None = None
    """The word that is replaced, or <start>; by default the embedding's placeholder."""
    embedding: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A learned_embeds.safetensors, whose placeholder the prompt holds."""
    timestep: Annotated[tuple[int, ...], tyro.conf.UseAppendAction] = ()
    """Timestep; may be given repeatedly. By default a tenth, 3, 5, 7 and 9 tenths of all."""
    images: Count = 2
    """How many images of every folder, from the first."""
    rows: Count = 32
    """Random rows of the vocabulary."""
    noises: Count = 4
    """Noises of each image that its maps are averaged over."""
    seed: Natural = 0
    """Of the noise and the rows."""

    def run(self) -> Answer:
        import torch

        from safezone.commands.opening import open_model, require_out_folder
        from safezone.lab.bench import Measures
        from safezone.paper.measured.maps import TIMES, Probe, folder_maps
        from safezone.results.drawings.style import save

        require_out_folder(self.out)
        model = open_model(self.model, self.machine, self)
        steps = model.process.steps
        if any(not 0 <= t < steps for t in self.timestep):
            raise UserError(f"a timestep is out of range; give 0 to {steps - 1}")
        slots, word = _slots(self, model)
        times = self.timestep or tuple(round(share * steps) for share in TIMES)
        measures = Measures(self.out / "work", model)
        probe = Probe(measures, self.rows, self.seed, self.noises)
        concepts = _concepts(self.folders, model.image_size)
        title = f"“{word}” in “{self.prompt}”"
        drawing = folder_maps(probe, slots, concepts, torch.tensor(times), self.images, title)
        paths = save(drawing, self.out, "sensitivity")
        lines = [
            f"{name}: R = "
            + ", ".join(f"{each['R']:.2f}" for key, each in values.items() if key.startswith("t="))
            for name, values in drawing.numbers["in_region_ratio"].items()
        ]
        lines.append(f"written: {', '.join(map(str, paths))}")
        return Answer(drawing.numbers, "\n".join(lines))


def _concepts(folders: Sequence[Path], size: int) -> "dict[str, Concept]":
    """By the folder's name, or its path where another one is called so."""
    from safezone.concepts import load_concept

    concepts: dict[str, Concept] = {}
    for folder in folders:
        name = folder.resolve().name
        concepts[str(folder) if name in concepts else name] = load_concept(folder, size)
    return concepts


def _adapter(embedding: Path | None) -> "Adapter | None":
    from safezone.personalize import load_embedding

    return None if embedding is None else load_embedding(embedding)


def _slots(options: AnalyzeSensitivityCommand, model: "Model") -> "tuple[Slots, str]":
    from safezone.analysis.sensitivity import START, word_slots
    from safezone.personalize.files import check_fits

    adapter = _adapter(options.embedding)
    if adapter is not None:
        check_fits(adapter, model, options.embedding)
    word = options.word or (None if adapter is None else adapter.placeholder)
    if word is None:
        raise UserError("no word is given; give --word or --embedding")
    if adapter is not None and word != adapter.placeholder:
        raise UserError(
            f"--word {word} is not {adapter.placeholder}, its placeholder; leave --word out"
        )
    slots = word_slots(model, options.prompt, word, None if adapter is None else adapter.vectors)
    if not slots.present:
        raise UserError(
            f"the prompt {options.prompt!r} does not hold {word!r}; give a word of it, or {START}"
        )
    return slots, word
