"""What happens to a picture on its way through a platform: scaled, compressed, photographed off."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Posting:
    """An image file's pixels as they come back; settings are of the pixels in the file.

    ``long_side``: a longer picture is made that small. ``scale``: a screenshot's, away from the
    file's size and back. ``gamma``: of the screen. ``form`` and ``quality``: how it is compressed.
    """

    long_side: int | None = None
    scale: float = 1.0
    gamma: float = 1.0
    form: Literal["JPEG", "WEBP", "PNG"] = "PNG"
    quality: int = 100

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB uint8 [h, w, 3] to the same kind; smaller where ``long_side`` says so."""
        image = Image.fromarray(pixels)
        if self.long_side is not None and max(image.size) > self.long_side:
            image.thumbnail((self.long_side, self.long_side), Image.Resampling.LANCZOS)
        if self.scale != 1:
            size = image.size
            shown = (max(1, round(size[0] * self.scale)), max(1, round(size[1] * self.scale)))
            image = image.resize(shown, Image.Resampling.BICUBIC)
            image = image.resize(size, Image.Resampling.BICUBIC)
        if self.gamma != 1:
            levels = 255 * (np.arange(256) / 255) ** self.gamma
            image = image.point([round(level) for level in levels] * 3)
        if self.form != "PNG":
            file = io.BytesIO()
            image.save(file, self.form, quality=self.quality)
            with Image.open(file) as back:
                image = back.convert("RGB")
        return np.array(image, dtype=np.uint8)


POSTINGS: Final[Mapping[str, Posting]] = MappingProxyType(
    {
        "posted-1080": Posting(long_side=1080, form="JPEG", quality=75),
        "posted-2048": Posting(long_side=2048, form="JPEG", quality=90),
        "webp": Posting(form="WEBP", quality=80),
        "screenshot": Posting(scale=0.8, gamma=1.1),
    }
)
"""By the name that the audit's tables show. Platforms change their settings; these are fixed."""
