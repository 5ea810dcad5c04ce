"""One rule from files to pixels: over white, 8 bits per channel, the first frame; unreadable images are counted."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from gendiv_lightning.images.decode import CorruptImages, ImageError, ImageItem, decode_image, read_images


def file_of(image, kind="PNG", **settings):
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def deep_png(channels):
    """A PNG with 16 bits per channel, which Pillow cannot write."""
    colour = {1: 0, 3: 2, 4: 6}[channels]

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    row = b"\0" + struct.pack(">H", 40000) * channels * 4
    header = struct.pack(">IIBBBBB", 4, 4, 16, colour, 0, 0, 0)
    pixels = zlib.compress(row * 4)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_transparency_is_composited_over_white():
    pixels = np.zeros((2, 2, 4), dtype=np.uint8)
    pixels[0] = (200, 100, 0, 255)
    pixels[1, 0] = (0, 0, 0, 128)
    found = np.array(decode_image(file_of(Image.fromarray(pixels, "RGBA"))))
    assert found[0].tolist() == [[200, 100, 0]] * 2
    assert found[1].tolist() == [[127] * 3, [255] * 3]


def test_transparent_palette_and_grey_colours_are_composited_over_white():
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([10, 20, 30])
    for image, plain in ((palette, [10, 20, 30]), (Image.new("L", (1, 1), 7), [7] * 3)):
        assert np.array(decode_image(file_of(image))).tolist() == [[plain]]
        transparent = 0 if image is palette else 7
        assert np.array(decode_image(file_of(image, transparency=transparent))).tolist() == [[[255] * 3]]


KINDS = {
    "PNG": "RGB L P 1",
    "TIFF": "RGB L P 1 CMYK",
    "GIF": "L P 1",
    "BMP": "RGB L P 1",
    "WEBP": "RGB",
    "JPEG": "RGB L CMYK",
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind in KINDS for mode in KINDS[kind].split()])
def test_every_kind_of_8_bits_becomes_rgb(kind, mode):
    image = decode_image(file_of(Image.new("L", (4, 3), 255).convert(mode), kind))
    assert (image.mode, image.size) == ("RGB", (4, 3))
    assert image.getextrema() == ((255, 255),) * 3


def test_the_first_frame_of_an_animation_is_used():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    "data",
    [
        *map(deep_png, (1, 3, 4)),
        file_of(Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16))),
        file_of(Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)), "TIFF"),
    ],
    ids=["grey png", "rgb png", "rgba png", "grey png of Pillow", "float tiff"],
)
def test_more_than_8_bits_per_channel_are_rejected(data):
    with pytest.raises(ValueError, match="8 bits"):
        decode_image(data)


@pytest.mark.parametrize("data", [b"", b"no image", file_of(Image.new("RGB", (64, 64)))[:60]])
def test_incomplete_images_raise_known_errors(data):
    with pytest.raises(ImageError):
        decode_image(data)


def items(*data):
    return [ImageItem(f"{n}.png", len(d), lambda d=d: d) for n, d in enumerate(data)]


def test_unreadable_images_are_skipped_and_listed_and_too_many_are_an_error():
    good = file_of(Image.new("RGB", (2, 2), (1, 2, 3)))
    for num_images in (None, 4):  # for a stream this is known at the end
        corrupt = CorruptImages(0.25, num_images)
        read = list(read_images(items(good, b"oops", good, good), corrupt))
        assert [image[:, 0, 0].tolist() for image in read] == [[1, 2, 3]] * 3
        reason = "it is not an image of a known format"
        assert corrupt.in_words() == f"1 unreadable images were skipped: 1.png ({reason})"
        with pytest.raises(
            ValueError, match=r"1 of 4 images cannot be read, more than a share of 0\.2; the last are 1\.png \("
        ):
            list(read_images(items(good, b"oops", good, good), CorruptImages(0.2, num_images)))


def test_too_many_of_a_known_number_are_an_error_at_once():
    corrupt = CorruptImages(0.25, 4)
    stream = read_images(items(b"", b"", *[b"not reached"] * 2), corrupt)
    with pytest.raises(ValueError, match="2 of 4"):
        next(stream)
    assert corrupt.names == ["0.png", "1.png"]
