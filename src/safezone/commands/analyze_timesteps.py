"""The loss of a model on images, and the norm of the noise that it predicts, by timestep.

Shows medians with 50% and 95% bands beside the closed form for Gaussian latents, and where the
other folders part from the first and meet it again; with --embedding also the gradient on the
learned vectors. Images of equal names in several folders are compared under the same noise.

Example:
    safezone analyze timesteps my-toy my-toy-poisoned --prompt "a photo of a toy" --out analysis
    safezone analyze timesteps my-toy --prompt "a photo of a <my-toy>" \\
        --embedding runs/my-toy/my-toy/nominal/seed0/learned_embeds.safetensors --out analysis
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from pydantic import Field

from safezone.commands.console import Answer, Command, Folders, OnModel, progress
from safezone.errors import UserError
from safezone.fields import Count, Natural

if TYPE_CHECKING:
    from safezone.personalize import Adapter


@dataclass(frozen=True, kw_only=True)
class Options(OnModel):
    """The options."""

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


def run(options: Options) -> Answer:
    """Measures what is missing and draws."""
    from safezone.analysis.closed_form import closed_forms
    from safezone.analysis.timesteps import timestep_grid
    from safezone.commands.opening import open_model, require_out_folder
    from safezone.concepts import load_concept
    from safezone.files import digest
    from safezone.lab.measure import Measures
    from safezone.models.base import Posterior
    from safezone.paper.measured.by_timestep import statistics
    from safezone.results.drawings.bands import expanded_drawing, gradient_drawing
    from safezone.results.drawings.style import save

    require_out_folder(options.out)
    adapter = _adapter(options)
    model = open_model(options.model, options.machine, options)
    timesteps = timestep_grid(model.process.steps, options.timesteps)
    measures = Measures(options.out / "work", model)
    vectors = None if adapter is None else digest(adapter.vectors)
    arrays = {}
    for folder in options.folders:
        concept = load_concept(folder, model.image_size)
        name = folder.resolve().name
        label = name if name not in arrays else str(folder)
        names = [[f"{each}/{k}" for each in concept.image_names] for k in range(options.draws)]
        compute = partial(
            statistics,
            model,
            concept.images,
            [options.prompt] * len(concept.images),
            timesteps,
            names,
            options.seed,
            adapter,
            progress(),
        )
        key = (concept.content_key(), options.prompt, vectors, timesteps.tolist())
        arrays[label] = measures.arrays("timesteps", compute, *key, options.draws, options.seed)
    theory = closed_forms(
        {name: Posterior(each["mean"], each["std"]) for name, each in arrays.items()},
        model.process,
        timesteps,
    )
    n = f"n = {min(len(each['loss']) for each in arrays.values())} images x noises, {model.name}"
    drawing = expanded_drawing(
        {name: each["loss"] for name, each in arrays.items()},
        {name: each["prediction_norm"] for name, each in arrays.items()},
        theory,
        timesteps,
        elements=next(iter(arrays.values()))["mean"][0].numel(),
        n=n,
    )
    paths = save(drawing, options.out, "timesteps")
    data: dict[str, Any] = dict(drawing.numbers)
    if adapter is not None:
        gradients = {name: [each["gradient"]] for name, each in arrays.items()}
        second = gradient_drawing({adapter.placeholder: gradients}, timesteps, n=n)
        paths += save(second, options.out, "timesteps-gradient")
        data |= second.numbers
    lines = [
        f"{name}: parts at t = {each['part']}, meets again at t = {each['meet']}"
        for name, each in drawing.numbers["loss"].items()
        if "part" in each
    ]
    lines += [f"{name}: no closed form: {why}" for name, why in theory.left_out.items()]
    lines.append(f"written: {', '.join(map(str, paths))}")
    return Answer(data, "\n".join(lines))


def _adapter(options: Options) -> "Adapter | None":
    from safezone.personalize import load_embedding

    if options.embedding is None:
        return None
    adapter = load_embedding(options.embedding)
    if adapter.placeholder not in options.prompt:
        raise UserError(
            f"the prompt {options.prompt!r} does not hold {adapter.placeholder}, the placeholder "
            f"of {options.embedding}; write it into --prompt"
        )
    return adapter


COMMAND = Command(__doc__, Options, run)
