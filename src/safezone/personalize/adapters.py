"""What a personalization method learned, as a value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Adapter:
    """What textual inversion learned.

    ``vectors``: float32 [n, width], which stand in a prompt where ``placeholder`` does.
    ``class_word``: what the object is called. ``provenance``: JSON values telling how the vectors
    were made; of a failed run it holds ``failed_at``, the step that became NaN, and the vectors
    are the last finite ones.
    """

    vectors: Float[Tensor, "n width"]
    placeholder: str
    class_word: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether the run became NaN before its last step."""
        return self.provenance.get("failed_at") is not None
