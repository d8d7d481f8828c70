"""Reading and writing images and masks safely; resize, crop, JPEG, bytes to floats and back."""

import io
import struct
import warnings
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, PngImagePlugin
from torch import Tensor

from safezone.errors import UserError
from safezone.files import whole_file
from safezone.reading import require_file

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 100_000_000

# Named so that Pillow never tries its exotic readers (some of them start other programs).
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_DECODER_ERRORS = (
    OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip

_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF; grey is read without them

_Pixels = TypeVar("_Pixels", NDArray[np.uint8], NDArray[np.bool_])


def _decode(path: Path, max_pixels: int) -> Image.Image:
    """The first frame, decoded whole and turned as its EXIF orientation says."""
    require_file(path, "an image file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are checked below; odd metadata does no harm
            image = Image.open(path, formats=_FORMATS)
    except PermissionError as error:
        raise UserError(f"{path} may not be read; change its permissions") from error
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{path} has more than the {max_pixels:,} pixels allowed; make it smaller"
        ) from error
    except _DECODER_ERRORS as error:
        raise UserError(
            f"{path} is not an image that can be read; save it as PNG, JPEG, WebP, BMP or TIFF"
        ) from error
    with image:
        width, height = image.size
        if width * height > max_pixels:  # from the header: nothing has been decoded yet
            raise UserError(
                f"{path} has {width} x {height} pixels, more than the {max_pixels:,} allowed; "
                "make it smaller"
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image.load()
                turned: Image.Image = ImageOps.exif_transpose(image)
        except _DECODER_ERRORS as error:
            raise UserError(
                f"{path} is damaged or cut short ({error}); save or download it again"
            ) from error
        tags = getattr(image, "tag_v2", {}) if _sixteen_bit(image) else {}  # of a TIFF
        if tags and (tags[_BITS] != (16,) or tags.get(_PHOTOMETRIC, 1) == _WHITE_IS_ZERO):
            raise UserError(f"{path} has 12-bit grey values or white as 0; save it with 8 bits")
        turned.format = image.format
        return turned


def _sixteen_bit(image: Image.Image) -> bool:
    # PNG has nothing deeper than 16 bits, so its mode "I" (older Pillow) is 16 bits as well.
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")


def _eight_bit_grey(image: Image.Image) -> Image.Image:
    """0..65535 to 0..255 by v / 257, rounded; Pillow's own conversion would clip at 255."""
    values = np.asarray(image).astype(np.float64)
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))


def _cmyk_to_rgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    with suppress(ImageCms.PyCMSError, OSError):  # a profile that is broken or foreign
        if profile:
            converted = ImageCms.profileToProfile(
                image, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if converted is not None:
                return converted
    return image.convert("RGB")  # the best guess left


def _has_alpha(image: Image.Image) -> bool:
    return "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa")


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    if _sixteen_bit(image):
        return _eight_bit_grey(image).convert("RGB")
    if image.mode in ("I", "F"):
        raise UserError(f"{path} has 32-bit pixels, whose range is unknown; save it with 8 bits")
    try:
        if image.mode == "CMYK":
            return _cmyk_to_rgb(image)
        if _has_alpha(image):
            rgba = image.convert("RGBA")
            white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, rgba).convert("RGB")
        return image.convert("RGB")
    except ValueError as error:
        raise UserError(
            f"{path} has colours of kind {image.mode}, which cannot be converted; save it as RGB"
        ) from error


