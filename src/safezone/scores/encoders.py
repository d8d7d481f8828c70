"""Images and texts to features.

They are not normalised here: cosines do that themselves and Frechet distances must not.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from safezone.models.fingerprint import fingerprint
from safezone.scores.preprocessing import Preprocessing

_BATCH = 64


def _in_batches(images: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """``encode`` over at most 64 images at a time, as float32 rows on the CPU."""
    if len(images) == 0:
        raise ValueError("no images to encode")
    starts = range(0, len(images), _BATCH)
    return torch.cat([encode(images[start : start + _BATCH]).float().cpu() for start in starts])


class ImageEncoder(Protocol):
    """Images to features; rows are independent of each other."""

    @property
    def name(self) -> str: ...

    def features(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n width"]:
        """float32 features on the CPU, not normalised, of uint8 images [n, 3, h, w], n > 0."""
        ...

    def fingerprint(self) -> str:
        """A hash of all weights, the preprocessing and, where there is one, the tokenizer."""
        ...


class TextImageEncoder(Protocol):
    """Images and texts to features of one space, where cosines compare them."""

    @property
    def name(self) -> str: ...

    def image_features(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n width"]:
        """float32 features on the CPU, not normalised, of uint8 images [n, 3, h, w], n > 0."""
        ...

    def text_features(self, texts: Sequence[str]) -> Float[Tensor, "n width"]:
        """float32 features on the CPU, not normalised; texts longer than the model's are cut."""
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

        return _in_batches(images, encode)

    def fingerprint(self) -> str:
        """A hash of all weights, the preprocessing and, where there is one, the tokenizer."""
        return fingerprint(self)


@dataclass(frozen=True, eq=False)
class ClipEncoder:
    """A CLIP model (Radford et al. 2021) as a text-image encoder, and as an image encoder."""

    name: str
    model: Any  # transformers.CLIPModel
    tokenizer: Any  # transformers.CLIPTokenizer
    preprocessing: Preprocessing
    device: torch.device

    @torch.no_grad()
    def image_features(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n width"]:
        """float32 [n, width] on the CPU, not normalised, of uint8 images [n, 3, h, w]."""

        def encode(batch: Tensor) -> Tensor:
            pixels = self.preprocessing(batch.to(self.device))
            pooled = self.model.vision_model(pixel_values=pixels).pooler_output
            return cast(Tensor, self.model.visual_projection(pooled))

        return _in_batches(images, encode)

    features = image_features

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Float[Tensor, "n width"]:
        """float32 [n, width] on the CPU, not normalised; texts longer than the model's are cut."""
        distinct = list(dict.fromkeys(texts))
        tokens = self.tokenizer(
            distinct,
            padding="max_length",
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.device)
        output = self.model.text_model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        )
        rows = self.model.text_projection(output.pooler_output).float().cpu()
        return cast(Tensor, rows[[distinct.index(text) for text in texts]])

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
        shape = repr((images.dtype, tuple(images.shape[1:]))).encode()
        keys = [
            hashlib.sha256(shape + image.cpu().contiguous().numpy().tobytes()).hexdigest()
            for image in images
        ]
        found = {key: self._rows[key] for key in keys if key in self._rows}
        missing = {key: i for i, key in enumerate(keys) if key not in found}  # one index a content
        if missing:
            rows = self._encoder.features(images[list(missing.values())])
            found |= zip(missing, rows, strict=True)
        for key in dict.fromkeys(keys):
            self._rows[key] = found[key]
            self._rows.move_to_end(key)
        while len(self._rows) > self._capacity:
            self._rows.popitem(last=False)
        return torch.stack([found[key] for key in keys])

    def fingerprint(self) -> str:
        """The encoder's own."""
        return self._encoder.fingerprint()
