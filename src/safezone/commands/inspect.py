"""``safezone inspect``: is there poison in these images?"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from safezone.commands.console import Answer, Folder, OnModel, note, plural
from safezone.errors import UserError

if TYPE_CHECKING:
    from safezone.inspection.detector import Detector
    from safezone.models import Model


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
        from safezone.concepts import image_files
        from safezone.inspection.detector import KIND_TEXTS, RATE
        from safezone.inspection.look import (
            common_kind,
            features_of,
            findings,
            personalize_command,
        )

        image_files(self.folder)  # tells a wrong folder before a model is opened
        detector, model, chosen_on = _detector(self)
        found = findings(detector, features_of(self.folder, model))
        kind = common_kind(found)
        command = personalize_command(self.folder, kind, self.model)
        known = model is None or detector.model in (None, model.fingerprint())
        limits = [] if model is not None else [PIXELS_ONLY]
        if not known:
            limits.append(
                "the threshold was chosen on other weights of the built-in model, so its rates of "
                "false alarms are not known; make it again with `python -m training.inspection`"
            )
        rates = detector.rates if known else {}
        flagged = sum(each.flagged for each in found)
        lines = [
            f"{each.name}: {each.score:.2f} {'yes' if each.flagged else 'no'}, "
            f"looks like {KIND_TEXTS[each.kind]}"
            for each in found
        ]
        lines.append(
            f"{flagged} of {plural(len(found), 'image')} above the threshold "
            f"{detector.threshold:.2f}, chosen on {chosen_on}"
        )
        if self.clean is not None:
            lines.append(f"of further clean images like those, about {RATE:.0%} are above it too")
        lines += [
            f"of {count} clean images, {name}: {share:.0%} [{low:.0%}, {high:.0%}] above it"
            for name, (share, low, high, count) in rates.items()
        ]
        lines.append(f"to train on them: {command}")
        for limit in limits:
            note(f"note: {limit}.")
        data = {
            "images": [asdict(each) for each in found],
            "flagged": flagged,
            "kind": kind,
            "threshold": detector.threshold,
            "chosen_on": chosen_on,
            "false_positive_rates": dict(rates),
            "limits": limits,
            "command": command,
        }
        return Answer(data, "\n".join(lines))


PIXELS_ONLY = (
    "the built-in model knows its own world alone, so these photographs were judged by their "
    "pixels: a poison that was compressed or resized, or that is a soft tint, can pass unseen, and "
    "added noise looks like one"
)


def _detector(options: InspectCommand) -> "tuple[Detector, Model | None, str]":
    """What judges, the model that it needs, and on which images its threshold was chosen."""
    from safezone.commands.opening import is_procedural, open_model
    from safezone.inspection.detector import detectors
    from safezone.inspection.look import features_of

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
