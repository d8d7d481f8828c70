"""Encoders whose features tell objects apart, and what they measure."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from safezone.files import digest
from safezone.models.fingerprint import fingerprint
from safezone.scores.metrics import frechet_distance, kernel_distance, similarity
from safezone.scores.pictures import Pictures, Score
from safezone.scores.preprocessing import Preprocessing

_BATCH = 64


def in_batches(images: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """``encode`` over at most 64 images at a time, as float32 rows on the CPU.

    Raises ValueError when there are no images.
    """
    if len(images) == 0:
        raise ValueError("no images to encode")
    return torch.cat([encode(batch).float().cpu() for batch in images.split(_BATCH)])


class ImageEncoder(Protocol):
    """Images to features; rows are independent of each other.

    Features are not normalised: cosines do that themselves and Fréchet distances must not.
    """

    @property
    def name(self) -> str:
        """What the encoder is called, for messages and records."""
        ...

    def features(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n width"]:
        """float32 features on the CPU of uint8 images [n, 3, h, w]; ValueError for none."""
        ...

    def fingerprint(self) -> str:
        """A hash of all weights, the preprocessing and, where there is one, the tokenizer."""
        ...


@dataclass(frozen=True, eq=False)
class InstanceEncoder:
    """A network whose features tell objects apart: DINOv2's CLS token, a CNN's pooled output.

    ``pool``: the network's output to [n, d]. ``projection``: a linear map behind it, or None.
    """

    name: str
    network: nn.Module
    pool: Callable[[Any], Tensor]
    preprocessing: Preprocessing
    projection: nn.Linear | None
    device: torch.device

    @torch.no_grad()
    def features(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n width"]:
        """float32 [n, width] on the CPU, not normalised, of uint8 images [n, 3, h, w]."""

        def encode(batch: Tensor) -> Tensor:
            rows = self.pool(self.network(self.preprocessing(batch.to(self.device))))
            return rows if self.projection is None else cast(Tensor, self.projection(rows))

        return in_batches(images, encode)

    def fingerprint(self) -> str:
        """A hash of all weights, the preprocessing and, where there is one, the tokenizer."""
        return fingerprint(self)


class CachedEncoder:
    """An image encoder that remembers the features of the ``capacity`` images last seen.

    Keyed by the pixels' content, within this process; clean references are encoded once.
    """

    def __init__(self, encoder: ImageEncoder, capacity: int = 8192) -> None:
        self.name = encoder.name
        self._encoder = encoder
        self._capacity = capacity
        self._rows: OrderedDict[str, Tensor] = OrderedDict()

    def features(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n width"]:
        """The encoder's features, float32 [n, width]."""
        keys = [digest(image) for image in images]
        known = {key: self._rows[key] for key in keys if key in self._rows}
        missing = {key: i for i, key in enumerate(keys) if key not in known}  # one index a content
        if missing:
            rows = self._encoder.features(images[list(missing.values())])
            known |= zip(missing, rows, strict=True)
        for key in dict.fromkeys(keys):
            self._rows[key] = known[key]
            self._rows.move_to_end(key)
        while len(self._rows) > self._capacity:
            self._rows.popitem(last=False)
        return torch.stack([known[key] for key in keys])

    def fingerprint(self) -> str:
        """The encoder's own."""
        return self._encoder.fingerprint()


def measure_instance(encoder: ImageEncoder, pictures: Pictures) -> Iterator[Score]:
    """How like the object the generated images are.

    ``instance_similarity``: mean cosine of all (generated, clean) pairs of features, in [-1, 1].
    ``frechet`` and ``kernel``: distances of the two sets of features; left out with fewer than two
    images on a side.
    """
    n, m = len(pictures.generated), len(pictures.clean)
    ours, clean = encoder.features(pictures.generated), encoder.features(pictures.clean)
    yield Score("instance_similarity", float(similarity(ours, clean).mean()), n, m)
    if min(n, m) > 1:
        yield Score("frechet", float(frechet_distance(ours, clean)), n, m)
        yield Score("kernel", float(kernel_distance(ours, clean)), n, m)
