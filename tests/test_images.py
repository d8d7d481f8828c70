"""Images: what is read, refused, written, cut and compressed."""

import errno
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

from safezone.errors import UserError
from safezone.images import (
    jpeg,
    png_text,
    read_image,
    read_mask,
    to_float,
    to_square,
    to_uint8,
    write_png,
)

PHOTOS = Path(
    os.environ.get("SAFEZONE_PHOTOS", Path(__file__).parents[2] / "shared/data/dreambooth")
)


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1).astype(np.uint8)


def png16(path: Path, samples: NDArray[np.uint16]) -> None:
    """A 16-bit PNG, grey or RGB, written by hand: Pillow cannot write the latter."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if samples.ndim == 3 else 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


MODES = ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK"]


@pytest.mark.parametrize("mode", MODES)
def test_every_colour_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    original = Image.fromarray(smooth(12, 10))
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    original.convert(mode).save(path)
    pixels = read_image(path)
    expected = np.asarray(original.convert(mode).convert("RGB"))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tif"])
def test_lossless_formats_keep_every_pixel(suffix: str, tmp_path: Path) -> None:
    pixels = noise(9, 14)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", lossless=True)
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}"), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    upright = smooth(24, 40)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), upright)


def test_transparency_is_composited_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, 3] = [0, 255, 128]
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [255, 0, 127]


def test_palette_transparency_is_composited_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    assert read_image(tmp_path / "a.png").tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65279, 65535]], dtype=np.uint16)
    png16(tmp_path / "a.png", values)
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 0, 1, 1, 128, 254, 255]


def test_sixteen_bit_colour_is_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 3 * 64).reshape(1, 64, 3).astype(np.uint16)
    png16(tmp_path / "a.png", ramp)
    difference = read_image(tmp_path / "a.png").astype(float) - ramp / 257
    assert np.abs(difference).max() < 1.01


def test_cmyk_without_a_profile_needs_no_colour_management(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> object:
        raise ImportError("Pillow was built without LittleCMS")

    monkeypatch.setattr(ImageCms, "createProfile", missing)
    image = Image.fromarray(smooth(8, 8)).convert("CMYK")
    image.save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), np.asarray(image.convert("RGB")))


def test_broken_cmyk_profile_falls_back(tmp_path: Path) -> None:
    image = Image.fromarray(smooth(8, 8)).convert("CMYK")
    image.save(tmp_path / "a.tif", icc_profile=b"no profile at all")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), np.asarray(image.convert("RGB")))


def test_foreign_profile_on_cmyk_falls_back(tmp_path: Path) -> None:
    image = Image.fromarray(smooth(8, 8)).convert("CMYK")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.save(tmp_path / "a.jpg", quality=95, icc_profile=profile)
    assert read_image(tmp_path / "a.jpg").shape == (8, 8, 3)


def test_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.fromarray(noise(8, 8, seed)) for seed in (1, 2)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(read_image(tmp_path / "a.webp"), noise(8, 8, 1))


def test_multi_picture_jpeg_of_a_camera_is_read(tmp_path: Path) -> None:
    frames = [Image.fromarray(smooth(16, 24)), Image.fromarray(noise(8, 8))]
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:], quality=95)
    difference = read_image(tmp_path / "a.jpg").astype(int) - smooth(16, 24)
    assert np.abs(difference).mean() < 8


@pytest.mark.parametrize(
    ("bits", "photometric", "refused"), [(16, 1, False), (16, 0, True), (12, 1, True)]
)
def test_grey_tiffs_that_pillow_reads_as_if_of_16_bits_are_refused(
    tmp_path: Path, bits: int, photometric: int, refused: bool
) -> None:
    data = bytes(2 * bits // 8)  # two black pixels
    tags = {256: 2, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 1, 279: 4}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    ending = struct.pack("<H", len(tags)) + b"".join(entries) + bytes(4)
    (tmp_path / "a.tif").write_bytes(head + data + ending)
    for read in (read_image, read_mask):
        if refused:
            with pytest.raises(UserError, match=r"a\.tif has 12-bit grey.*8 bits"):
                read(tmp_path / "a.tif")
        else:
            assert not read(tmp_path / "a.tif").any()


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a\.tif has 32-bit pixels.*8 bits"):
        read_image(tmp_path / "a.tif")


def missing(path: Path) -> None:
    pass


def folder(path: Path) -> None:
    path.mkdir()


def text(path: Path) -> None:
    path.write_text("not an image\n" * 50)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated_png(path: Path) -> None:
    Image.fromarray(noise(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:5000])


def truncated_jpeg(path: Path) -> None:
    Image.fromarray(noise(64, 64)).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:2000])


def damaged_png(path: Path) -> None:
    Image.fromarray(noise(64, 64)).save(path)
    data = bytearray(path.read_bytes())
    data[60:90] = bytes(30)
    path.write_bytes(data)


def postscript(path: Path) -> None:
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")


def enormous(path: Path) -> None:
    """A PNG of a few bytes whose header claims 40,000 x 40,000 pixels."""
    png16(path, np.zeros((1, 1), dtype=np.uint16))
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 40_000, 40_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(data)


BAD_FILES = [
    (missing, "does not exist; check"),
    (folder, "is a folder; give"),
    (text, "is not an image that can be read; save it as PNG"),
    (empty, "is not an image that can be read"),
    (postscript, "is not an image that can be read"),
    (truncated_png, "is damaged or cut short"),
    (truncated_jpeg, "is damaged or cut short"),
    (damaged_png, "is damaged or cut short"),
    (enormous, "more than the 100,000,000 .*allowed; make it smaller"),
]


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize(("make", "sentence"), BAD_FILES)
def test_bad_files_get_one_sentence(
    make: Callable[[Path], None], sentence: str, read: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "photo.png"
    make(path)
    with pytest.raises(UserError, match=f"photo.png {sentence}|photo.png has .*{sentence}") as told:
        read(path)
    assert "\n" not in str(told.value)


def test_too_many_pixels_are_told_before_decoding(tmp_path: Path) -> None:
    Image.fromarray(noise(20, 30)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", max_pixels=600).shape == (20, 30, 3)
    with pytest.raises(UserError, match="30 x 20 pixels, more than the 599"):
        read_image(tmp_path / "a.png", max_pixels=599)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp"])
def test_damaged_bytes_never_raise_anything_else(suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(smooth(16, 16)).save(path, exif=exif)
    intact = path.read_bytes()
    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(150):
        data = bytearray(intact)
        for _ in range(rng.integers(1, 6)):
            data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(data)
        try:
            outcomes.append(read_image(path, max_pixels=100_000).shape[2])
        except UserError as error:
            assert str(path) in str(error)
    assert set(outcomes) <= {3}


MASKS: list[tuple[str, NDArray[np.generic]]] = [
    ("grey", np.array([[0, 127, 128, 255]], dtype=np.uint8)),
    ("bool", np.array([[False, False, True, True]])),
    ("zero and one", np.array([[0, 0, 1, 1]], dtype=np.uint8)),
    ("sixteen bit", np.array([[0, 32000, 33000, 65535]], dtype=np.uint16)),
    ("rgb", np.repeat(np.array([[[0], [9], [200], [255]]], dtype=np.uint8), 3, axis=2)),
    ("cut-out", np.array([[[9, 9, 9, a] for a in (0, 100, 128, 255)]], dtype=np.uint8)),
    ("opaque", np.array([[[v, v, v, 255] for v in (0, 100, 128, 255)]], dtype=np.uint8)),
]


@pytest.mark.parametrize(("kind", "values"), MASKS, ids=[kind for kind, _ in MASKS])
def test_every_kind_of_mask_file_is_read(
    kind: str, values: NDArray[np.generic], tmp_path: Path
) -> None:
    Image.fromarray(values).save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png")
    assert mask.dtype == np.bool_
    assert mask.tolist() == [[False, False, True, True]]


def test_write_png_keeps_pixels_and_text(tmp_path: Path) -> None:
    pixels = noise(7, 5)
    path = tmp_path / "new" / "a.png"
    write_png(path, pixels, {"poison": "adm+", "name": "Ärmel 猫"})
    np.testing.assert_array_equal(read_image(path), pixels)
    assert png_text(path) == {"poison": "adm+", "name": "Ärmel 猫"}
    with Image.open(path) as image:
        assert image.info["poison"] == "adm+"
        assert image.info["name"] == "Ärmel 猫"
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_other_files_have_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("tEXt")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.jpg")
    assert [png_text(tmp_path / name) for name in ("a.png", "b.jpg", "c.png")] == [{}, {}, {}]


def test_write_png_takes_tensors_channels_first(tmp_path: Path) -> None:
    pixels = noise(7, 5)
    write_png(tmp_path / "a.png", torch.from_numpy(pixels).permute(2, 0, 1))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize("tensor", [False, True])
def test_masks_are_written_and_read_back(tensor: bool, tmp_path: Path) -> None:
    mask = noise(6, 4)[..., 0] > 100
    write_png(tmp_path / "m.png", torch.from_numpy(mask) if tensor else mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), mask)


@pytest.mark.parametrize("bad", [np.zeros((2, 2, 3)), np.zeros((2, 2, 4), dtype=np.uint8)])
def test_write_png_refuses_other_arrays(bad: NDArray[np.generic], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8-bit RGB or grey"):
        write_png(tmp_path / "a.png", bad)


def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    write_png(path, noise(4, 4, 1))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"cannot write .*a\.png \(No space left on device\)"):
        write_png(path, noise(4, 4, 2))
    np.testing.assert_array_equal(read_image(path), noise(4, 4, 1))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*a\.png .*writable"):
        write_png(tmp_path / "file" / "a.png", noise(4, 4))


SIDES = st.integers(1, 40)


@settings(max_examples=60, deadline=None)
@given(height=SIDES, width=SIDES, size=st.integers(1, 40))
def test_to_square_has_the_size_and_commutes_with_turning(
    height: int, width: int, size: int
) -> None:
    image = noise(height, width)
    mask = image[..., 0] > 127
    assert to_square(image, size).shape == (size, size, 3)
    square = to_square(mask, size)
    assert square.dtype == np.bool_
    np.testing.assert_array_equal(to_square(mask.T, size), square.T)


@settings(max_examples=100, deadline=None)
@given(height=st.integers(8, 48), width=st.integers(8, 48), size=st.integers(4, 48), data=st.data())
def test_images_and_masks_are_cut_at_the_same_place(
    height: int, width: int, size: int, data: st.DataObject
) -> None:
    side = min(height, width)
    edge = data.draw(st.integers(1, side - 1))
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[:, (width - side) // 2 + edge :] = True
    image = np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255
    distance = (np.arange(size) + 0.5) * side / size - edge  # of a column's middle to the edge
    clear = np.abs(distance) >= max(1.0, side / size)
    for columns in (to_square(mask, size), to_square(image, size)[..., 0] >= 128):
        np.testing.assert_array_equal(columns[:, clear], np.tile(distance[clear] > 0, (size, 1)))


@pytest.mark.parametrize("shape", [(32, 32), (32, 48), (49, 32)])
def test_pixels_of_the_right_size_stay_unchanged(shape: tuple[int, int]) -> None:
    pixels = noise(*shape)
    top, left = ((length - 32) // 2 for length in shape)
    np.testing.assert_array_equal(to_square(pixels, 32), pixels[top : top + 32, left : left + 32])


def test_mask_shrinks_by_area_with_half_counting() -> None:
    mask = np.zeros((4, 4), dtype=np.bool_)
    mask[0, 0] = mask[0, 2] = mask[1, 3] = True
    assert to_square(mask, 2).tolist() == [[False, True], [False, False]]


def batch(count: int = 3, side: int = 24) -> torch.Tensor:
    images = np.stack([smooth(side, side) // (i + 1) for i in range(count)])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_jpeg_equals_pillow_image_by_image(subsampling: str) -> None:
    images = batch()
    result = jpeg(images, 25, subsampling)
    for before, after in zip(images, result, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(before.permute(1, 2, 0).numpy()).save(
            buffer, "JPEG", quality=25, subsampling=subsampling
        )
        expected = np.array(Image.open(buffer))
        np.testing.assert_array_equal(after.permute(1, 2, 0).numpy(), expected)
    assert result.dtype == torch.uint8


def test_lower_quality_and_subsampling_cost_more() -> None:
    images = torch.from_numpy(noise(32, 32)).permute(2, 0, 1)[None]

    def error(*options: object) -> float:
        return float((jpeg(images, *options).float() - images.float()).square().mean())  # type: ignore[arg-type]

    assert error(95, "4:4:4") < error(25, "4:4:4") < error(25, "4:2:0")


@pytest.mark.parametrize(("quality", "subsampling"), [(0, "4:2:0"), (101, "4:2:0"), (25, "4:1:0")])
def test_jpeg_refuses_other_options(quality: int, subsampling: str) -> None:
    with pytest.raises(UserError, match=r"JPEG .*; give"):
        jpeg(batch(), quality, subsampling)


def test_bytes_to_floats_and_back_is_exact() -> None:
    values = torch.arange(256, dtype=torch.uint8).expand(1, 3, 1, 256)
    assert torch.equal(to_uint8(to_float(values)), values)


def test_to_uint8_rounds_and_clamps() -> None:
    floats = torch.tensor([-1.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 7.0])
    assert to_uint8(floats).tolist() == [0, 0, 1, 255, 255]


def test_to_uint8_refuses_nan() -> None:
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(torch.tensor([0.5, float("nan")]))


@pytest.mark.usefixtures("unchecked_shapes")
def test_to_float_refuses_floats() -> None:
    with pytest.raises(ValueError, match="uint8"):
        to_float(torch.zeros(1, 3, 2, 2))


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no photographs here")
def test_real_photographs_are_read() -> None:
    paths = sorted(PHOTOS.glob("*/00.jpg"))
    squares = [to_square(read_image(path), 64) for path in paths]
    assert squares
    assert all(square.shape == (64, 64, 3) and square.std() > 10 for square in squares)
