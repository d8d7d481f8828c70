"""What a training can be told, for every method."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

import tyro

from safezone.errors import UserError
from safezone.fields import Checked, Count, Natural, Positive, Rate, Weight

if TYPE_CHECKING:
    from safezone.personalize import Personalization

Schedule: TypeAlias = Literal["constant", "linear", "cosine"]
_LAYER_ENDS: Final = ("to_q", "to_k", "to_v", "to_out.0")
_OF_THE_MACHINE: Final = ("runs_per_pass", "tracker", "checkpointing", "compile", "captured")
_NEEDED: Final = {
    "prior_images": "prior_weight",
    "preview_prompts": "preview_every",
    "text_targets": "text_encoder",
}
"""Settings that do nothing without another one."""


@dataclass(frozen=True)
class Training(Checked):
    """How a concept is learned: see ``safezone.personalize`` for every setting."""

    method: Annotated[str, tyro.conf.arg(metavar="NAME")] = "ti"
    """ti (textual inversion), lora or custom-diffusion; each has its own preset."""
    steps: Count = 5000
    """Optimiser steps of every run."""
    batch_size: Count = 1
    """Images that a run sees in each pass."""
    accumulation: Count = 1
    """Passes whose gradients are averaged for one step."""
    learning_rate: Rate = 5e-4
    """AdamW's."""
    schedule: Schedule = "constant"
    """Of the learning rate."""
    vectors: Count = 1
    """Token vectors that the placeholder stands for (ti, custom-diffusion)."""
    initializer: Annotated[str | None, tyro.conf.arg(metavar="WORD")] = None
    """Text whose token vectors start the learned ones; by default the concept's class word."""
    random_rows: bool = False
    """Start the vectors at random words instead."""
    start: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Go on from an adapter's file, ours or of diffusers, AUTOMATIC1111 or kohya's scripts."""
    weight_decay: Weight = 0.0
    """AdamW's."""
    norm_anchor: bool = False
    """Keep every vector at the length it started with."""
    templates: Annotated[str | None, tyro.conf.arg(metavar="object|style|captions")] = None
    """Training prompts: the 27 for objects, the 19 for styles, or each image's caption, a file
    NAME.txt beside it with {} for the concept. By default those of the method."""
    flip: bool = True
    """Mirror each drawn image with probability 1/2; with --no-flip never."""
    rank: Count = 4
    """Of the changes (lora)."""
    alpha: Positive | None = None
    """The changes are scaled by alpha / rank; by default alpha is the rank (lora)."""
    targets: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = _LAYER_ENDS
    """End of the names of the U-Net's layers that change; may be given repeatedly (lora).
    By default the attention's to_q, to_k, to_v and to_out.0."""
    text_encoder: bool = False
    """Change layers of the text encoder too (lora)."""
    text_targets: Annotated[
        tuple[str, ...], tyro.conf.arg(name="text-target"), tyro.conf.UseAppendAction
    ] = ("q_proj", "k_proj", "v_proj", "out_proj")
    """End of the names of the text encoder's layers that change; may be given repeatedly (lora).
    By default the attention's; mlp.fc1 and mlp.fc2 are the others."""
    token: str = "*"
    """Dummy word that stands for the concept, before the class word (lora)."""
    crop_rescale: bool = False
    """Show the concept smaller on grey, or a larger part of it (custom-diffusion)."""
    prior_weight: Weight = 0.0
    """Of the loss on images of the class that the model draws before (prior preservation; lora,
    custom-diffusion)."""
    prior_images: Count = 100
    """How many images of the class the model draws."""
    checkpoint_every: Count = 100
    """Steps between checkpoints; a killed training goes on from the last one."""
    preview_every: Natural = 0
    """Steps between images made with what is learned so far; 0 makes none."""
    preview_prompts: Annotated[
        tuple[str, ...], tyro.conf.arg(name="preview-prompt"), tyro.conf.UseAppendAction
    ] = ("a photo of a {}",)
    """Prompt of a preview; may be given repeatedly. (default: a photo of a {})"""
    runs_per_pass: Count | None = None
    """The most runs that are trained together, in one pass through the model; by default as many as
    fit into memory: up to 32 on a processor, 512 on a GPU."""
    checkpointing: bool = False
    """Recompute the U-Net's activations to save memory; a step takes a third longer."""
    tracker: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Also tell the log to tensorboard, wandb or any other tracker of accelerate."""
    compile: bool = False
    """The U-Net through torch.compile: a slower start, faster steps."""
    captured: bool = False
    """Each step of training, poison and drawing as one CUDA graph (GPU): a little more memory, far
    less work for the processor."""

    @property
    def samples(self) -> int:
        """Images of a run that go through the model together."""
        return self.batch_size * (2 if self.prior_weight else 1)

    def on_machine_of(self, other: "Training") -> "Training":
        """The same learning, run as the other is: passes, memory, compiler, tracker."""
        return replace(self, **{name: getattr(other, name) for name in _OF_THE_MACHINE})

    def personalization(self) -> "Personalization":
        """The same as the trainer's own settings.

        Raises UserError for values out of range and for settings that the method does not have.
        """
        kind = method_named(self.method)
        own = {each.name for each in fields(kind)}
        for each in fields(self):
            changed = getattr(self, each.name) != each.default
            if changed and each.name not in {*own, *_OF_THE_MACHINE, "method"}:
                raise UserError(
                    f"{each.name} is {getattr(self, each.name)!r}, but {self.method} has no such "
                    "setting; leave it out or choose another method."
                )
            needed = _NEEDED.get(each.name)
            if changed and needed is not None and not getattr(self, needed):
                raise UserError(
                    f"{each.name} is given without {needed}, so it would do nothing; give "
                    f"{needed} too or leave {each.name} out."
                )
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name in own}
        if self.templates is None:  # the method's own
            del values["templates"]
        if self.start is not None:
            values["start"] = Path(self.start)
            if not values["start"].is_file():
                raise UserError(f"start names {self.start}, which does not exist; check the path.")
        return kind(**values)


def method_named(name: str) -> "type[Personalization]":
    """What the settings call ``ti``, ``lora`` and so on; UserError for an unknown name."""
    from safezone.personalize import METHODS

    if name not in METHODS:
        raise UserError(f"there is no method {name!r}; choose from {', '.join(METHODS)}")
    return METHODS[name]
