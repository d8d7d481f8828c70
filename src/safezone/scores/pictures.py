"""What an encoder is shown of one run, and what it says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float, UInt8
from torch import Tensor


class Score(NamedTuple):
    """One number with how many generated and reference images it rests on (0: none used)."""

    metric: str
    value: float
    n_generated: int
    n_reference: int


@dataclass(frozen=True, eq=False)
class Pictures:
    """The generated images of one run, their prompts and the clean images of the object.

    ``prompts``: one for each generated image, with ``placeholder`` in it; empty where they are not
    known. ``class_word``: the object's noun. ``vectors``: what was learned for the placeholder,
    float [k, width], k = 0 where the placeholder is a plain word, None where it is not known;
    ``word_vectors``: the rows of the class word in the lookup of the model. Raises ValueError for
    unequal counts or no images.
    """

    generated: UInt8[Tensor, "n 3 h w"]
    prompts: Sequence[str]
    clean: UInt8[Tensor, "m 3 s s"]
    class_word: str = ""
    placeholder: str = ""
    vectors: Float[Tensor, "k width"] | None = None
    word_vectors: Float[Tensor, "words lookup"] | None = None

    def __post_init__(self) -> None:
        n, m = len(self.generated), len(self.clean)
        if not n or not m or len(self.prompts) not in (0, n):
            raise ValueError(
                f"{n} generated images, {len(self.prompts)} prompts, {m} references; give at least "
                "one image on each side and as many prompts as generated images, or none"
            )