def read_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Reads an image file as 8-bit RGB, uint8 [height, width, 3], upright.

    The EXIF orientation is applied; transparency is composited on white; greyscale and palette
    become RGB; CMYK is converted by its profile if it has one; 16 bits are scaled to 8 (greyscale
    rounded, colour by its high byte). RGB profiles are not applied. Of an animation or a
    multi-picture file the first frame is taken. Raises UserError, naming the file, when it is
    missing, not an image, damaged, 32 bits deep, a TIFF of 12-bit or inverted 16-bit grey, or has
    more than ``max_pixels`` pixels (told from its header, before it is decoded).
    """
    return np.array(_to_rgb(_decode(path, max_pixels), path), dtype=np.uint8)


def _black_and_white(grey: NDArray[np.uint8]) -> bool:
    """Whether nearly all values are near black or white, and some of them either."""
    if not grey.size:
        return False
    dark, light = float((grey <= 16).mean()), float((grey >= 239).mean())
    return dark + light >= 0.95 and min(dark, light) >= 0.001


def read_mask(path: Path, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.bool_]:
    """Reads a mask file as bool [height, width], True on the object.

    True where the grey value is at least 128; a file of the values 0 and 1 alone is True at 1. In
    a file with transparency (a cut-out object) the opacity is the mask, unless what is opaque is
    itself painted in black and white. Raises UserError as :func:`read_image` does. An empty mask
    is returned as it is.
    """
    image = _decode(path, max_pixels)
    if _sixteen_bit(image):
        values = np.asarray(image)
        grey = values if values.max() <= 1 else np.asarray(_eight_bit_grey(image))
    else:
        grey = np.asarray(_to_rgb(image, path).convert("L"))
        if _has_alpha(image):
            colours = np.asarray(image.convert("RGBA"))
            opacity = colours[..., 3]
            painted = np.asarray(image.convert("RGBA").convert("RGB").convert("L"))
            if _black_and_white(painted[opacity >= 128]):
                grey = np.where(opacity >= 128, painted, 0)
            elif opacity.min() < 255:
                grey = opacity
    return np.asarray(grey > 0 if grey.max() <= 1 else grey >= 128)


def write_png(
    path: Path, pixels: NDArray[Any] | Tensor, text: Mapping[str, str] | None = None
) -> None:
    """Writes an 8-bit PNG whole or not at all.

    ``pixels``: a uint8 array [height, width, 3], a uint8 tensor [3, height, width], or uint8 or
    bool [height, width] of either kind (bool is written as 0 and 255). ``text`` goes into the
    PNG's text chunks. Missing folders are made. Raises UserError when the place cannot be written
    and ValueError for any other shape or type.
    """
    if isinstance(pixels, Tensor):
        pixels = pixels.detach().cpu().numpy()
        if pixels.ndim == 3:
            pixels = pixels.transpose(1, 2, 0)
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise ValueError(f"write_png takes 8-bit RGB or grey, not {pixels.dtype} {pixels.shape}")
    chunks = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        chunks.add_text(key, value)
    with whole_file(path) as temporary:
        image = Image.fromarray(np.ascontiguousarray(pixels))
        image.save(temporary, format="PNG", pnginfo=chunks)


def png_text(path: Path) -> dict[str, str]:
    """The text chunks that ``write_png`` put into a PNG; none for any other file."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return {str(k): str(v) for k, v in getattr(image, "text", {}).items()}
    except _DECODER_ERRORS:
        return {}


def short_side(path: Path) -> int:
    """The shorter side in pixels, from the header of a file that ``read_image`` reads."""
    with warnings.catch_warnings(action="ignore"), Image.open(path, formats=_FORMATS) as image:
        return min(image.size)


def to_square(pixels: _Pixels, size: int) -> _Pixels:
    """The centre square, resized to ``size``: uint8 [h, w, 3] or bool [h, w] in, the same kind out.

    The square has the shorter side's length, its corner at floor((long - short) / 2); images and
    masks are cut alike. Images are resampled with Lanczos, masks by area with True from one half
    on (nearest when enlarged). _Pixels that already have the size come back unchanged.
    """
    side = min(pixels.shape[:2])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    square = pixels[top : top + side, left : left + side]
    if side == size:
        return square.copy()
    if square.dtype == np.bool_:
        share = Image.fromarray(square.astype(np.float32))
        resized = np.asarray(share.resize((size, size), Image.Resampling.BOX))
        return np.asarray(resized >= 0.5 - 1e-6)
    image = Image.fromarray(np.ascontiguousarray(square))
    return np.array(image.resize((size, size), Image.Resampling.LANCZOS))


def jpeg(
    images: UInt8[Tensor, "n 3 h w"], quality: int = 25, subsampling: str = "4:2:0"
) -> UInt8[Tensor, "n 3 h w"]:
    """Each image through JPEG and back: uint8 [n, 3, h, w] to uint8 of the same shape.

    ``quality``: 1 to 100 in libjpeg's sense. ``subsampling``: the chroma's, "4:4:4", "4:2:2" or
    "4:2:0". Raises UserError for other values.
    """
    if not 1 <= quality <= 100:
        raise UserError(f"JPEG quality {quality} is out of range; give a number from 1 to 100")
    if subsampling not in ("4:4:4", "4:2:2", "4:2:0"):
        raise UserError(f"JPEG subsampling {subsampling!r} is unknown; give 4:4:4, 4:2:2 or 4:2:0")
    result = torch.empty_like(images, device="cpu")
    for index, image in enumerate(images.cpu()):
        buffer = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(
            buffer, format="JPEG", quality=quality, subsampling=subsampling
        )
        decoded = np.array(Image.open(buffer, formats=("JPEG",)))
        result[index] = torch.from_numpy(decoded).permute(2, 0, 1)
    return result.to(images.device)


def to_float(images: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """uint8 to float32 in [0, 1] of the same shape, exactly value / 255.

    Raises ValueError when the images are not uint8.
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"to_float takes uint8 images, not {images.dtype}")
    return images.to(torch.float32) / 255


def to_uint8(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Floats, clamped to [0, 1], to uint8 of the same shape: 255 x, rounded, never truncated.

    ``to_uint8(to_float(x)) == x`` for every uint8 x. Raises ValueError when a value is NaN.
    """
    if torch.isnan(images).any():
        raise ValueError("images hold NaN and cannot be stored")
    return (images.detach().clamp(0, 1) * 255).round().to(torch.uint8)
