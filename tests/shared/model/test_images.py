import io
import struct
import zlib
from dataclasses import replace

import pytest
import torch
from PIL import Image

from shared.errors import InvalidArgument
from shared.model.images import MEAN, STD, open_image, preprocess
from shared.model.presets import STEP3

SMALL = replace(STEP3.vision, image_size=168, crop_size=112)
LIMITS = {"max_bytes": 2**20, "max_pixels": 1_000_000}


def encode(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def png_header(width, height):
    """A PNG that claims a size and holds no pixel."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def raises(reason, match):
    return pytest.raises(
        InvalidArgument, match=match, check=lambda e: (e.reason, e.field) == (reason, "images[0]")
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_formats_and_modes_become_rgb(kind, mode):
    grey = Image.new("L", (5, 4), 77)
    # JPEG has no palette.
    image = open_image(encode(grey.convert("L" if kind == "JPEG" else mode), kind), **LIMITS)
    assert (image.mode, image.size) == ("RGB", (5, 4))
    assert image.getpixel((4, 3)) == (77, 77, 77)


def test_file_path(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(Image.new("RGBA", (3, 2), (9, 8, 7, 0))))
    assert open_image(path, **LIMITS).getpixel((0, 0)) == (9, 8, 7)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", png_header(4, 4)])
def test_undecodable(data):
    with raises("IMAGE_UNDECODABLE", r"images\[0\]: the image cannot be decoded"):
        open_image(data, field="images[0]", **LIMITS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_cut_short(kind, formula_image):
    data = encode(formula_image(64, 64), kind)
    with raises("IMAGE_UNDECODABLE", "cannot be decoded"):
        open_image(data[: len(data) // 2], field="images[0]", **LIMITS)


def test_unsupported_format():
    with raises("IMAGE_UNDECODABLE", "none of PNG, JPEG"):
        open_image(encode(Image.new("RGB", (2, 2)), "TIFF"), field="images[0]", **LIMITS)


def test_absent_file(tmp_path):
    with raises("IMAGE_UNDECODABLE", "No such file"):
        open_image(tmp_path / "none.png", field="images[0]", **LIMITS)


@pytest.mark.parametrize(
    ("width", "height"),
    [
        (1001, 1000),
        # Beyond Pillow's own warning, and beyond its error.
        (12_000, 12_000),
        (60_000, 60_000),
        # A thin strip would be padded to 30000 x 30000.
        (30_000, 1),
    ],
)
def test_too_many_pixels_are_refused_from_the_header(width, height):
    with raises("IMAGE_TOO_LARGE", "pixels"):
        open_image(png_header(width, height), field="images[0]", **LIMITS)


def test_too_many_bytes(tmp_path):
    path = tmp_path / "big.png"
    path.write_bytes(bytes(101))
    for source in (bytes(101), path):
        with raises("IMAGE_TOO_LARGE", "101 bytes, at most 100 bytes"):
            open_image(source, max_bytes=100, max_pixels=10, field="images[0]")


def test_too_many_crops():
    strip = Image.new("RGB", (3000, 40))
    with raises("IMAGE_TOO_MANY_CROPS", "3000 x 40 pixels make 75 crops, at most 40"):
        preprocess(strip, STEP3.vision, max_crops=40, field="images[0]")


def normal(value):
    return [(value / 255 - mean) / std for mean, std in zip(MEAN, STD, strict=True)]


def test_thin_strip_is_padded_with_black_at_the_top_left():
    inputs = preprocess(Image.new("RGB", (100, 10), (255, 255, 255)), SMALL)
    assert inputs.thumbnail_13SS.shape == (1, 3, 168, 168)
    assert inputs.crops_P3ZZ.shape == (0, 3, 112, 112)
    torch.testing.assert_close(inputs.thumbnail_13SS[0, :, 0, 0], torch.tensor(normal(255)))
    torch.testing.assert_close(inputs.thumbnail_13SS[0, :, -1, 0], torch.tensor(normal(0)))


def test_crop_past_the_edge_is_black():
    # 300 x 76 pixels with small sizes: one row of 3 windows of 112, whose lower part lies outside.
    inputs = preprocess(Image.new("RGB", (300, 76), (255, 255, 255)), SMALL)
    assert inputs.newline_after == (False, False, False)
    torch.testing.assert_close(inputs.crops_P3ZZ[0, :, 75, 0], torch.tensor(normal(255)))
    torch.testing.assert_close(inputs.crops_P3ZZ[0, :, 76, 0], torch.tensor(normal(0)))


def test_crops_go_row_by_row():
    image = Image.new("RGB", (224, 224))
    for index, box in enumerate([(0, 0), (112, 0), (0, 112), (112, 112)]):
        image.paste((60 * index,) * 3, (*box, box[0] + 112, box[1] + 112))
    inputs = preprocess(image, SMALL)
    assert inputs.newline_after == (False, True, False, False)
    for index, crop in enumerate(inputs.crops_P3ZZ):
        torch.testing.assert_close(crop[:, 50, 50], torch.tensor(normal(60 * index)))
