"""``safezone poison`` and ``inspect``: a poison is put into images, or looked for in them."""

import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from safezone.commands.command import Answer, Flat, Folder, OnModel, note, progress
from safezone.errors import UserError
from safezone.fields import Natural, plural
from safezone.lab.presets import refuse_models
from safezone.lab.settings import Poisoning, Settings

if TYPE_CHECKING:
    from safezone.inspection.detector import Detector
    from safezone.models import Model


@dataclass(frozen=True, kw_only=True)
class PoisonCommand(OnModel):
    """Protects the images of a folder: adds a change too small to see that misleads diffusion
    models.

    Images are cut square and brought to the model's size (128 for mini, 512 for Stable
    Diffusion 1.5). Names and masks are kept; the images are written as PNG, since JPEG would take
    the poison away.

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
            require_out_folder,
            tell_limits,
        )
        from safezone.concepts import image_files, load_concept
        from safezone.lab.lab import UNSCORED, Lab
        from safezone.lab.poisonings import Unwritten, write_poisoned
        from safezone.lab.run import TEXTUAL_INVERSION, Run
        from safezone.lab.stage import job
        from safezone.lab.store import require_clean
        from safezone.reading import read_json
        from safezone.scores import NOMINAL

        refuse_models(self.machine.config, self.model, "poison_model")
        poison = self.poisoning.one_poison(self.poison)
        require_out_folder(self.out)
        image_files(self.folder)  # tells a wrong folder before the model is opened
        require_clean(self.folder, "FOLDER")
        model = open_model(self.model, self.machine, self)
        concept = load_concept(self.folder, model.image_size)
        tell_limits(self.model, [self.folder])
        settings = Settings(self.model, poisoning=self.poisoning)
        lab = Lab(self.out, model, UNSCORED, settings, {concept.name: concept})
        run = Run(concept.name, self.poison, NOMINAL, TEXTUAL_INVERSION, model.name, self.seed)
        artifact = replace(job(lab, run).of["poison"], place=self.out)
        before = artifact.done
        source = os.path.abspath(self.folder)
        try:
            write_poisoned(
                [model],
                [Unwritten(concept, artifact)],
                poison,
                self.seed,
                record={"source": source, "procedural": is_procedural(self.folder)},
                captured=self.captured,
                progress=progress(),
            )
        except FloatingPointError as error:
            raise UserError(f"{error}; use another model or poison") from error
        manifest = read_json(self.out / artifact.record)
        images = manifest["images"]
        largest = max(image["linf"] for image in images) * 255
        psnr = min((image["psnr"] for image in images if image["psnr"] is not None), default=None)
        text = f"{self.poison} {'was done already' if before else 'done'}"
        if psnr is None:
            text += f" in {self.out}; no image changed."
        else:
            text += (
                f": {len(images)} images of {concept.images.shape[-1]} px in {self.out}, largest "
                f"change {largest:.0f}/255, PSNR from {psnr:.1f} dB."
            )
        return Answer({"out": str(self.out), "already_done": before, **manifest}, text)


@dataclass(frozen=True, kw_only=True)
class InspectCommand(OnModel):
    """Does an image carry a poison? A score for each image of a folder, without the originals.

    Each image is its own control: how its finest noise is shaped, and, with a model, whether that
    noise moves latents and loss more where it is than moved by some pixels. The threshold's
    false-positive rate is told beside the answer. Thresholds are known for pictures of the built-in
    world, and for photographs from their pixels alone; for any other model give --clean, images
    that you know to be clean. What follows is a suspicion, not a proof.

    Example:
        safezone inspect my-photographs
        safezone inspect my-photographs --model /models/sd15 --clean my-own-photographs

    Next:
        the `safezone personalize` command that it prints
    """

    folder: Folder
    """Folder with images of unknown origin."""
    clean: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """At least 19 images of the same kind that are known to be clean, for the threshold."""

    def run(self) -> Answer:
        from safezone.concepts import image_files, mask_files
        from safezone.inspection.detector import (
            KIND_TEXTS,
            RATE,
            common_kind,
            findings,
            personalize_command,
        )
        from safezone.inspection.features import features_of

        # What is wrong with the folder is told before a model is opened.
        files = image_files(self.folder)
        masks = bool(mask_files(self.folder, files))
        recorded = {path.name: poison for path in files if (poison := _recorded(path))}
        detector, model, chosen_on = _detector(self)
        images = findings(detector, features_of(self.folder, model))
        kind = common_kind(images)
        trained = "sd15" if model is None else self.model  # mini cannot learn photographs
        command = personalize_command(self.folder, kind, trained, masks=masks)
        known = model is None or detector.model in (None, model.fingerprint())
        limits = []
        if model is None:
            limits.append(
                "the built-in model knows its own world alone, so these photographs were judged by "
                "their pixels: a poison that was compressed or resized, or that is a soft tint, "
                "can pass unseen, and added noise looks like one"
            )
        elif not known:
            limits.append(
                "the threshold was chosen on other weights of the built-in model, so its rates of "
                "false alarms are not known; make it again with `python -m training.inspection`"
            )
        rates = detector.rates if known else {}
        flagged = sum(each.flagged for each in images)
        lines = [
            f"{each.name}: {each.score:.2f} {'yes' if each.flagged else 'no'}, "
            f"looks like {KIND_TEXTS[each.kind]}"
            for each in images
        ]
        lines.append(
            f"{flagged} of {plural(len(images), 'image')} above the threshold "
            f"{detector.threshold:.2f}, chosen on {chosen_on}"
        )
        if self.clean is not None:
            lines.append(f"of further clean images like those, about {RATE:.0%} are above it too")
        lines += [
            f"of {count} clean images, {name}: {share:.0%} [{low:.0%}, {high:.0%}] above it"
            for name, (share, low, high, count) in rates.items()
        ]
        if recorded:
            names = ", ".join(sorted({*recorded.values()}))
            lines.append(
                f"poisoned for certain: {plural(len(recorded), 'image')} with the record of "
                f"safezone poison ({names})"
            )
        lines.append(f"to train on them: {command}")
        for limit in limits:
            note(f"note: {limit}.")
        data = {
            "images": [asdict(each) for each in images],
            "flagged": flagged,
            "recorded": recorded,
            "kind": kind,
            "threshold": detector.threshold,
            "chosen_on": chosen_on,
            "false_positive_rates": dict(rates),
            "limits": limits,
            "command": command,
        }
        return Answer(data, "\n".join(lines))


def _recorded(image: Path) -> str:
    """The poison's name in an image that ``safezone poison`` wrote and nobody wrote again; else
    empty."""
    from safezone.images import png_text
    from safezone.reading import parse_json

    with suppress(ValueError, AttributeError):  # a text that is none of ours
        name = str(parse_json(png_text(image).get("safezone", "{}")).get("poison", ""))
        return ascii(name)[1:-1][:60]  # no more of a stranger's text, and nothing that it does
    return ""


def _detector(options: InspectCommand) -> "tuple[Detector, Model | None, str]":
    """What judges, the model that it needs, and on which images its threshold was chosen."""
    from safezone.commands.opening import is_procedural, open_model
    from safezone.inspection.detector import detectors
    from safezone.inspection.features import features_of
    from safezone.lab.store import require_clean

    if options.clean is not None:
        require_clean(options.clean, "--clean")
    builtin = options.model == "mini"
    if not builtin and options.clean is None:
        raise UserError(
            f"no threshold is known for --model {options.model}; give --clean a folder of images "
            "that you know to be clean, or leave --model out"
        )
    procedural = is_procedural(options.folder)
    if builtin and not procedural:
        detector, model = detectors()["photographs"], None
    else:
        detector, model = detectors()["mini"], open_model(options.model, options.machine, options)
    if options.clean is not None:
        clean = features_of(options.clean, model)
        return detector.for_clean(list(clean.values())), model, str(options.clean)
    return detector, model, "pictures of the built-in world" if procedural else "photographs"
