"""What a personalization method learned, as a value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LowRank:
    """A change of one linear layer's weight: ``(alpha / rank) * up @ down`` (Hu et al. 2022)."""

    down: Float[Tensor, "rank inputs"]
    up: Float[Tensor, "outputs rank"]
    alpha: float

    def weight(self) -> Float[Tensor, "outputs inputs"]:
        """The change in full."""
        return (self.alpha / len(self.down)) * self.up @ self.down


@dataclass(frozen=True, eq=False)
class Full:
    """A change of one linear layer's weight, in full (Custom Diffusion's K and V)."""

    change: Float[Tensor, "outputs inputs"]

    def weight(self) -> Float[Tensor, "outputs inputs"]:
        """The change in full."""
        return self.change


Delta: TypeAlias = LowRank | Full


@dataclass(frozen=True, eq=False)
class Adapter:
    """What a run learned: token vectors, changes of the model's linear layers, or both.

    ``vectors``: float32 [n, width], which stand in a prompt where ``placeholder`` does; n is 0
    where no token was learned. ``deltas``: by the layer's path below the pipeline, such as
    ``unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k``. ``class_word``: what the
    object is called. ``provenance``: JSON values telling how the adapter was made; of a failed run
    it holds ``failed_at``, the step that became NaN, and the values are the last finite ones.
    """

    vectors: Float[Tensor, "n width"]
    placeholder: str
    class_word: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    deltas: Mapping[str, Delta] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def failed(self) -> bool:
        """Whether the run became NaN before its last step."""
        return self.provenance.get("failed_at") is not None
