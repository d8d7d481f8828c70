"""One personalization: as the library is asked for it, and as it is trained, on prepared images."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from safezone.concepts import Concept
from safezone.defenses import Defense, ObjectMask, TimestepDistribution, defend
from safezone.files import digest
from safezone.models.base import Model


@dataclass(frozen=True)
class PreparedRun:
    """One personalization as the trainer sees it: images that no preprocess touches any more.

    ``key``: unique among the runs of one pass; names the run's log. ``concept``: the images that
    are trained on, square, with their masks. ``timesteps``, ``loss_mask``: when to train and where
    the loss counts. ``prior``: images of the class for prior preservation, at the concept's size.
    ``record``: JSON values that the adapter's provenance repeats, such as the defense's name.
    ``words``: what every training prompt ends with.
    """

    key: str
    concept: Concept
    timesteps: TimestepDistribution
    loss_mask: ObjectMask
    seed: int
    prior: UInt8[Tensor, "m 3 s s"] | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    words: str = ""

    def content(self) -> list[Any]:
        """What the result depends on, as JSON values; images by their hash."""
        return [
            self.key,
            self.concept.content_key(),
            repr(self.timesteps),
            repr(self.loss_mask),
            self.seed,
            *([] if self.prior is None else [digest(self.prior)]),
            *([self.words] if self.words else []),
        ]


@dataclass(frozen=True)
class TrainingRun:
    """One personalization as it is asked for: which images, under which defense, which seed.

    ``concept``: as it came, clean or poisoned, before the defense's preprocess. ``key`` and
    ``prior`` as in ``PreparedRun``.
    """

    key: str
    concept: Concept
    defense: Defense
    seed: int
    prior: UInt8[Tensor, "m 3 s s"] | None = None

    def prepare(self, model: Model) -> PreparedRun:
        """The run on its preprocessed images; ``train`` does this where it has not been done.

        ``model``: what purifiers denoise with. Raises UserError when a purifier's networks cannot
        be opened.
        """
        return PreparedRun(
            self.key,
            defend(self.concept, self.defense, self.seed, model),
            self.defense.timesteps,
            self.defense.loss_mask,
            self.seed,
            self.prior,
            {
                "concept_content_key": self.concept.content_key(),
                "defense": self.defense.name,
                "defense_parts": repr(self.defense),
            },
            self.defense.words,
        )
