"""What a personalization method learned, as a value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from safezone.models.deltas import Delta, Full, LowRank
from safezone.personalize.history import History


@dataclass(frozen=True, eq=False)
class Adapter:
    """What a run learned: token vectors, changes of the model's layers, or both.

    ``vectors``: float32 [n, width], which stand in a prompt where ``placeholder`` does; n is 0
    where no token was learned. ``class_word``: what the object is called. ``provenance``: JSON
    values telling how the adapter was made; of a failed run it holds ``failed_at``, the step that
    became NaN, and the values are the last finite ones. ``deltas``: by the names in
    ``Model.layers``. ``trigger``: the words that stand for the concept in a prompt, the
    placeholder where there are vectors; empty: just the placeholder. ``widths``: of the vectors'
    parts, one for each text encoder of SDXL; empty: they are of one. ``history``: of a textual
    inversion the vectors on the way; a file that was read has none. ``convolutions``: which of the
    changed layers are 1 x 1 convolutions, whose matrices other programs want with four axes.
    """

    vectors: Float[Tensor, "n width"]
    placeholder: str
    class_word: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    deltas: Mapping[str, Delta] = field(default_factory=lambda: MappingProxyType({}))
    trigger: str = ""
    widths: tuple[int, ...] = ()
    history: History | None = None
    convolutions: frozenset[str] = frozenset()

    @property
    def failed(self) -> bool:
        """Whether the run became NaN before its last step."""
        return self.provenance.get("failed_at") is not None

    @property
    def words(self) -> str:
        """What stands for the concept in a prompt."""
        return self.trigger or self.placeholder


def stacked(
    adapters: Sequence[Adapter | None], layers: Mapping[str, tuple[int, int]], device: torch.device
) -> dict[str, Delta]:
    """The adapters' changes below each other, with a leading axis of adapters.

    An adapter that does not change a layer has zeros there, lower ranks are filled up with zeros,
    and low-rank changes beside full ones become full. ``layers``: the model's.
    """
    names = dict.fromkeys(name for each in adapters if each is not None for name in each.deltas)
    result: dict[str, Delta] = {}
    for name in names:
        deltas = [None if each is None else each.deltas.get(name) for each in adapters]
        result[name] = _stack(deltas, layers[name], device)
    return result


def _stack(deltas: Sequence[Delta | None], shape: tuple[int, int], device: torch.device) -> Delta:
    outputs, inputs = shape
    low = [each for each in deltas if isinstance(each, LowRank)]
    if len(low) < sum(each is not None for each in deltas):
        zeros = torch.zeros(outputs, inputs)
        return Full(
            torch.stack([zeros if each is None else each.weight() for each in deltas]).to(device)
        )
    rank = max(len(each.down) for each in low)
    downs, ups = [], []
    for delta in deltas:
        if not isinstance(delta, LowRank):
            downs.append(torch.zeros(rank, inputs))
            ups.append(torch.zeros(outputs, rank))
            continue
        missing = rank - len(delta.down)
        downs.append(pad(delta.down, (0, 0, 0, missing)))
        ups.append(pad(delta.scale * delta.up, (0, missing)))
    return LowRank(torch.stack(downs).to(device), torch.stack(ups).to(device))
