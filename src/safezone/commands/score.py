"""Compares generated images with the clean images of the object.

Instance similarity: mean cosine of features of all pairs of a generated and a clean image. CLIP
scores need to know the prompts, as in a folder that `safezone generate` wrote. The option
--token-encoder needs the adapter as well, in the folder above or where it was, and the model.

Example:
    safezone score runs/my-toy/my-toy/szt/seed0/images --clean my-toy

Next:
    safezone report runs/my-toy
"""

from dataclasses import dataclass, field
from pathlib import Path

from safezone.commands.console import Answer, Command, Flat, Folder, OnModel
from safezone.commands.recorded import learned_tokens, preset_of_images
from safezone.errors import UserError
from safezone.lab.settings import Scoring


@dataclass(frozen=True, kw_only=True)
class Options(OnModel):
    """The options."""

    images: Folder
    """Folder with generated images."""
    clean: Path
    """Folder with the clean images of the object."""
    model: str = "mini"
    """Whose preset of encoders is used, and what --token-encoder compares with; by default the
    model that made the images."""
    scoring: Flat[Scoring] = field(default_factory=Scoring)


def run(options: Options) -> Answer:
    """Prints the scores; writes nothing."""
    import torch

    from safezone.commands.opening import open_encoders, open_model, set_threads
    from safezone.concepts import image_files, load_concept
    from safezone.images import read_image
    from safezone.lab.store import IMAGES_RECORD
    from safezone.results.artifacts import read_run_images
    from safezone.scores import Pictures, metric_of, score_images

    set_threads(options.machine.threads)
    made = None
    if (options.images / IMAGES_RECORD).is_file():
        made = read_run_images(options.images)
        images, prompts, words = made.images, made.prompts, (made.class_word, made.placeholder)
    else:
        files = image_files(options.images)
        side = min(read_image(files[0]).shape[:2])
        images, prompts, words = load_concept(options.images, side).images, [], ("", "")
    clean = load_concept(options.clean, images.shape[-1])
    encoders = open_encoders(options.scoring, options.machine)
    class_word, tokens = words[0] or clean.class_word, {}
    if "token" in encoders:
        if made is None:
            raise UserError(
                f"{options.images} has no {IMAGES_RECORD}, which --token-encoder needs; give a "
                "folder that `safezone generate` wrote, or --token-encoder none"
            )
        model = open_model(options.model, options.machine, options)
        tokens = learned_tokens(made, model, class_word)
    with torch.no_grad():
        placeholder = words[1] or clean.placeholder
        pictures = Pictures(images, prompts, clean.images, class_word, placeholder, **tokens)
        scores = score_images(pictures, encoders.by_slot)
    lines = [
        f"{metric_of(s.metric).label}: {s.value:.{metric_of(s.metric).decimals + 1}f} "
        f"({s.n_generated} generated, {s.n_reference or 'no'} reference images)"
        for s in scores
    ]
    data = {"scores": [score._asdict() for score in scores], "encoder": encoders["instance"].name}
    return Answer(data, "\n".join(lines))


COMMAND = Command(__doc__, Options, run, preset_of_images)
