"""Pictures small enough that thousands of them fit in one page."""

import base64
import io
from typing import Final

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from safezone.results.html import amplified_difference

THUMBNAIL: Final = 96
"""Side, in pixels."""
_QUALITY: Final = 75


def thumbnail(image: UInt8[Tensor, "3 h w"], side: int = THUMBNAIL) -> str:
    """The image as a small WebP, a data URI of about 2 kB."""
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    if picture.width > side:
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def training_pictures(
    clean: UInt8[Tensor, "n 3 h w"], given: UInt8[Tensor, "n 3 h w"]
) -> tuple[str, ...]:
    """The first image given to the trainer and, if it is poisoned, its change 8 times amplified."""
    if clean.shape != given.shape or bool((clean == given).all()):
        return (thumbnail(given[0]),)
    return (thumbnail(given[0]), thumbnail(amplified_difference(clean[:1], given[:1])[0]))
