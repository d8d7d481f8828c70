"""Semantic sensitivity maps (Eq. 6): where in the image a word of the prompt acts.

A map shows how much the predicted noise changes at every place when the word is replaced by random
rows of the vocabulary; beside it is the cross-attention of the same word. Where a folder has masks,
R is the share of a map inside the object (Eq. 16).

Example:
    safezone analyze sensitivity my-toy my-toy-poisoned --prompt "a photo of a toy" --word toy \\
        --out analysis
    safezone analyze sensitivity my-toy --prompt "a photo of a <my-toy>" \\
        --embedding runs/my-toy/my-toy/nominal/seed0/learned_embeds.safetensors --out analysis
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from safezone.commands.console import Answer, Command, Folders, OnModel
from safezone.errors import UserError
from safezone.fields import Count, Natural

if TYPE_CHECKING:
    from safezone.analysis.sensitivity import Slots
    from safezone.models import Model


@dataclass(frozen=True, kw_only=True)
class Options(OnModel):
    """The options."""

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


def _slots(options: Options, model: "Model") -> "tuple[Slots, str]":
    from safezone.analysis.sensitivity import START, word_slots
    from safezone.personalize import load_embedding

    adapter = None if options.embedding is None else load_embedding(options.embedding)
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


def run(options: Options) -> Answer:
    """Measures what is missing and draws."""
    import torch

    from safezone.commands.opening import open_model, require_out_folder
    from safezone.concepts import load_concept
    from safezone.lab.measure import Measures
    from safezone.paper.measured.probe import TIMES, Probe, folder_maps
    from safezone.results.drawings.style import save

    require_out_folder(options.out)
    model = open_model(options.model, options.machine, options)
    steps = model.process.steps
    if any(not 0 <= t < steps for t in options.timestep):
        raise UserError(f"a timestep is out of range; give 0 to {steps - 1}")
    slots, word = _slots(options, model)
    times = options.timestep or tuple(round(share * steps) for share in TIMES)
    measures = Measures(options.out / "work", model)
    probe = Probe(measures, options.rows, options.seed, options.noises)
    concepts = {}
    for folder in options.folders:
        name = folder.resolve().name
        concept = load_concept(folder, model.image_size)
        concepts[str(folder) if name in concepts else name] = concept
    title = f"“{word}” in “{options.prompt}”"
    drawing = folder_maps(probe, slots, concepts, torch.tensor(times), options.images, title)
    paths = save(drawing, options.out, "sensitivity")
    lines = [
        f"{name}: R = "
        + ", ".join(f"{each['R']:.2f}" for key, each in values.items() if key.startswith("t="))
        for name, values in drawing.numbers["in_region_ratio"].items()
    ]
    lines.append(f"written: {', '.join(map(str, paths))}")
    return Answer(drawing.numbers, "\n".join(lines))


COMMAND = Command(__doc__, Options, run)
