"""Protects the images of a folder: adds a change too small to see that misleads diffusion models.

Images are cut square and brought to the model's size (128 for mini, 512 for Stable Diffusion 1.5).
Names and masks are kept; the images are written as PNG, since JPEG would take the poison away.

Example:
    safezone poison my-toy --poison adm+ --kappa 16/255 --out my-toy-poisoned

Next:
    safezone personalize my-toy my-toy-poisoned --defense nominal --out runs/my-toy
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from safezone.commands.console import Answer, Command, Flat, Folder, OnModel, progress
from safezone.errors import UserError
from safezone.fields import Natural
from safezone.lab.settings import Poisoning


@dataclass(frozen=True, kw_only=True)
class Options(OnModel):
    """The options."""

    folder: Folder
    """Folder with the images of one object."""
    out: Path
    """New folder for the poisoned images."""
    poison: str = "adm+"
    """The paper's adm+, adm-, sds+, sds-, ea, da; against Safe-Zone Training adm+@szt, sds-@szt,
    ea@szt and their parts @jpeg, @t500, @lm; da-target, mist, photoguard, ace, ace+, pid, simac,
    diffusionguard, aspl (docs/poisons.md)."""
    model: str = "mini"
    """Built-in model, diffusers folder or hub name that the poison is made against."""
    seed: Natural = 0
    """Of the poison's random numbers."""
    captured: bool = False
    """Each gradient as one CUDA graph (GPU), far less work for the processor."""
    poisoning: Flat[Poisoning] = field(default_factory=Poisoning)


def run(options: Options) -> Answer:
    """Writes the folder of poisoned images; says so and does nothing when it is there already."""
    if options.out.suffix.lower() in (".jpg", ".jpeg", ".webp", ".png", ".zip"):
        raise UserError(
            f"--out {options.out} looks like a file; give a folder, poisoned images are written as "
            "PNG (JPEG would remove the poison)"
        )
    from safezone.commands.opening import (
        is_procedural,
        open_model,
        poison_of,
        require_out_folder,
        tell_limits,
    )
    from safezone.concepts import image_files, load_concept
    from safezone.lab.lab import UNSCORED, Lab
    from safezone.lab.poisonings import Unwritten, write_poisoned
    from safezone.lab.run import TEXTUAL_INVERSION, Run
    from safezone.lab.settings import Settings
    from safezone.lab.stage import job
    from safezone.reading import read_json
    from safezone.scores import CLEAN, NOMINAL

    settings = options.poisoning.poison(options.poison)
    require_out_folder(options.out)
    image_files(options.folder)  # tells a wrong folder before the model is opened
    if poison_of(options.folder) != CLEAN:
        raise UserError(f"{options.folder} is poisoned already; give the folder of clean images")
    model = open_model(options.model, options.machine, options)
    concept = load_concept(options.folder, model.image_size)
    tell_limits(options.model, [options.folder])
    lab = Lab(
        options.out,
        model,
        UNSCORED,
        Settings(options.model, poisoning=options.poisoning),
        {concept.name: concept},
    )
    run = Run(concept.name, options.poison, NOMINAL, TEXTUAL_INVERSION, model.name, options.seed)
    artifact = replace(job(lab, run).of["poison"], place=options.out)
    before = artifact.done
    try:
        write_poisoned(
            [model],
            [Unwritten(concept, artifact)],
            settings,
            options.seed,
            record={
                "source": os.path.abspath(options.folder),
                "procedural": is_procedural(options.folder),
            },
            captured=options.captured,
            progress=progress(),
        )
    except FloatingPointError as error:
        raise UserError(f"{error}; use another model or poison") from error
    manifest = read_json(options.out / artifact.record)
    images = manifest["images"]
    largest = max(image["linf"] for image in images) * 255
    psnr = min((image["psnr"] for image in images if image["psnr"] is not None), default=None)
    verb = "was done already" if before else "done"
    text = (
        f"{options.poison} {verb}: {len(images)} images of {concept.images.shape[-1]} px in "
        f"{options.out}, largest change {largest:.0f}/255, PSNR from {psnr:.1f} dB."
        if psnr is not None
        else f"{options.poison} {verb} in {options.out}; no image changed."
    )
    return Answer({"out": str(options.out), "already_done": before, **manifest}, text)


COMMAND = Command(__doc__, Options, run)
