"""``safezone poison``: a folder of images, protected."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from safezone.commands.console import Answer, Flat, Folder, OnModel, progress
from safezone.errors import UserError
from safezone.fields import Natural
from safezone.lab.settings import Poisoning


@dataclass(frozen=True, kw_only=True)
class PoisonCommand(OnModel):
    """Protects the images of a folder: adds a change too small to see that misleads diffusion
    models.

    Images are cut square and brought to the model's size (128 for mini, 512 for Stable Diffusion
    1.5). Names and masks are kept; the images are written as PNG, since JPEG would take the poison
    away.

    Example:
        safezone poison my-toy --poison adm+ --kappa 16/255 --out my-toy-poisoned

    Next:
        safezone personalize my-toy my-toy-poisoned --defense nominal --out runs/my-toy
    """

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

    def run(self) -> Answer:
        if self.out.suffix.lower() in (".jpg", ".jpeg", ".webp", ".png", ".zip"):
            raise UserError(
                f"--out {self.out} looks like a file; give a folder, poisoned images are written "
                "as PNG (JPEG would remove the poison)"
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

        settings = self.poisoning.poison(self.poison)
        require_out_folder(self.out)
        image_files(self.folder)  # tells a wrong folder before the model is opened
        if poison_of(self.folder) != CLEAN:
            raise UserError(f"{self.folder} is poisoned already; give the folder of clean images")
        model = open_model(self.model, self.machine, self)
        concept = load_concept(self.folder, model.image_size)
        tell_limits(self.model, [self.folder])
        lab = Lab(
            self.out,
            model,
            UNSCORED,
            Settings(self.model, poisoning=self.poisoning),
            {concept.name: concept},
        )
        run = Run(concept.name, self.poison, NOMINAL, TEXTUAL_INVERSION, model.name, self.seed)
        artifact = replace(job(lab, run).of["poison"], place=self.out)
        before = artifact.done
        try:
            write_poisoned(
                [model],
                [Unwritten(concept, artifact)],
                settings,
                self.seed,
                record={
                    "source": os.path.abspath(self.folder),
                    "procedural": is_procedural(self.folder),
                },
                captured=self.captured,
                progress=progress(),
            )
        except FloatingPointError as error:
            raise UserError(f"{error}; use another model or poison") from error
        manifest = read_json(self.out / artifact.record)
        images = manifest["images"]
        largest = max(image["linf"] for image in images) * 255
        psnr = min((image["psnr"] for image in images if image["psnr"] is not None), default=None)
        verb = "was done already" if before else "done"
        text = (
            f"{self.poison} {verb}: {len(images)} images of {concept.images.shape[-1]} px in "
            f"{self.out}, largest change {largest:.0f}/255, PSNR from {psnr:.1f} dB."
            if psnr is not None
            else f"{self.poison} {verb} in {self.out}; no image changed."
        )
        return Answer({"out": str(self.out), "already_done": before, **manifest}, text)
