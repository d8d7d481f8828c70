"""What a defense is: a value of four parts, composed by ``+``; concepts as preprocessed by it."""

from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from safezone.concepts import Concept
from safezone.defenses.loss_masks import NoMask, ObjectMask
from safezone.defenses.preprocess import Identity, MovesMasks, Preprocess, chain
from safezone.defenses.purify import resolve
from safezone.defenses.timesteps import TimestepDistribution, Uniform
from safezone.errors import UserError
from safezone.models.base import Model

_Part = TypeVar("_Part")


@dataclass(frozen=True)
class Defense:
    """Four parts, each of which may be the identity; ``a + b`` is both.

    ``preprocess``: images to images, before training. ``timesteps``: the distribution over t.
    ``loss_mask``: what the object's masks do to the loss, its target, the input or the noisy
    latents. ``words``: what every training prompt ends with, and no prompt of a generation.
    """

    name: str
    preprocess: Preprocess = field(default_factory=Identity)
    timesteps: TimestepDistribution = field(default_factory=Uniform)
    loss_mask: ObjectMask = field(default_factory=NoMask)
    words: str = ""

    @property
    def parts(self) -> tuple[Preprocess, TimestepDistribution, ObjectMask, str]:
        """What the defense does, without what it is called."""
        return self.preprocess, self.timesteps, self.loss_mask, self.words

    def __add__(self, other: "Defense") -> "Defense":
        """Both defenses; preprocesses run in order, the identity's name vanishes.

        Raises UserError when both choose timesteps, a mask or words.
        """
        if other.parts == PLAIN.parts:
            return self
        if self.parts == PLAIN.parts:
            return other

        def one(what: str, mine: _Part, theirs: _Part, identity: _Part) -> _Part:
            if mine == identity or theirs == identity:
                return theirs if mine == identity else mine
            raise UserError(
                f"The defenses {self.name!r} and {other.name!r} both choose {what}; leave one out."
            )

        return Defense(
            f"{self.name}+{other.name}",
            chain(self.preprocess, other.preprocess),
            one("timesteps", self.timesteps, other.timesteps, PLAIN.timesteps),
            one("a loss mask", self.loss_mask, other.loss_mask, PLAIN.loss_mask),
            one("words", self.words, other.words, PLAIN.words),
        )


PLAIN = Defense("nominal")
"""Plain training on the images as they are."""


def preprocessed(
    concept: Concept, preprocess: Preprocess, seed: int, model: Model | None = None
) -> Concept:
    """The concept with other images; where the preprocess moves the object, its masks follow.

    ``model``: the one that is personalized, which purifiers need. Raises UserError when a
    purifier's networks cannot be opened.
    """
    ready = resolve(preprocess, model)
    images: object = ready(concept.images, seed)
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        given = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise UserError(f"a preprocess of the defense gives {given}; give uint8 images")
    if images.shape != concept.images.shape:
        shapes = f"{tuple(images.shape)} for {tuple(concept.images.shape)}"
        raise UserError(f"a preprocess of the defense gives {shapes}; give images of that shape")
    changed = concept.with_images(images)
    if concept.masks is None or not isinstance(ready, MovesMasks):
        return changed
    return replace(changed, masks=ready.move_masks(concept.masks, seed))


def defend(concept: Concept, defense: Defense, seed: int, model: Model | None = None) -> Concept:
    """The concept as preprocessed; the other parts act during training."""
    return preprocessed(concept, defense.preprocess, seed, model)
