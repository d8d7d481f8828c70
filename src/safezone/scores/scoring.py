"""Generated images of one run to numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from safezone.scores.pictures import Pictures, Score
from safezone.scores.table import METRICS, SLOTS


@dataclass(frozen=True, eq=False)
class Encoders:
    """What scores images: an open encoder by slot; ``key`` is the hash of their weights."""

    by_slot: Mapping[str, Any]
    key: str

    def __getitem__(self, slot: str) -> Any:
        """The encoder of a slot; ValueError when none was opened."""
        if slot not in self.by_slot:
            raise ValueError(f"no {slot} encoder was opened")
        return self.by_slot[slot]

    def kept(self, pictures: Pictures) -> dict[str, Mapping[str, Tensor]]:
        """What the encoders keep of a run for measurements over many, by slot."""
        keepers = {name: SLOTS[name].keep for name in self.by_slot}
        return {
            name: keep(self.by_slot[name], pictures)
            for name, keep in keepers.items()
            if keep is not None
        }

    def __contains__(self, slot: object) -> bool:
        return slot in self.by_slot


def score_images(pictures: Pictures, encoders: Mapping[str, Any]) -> list[Score]:
    """What the encoders measure of one run's pictures, in the order of ``METRICS``.

    ``encoders``: an open encoder by the name of its slot, as ``{"instance": load_encoder(...)}``;
    slots without one are left out, and so are metrics that the pictures do not allow.
    """
    scores = [
        score
        for name, encoder in encoders.items()
        for score in SLOTS[name].measure(encoder, pictures)
    ]
    return sorted(scores, key=lambda score: list(METRICS).index(score.metric))
