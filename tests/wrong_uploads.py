"""Files that `safezone serve` refuses: what is sent, and a part of the sentence that it tells."""

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from PIL import Image

Files: TypeAlias = list[tuple[str, tuple[str, bytes]]]
"""Parts of a form: which field, the file's name, its content."""


def picture(
    size: tuple[int, int] = (64, 48), *, shade: int = 90, mode: str = "RGB", form: str = "PNG"
) -> bytes:
    """A rectangle on a plain ground."""
    buffer, image = io.BytesIO(), Image.new(mode, size, 20 if mode == "L" else (20, 60, 20))
    third = (size[0] // 3, size[1] // 3, 2 * size[0] // 3, 2 * size[1] // 3)
    image.paste(255 if mode == "L" else (shade, 200, 255 - shade), third)
    image.save(buffer, form)
    return buffer.getvalue()


def promise(width: int, height: int, data: bytes = b"") -> bytes:
    """A grey PNG that promises so many pixels, and what it really has."""
    whole = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    for name, content in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b"")):
        crc = struct.pack(">I", zlib.crc32(name + content))
        whole += struct.pack(">I", len(content)) + name + content + crc
    return whole


def bomb() -> bytes:
    """A PNG of few bytes and very many pixels, all of which are really there."""
    packed = zlib.compressobj(1)
    line = bytes(20_001)
    data = b"".join(packed.compress(line) for _ in range(20_000)) + packed.flush()
    return promise(20_000, 20_000, data)


def three(part: str = "protected", **changes: bytes) -> Files:
    """Three good pictures, some of them replaced."""
    good = {name: picture(shade=90 + 9 * i) for i, name in enumerate(("a", "b", "c"))}
    return [(part, (f"{name}.png", content)) for name, content in (good | changes).items()]


def moving() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("P", (64, 64), shade) for shade in (1, 2)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


WRONG: Final[Mapping[str, tuple[Callable[[], Files], str]]] = {
    "nothing": (list, "no picture was given"),
    "masks alone": (lambda: three("masks"), "no picture was given"),
    "a text named PNG": (lambda: three(b=b"hello"), "protected/b.png is not an image"),
    "an empty file": (lambda: three(b=b""), "protected/b.png is not an image"),
    "a PNG cut short": (lambda: three(b=picture()[:90]), "protected/b.png is damaged"),
    "a page named PNG": (lambda: three(b=b"<svg onload='x()'/>"), "protected/b.png is not an"),
    "an animated GIF": (
        lambda: [*three(), ("protected", ("d.gif", moving()))],
        "d.gif is not an image",
    ),
    "an animated GIF named PNG": (lambda: three(b=moving()), "protected/b.png is not an image"),
    "a bomb": (lambda: three(b=bomb()), "protected/b.png has more than the 100,000,000 pixels"),
    "a header of huge size": (
        lambda: three(b=promise(11_000, 11_000)),
        "protected/b.png has 11000 x 11000 pixels, more than",
    ),
    "a hundred files": (
        lambda: [("protected", (f"{i}.png", picture())) for i in range(100)],
        "there are 100 protected pictures; give at most 15",
    ),
    "a thousand files": (
        lambda: [("protected", (f"{i}.png", b"")) for i in range(1000)],
        "Too many files",
    ),
    "a name that leads out": (
        lambda: [*three(), ("protected", ("../d.png", picture()))],
        "is no plain name of a file",
    ),
    "a name that leads far out": (
        lambda: [*three(), ("protected", ("/etc/d.png", picture()))],
        "is no plain name of a file",
    ),
    "a name as on Windows": (
        lambda: [*three(), ("protected", ("..\\d.png", picture()))],
        "is no plain name of a file",
    ),
    "a hidden name": (
        lambda: [*three(), ("protected", (".d.png", picture()))],
        "is no plain name of a file",
    ),
    "a very long name": (
        lambda: [*three(), ("protected", ("d" * 300 + ".png", picture()))],
        "too long",
    ),
    "our own record": (
        lambda: [*three(), ("protected", ("concept.json", b"{}"))],
        "concept.json is not an image",
    ),
    "a manifest": (
        lambda: [*three(), ("protected", ("manifest.json", b"{}"))],
        "manifest.json is not an image",
    ),
    "one name twice": (
        lambda: [*three(), ("protected", ("A.png", picture()))],
        "two protected pictures are called A.png",
    ),
    "names that differ in their ending": (
        lambda: [*three(), ("protected", ("a.jpg", picture(form="JPEG")))],
        "differ only in their ending",
    ),
    "fewer originals": (
        lambda: [*three(), *three("clean")[:2]],
        "3 protected pictures and 2 originals",
    ),
    "a mask of another size": (
        lambda: [*three(), *three("masks", b=picture((32, 32), mode="L"))],
        "protected/masks/b.png has 32 x 32 pixels",
    ),
    "a mask that is a text": (
        lambda: [*three(), *three("masks", b=b"white")],
        "protected/masks/b.png is not an image",
    ),
    "a mask that is black": (
        lambda: [*three(), *three("masks", b=black())],
        "protected/masks/b.png is empty",
    ),
    "a mask too few": (
        lambda: [*three("clean"), *three("masks")[:2]],
        "c.png is missing",
    ),
    "a mask of nothing": (
        lambda: [*three(), ("masks", ("d.png", picture(mode="L")))],
        "the mask d belongs to no picture",
    ),
}
"""What is sent, and a part of the sentence that the page tells."""


def black() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (64, 48)).save(buffer, "PNG")
    return buffer.getvalue()
