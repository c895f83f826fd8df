"""Decoding, channels and size of single images."""

import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from ddpm_jax.data import images
from ddpm_jax.data.images import BrokenImage, fit, pixels, read_image

RNG = np.random.default_rng(0)


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def random_image(height: int, width: int, channels: int = 3) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


def test_an_image_of_the_asked_size_is_untouched():
    array = random_image(5, 9)
    np.testing.assert_array_equal(read_image(encoded(Image.fromarray(array)), (5, 9), 3), array)
    grey = random_image(5, 9, 1)
    file = encoded(Image.fromarray(grey[..., 0]))
    np.testing.assert_array_equal(read_image(file, (5, 9), 1), grey)


@pytest.mark.parametrize(
    ("source", "size"), [((64, 32), (16, 16)), ((30, 90), (15, 15)), ((8, 8), (32, 16))]
)
def test_fit_is_scale_to_cover_then_cut_the_centre(source, size):
    image = Image.fromarray(random_image(*source))
    factor = max(size[0] / source[0], size[1] / source[1])
    scaled = image.resize(
        (round(source[1] * factor), round(source[0] * factor)), Image.Resampling.BICUBIC
    )
    left, top = (scaled.width - size[1]) // 2, (scaled.height - size[0]) // 2
    cut = scaled.crop((left, top, left + size[1], top + size[0]))
    difference = np.asarray(fit(image, size), int) - np.asarray(cut, int)
    assert np.abs(difference).max() <= 1


def test_fit_commutes_with_mirroring_and_transposing():
    image = Image.fromarray(random_image(37, 53))
    straight = np.asarray(fit(image, (16, 24)), int)
    mirrored = fit(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (16, 24))
    assert np.abs(np.asarray(mirrored, int)[:, ::-1] - straight).max() <= 1
    transposed = fit(image.transpose(Image.Transpose.TRANSPOSE), (24, 16))
    assert np.abs(np.asarray(transposed, int).swapaxes(0, 1) - straight).max() <= 1


def test_shrinking_averages_instead_of_picking_pixels():
    # The finest chequerboard: without antialiasing it would come out black or white.
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = np.asarray(fit(Image.fromarray(board), (8, 8)), int)
    assert np.abs(small - 127).max() <= 3


def test_a_strip_of_extreme_aspect_costs_no_more_than_its_output():
    strip = Image.new("L", (1_000_000, 1), 7)
    np.testing.assert_array_equal(pixels(strip, (64, 64), 1), np.full((64, 64, 1), 7))


GREY = Image.fromarray(random_image(6, 4, 1)[..., 0])
COLOUR = Image.fromarray(random_image(6, 4))


def with_alpha(alpha: int) -> Image.Image:
    image = COLOUR.copy()
    image.putalpha(alpha)
    return image


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (with_alpha(255), COLOUR),
        (with_alpha(0), Image.new("RGB", (4, 6), "white")),
        (GREY.convert("LA"), GREY.convert("RGB")),
        (GREY.convert("P"), GREY.convert("RGB")),
        (
            GREY.point(lambda v: 255 * (v > 127)).convert("1"),
            GREY.point(lambda v: 255 * (v > 127)).convert("RGB"),
        ),
        (Image.fromarray(np.asarray(GREY, np.uint16) * 257), GREY.convert("RGB")),
    ],
    ids=["opaque", "transparent", "grey with alpha", "palette", "bits", "16 bits"],
)
def test_every_png_mode_becomes_rgb_and_grey(image, expected):
    file = encoded(image)
    rgb = read_image(file, (6, 4), 3)
    np.testing.assert_array_equal(rgb, np.asarray(expected))
    np.testing.assert_array_equal(read_image(file, (6, 4), 1)[..., 0], expected.convert("L"))


def test_a_transparent_palette_entry_is_white():
    palette = Image.new("P", (4, 6), 0)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    file = encoded(palette, transparency=0)
    np.testing.assert_array_equal(read_image(file, (6, 4), 3), np.full((6, 4, 3), 255))


def test_cmyk_jpeg_keeps_its_colour():
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    image = read_image(encoded(red, "JPEG", quality=95), (8, 8), 3)
    assert np.abs(image.astype(int) - [255, 0, 0]).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[274] = orientation
    file = encoded(COLOUR, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
    result = read_image(file, (upright.height, upright.width), 3)
    np.testing.assert_array_equal(result, np.asarray(upright))


def test_damaged_exif_does_not_break_an_image():
    file = encoded(COLOUR, "JPEG", exif=b"Exif\x00\x00garbage" * 3)
    assert read_image(file, (6, 4), 3).shape == (6, 4, 3)


WHOLE = encoded(Image.fromarray(random_image(32, 32)))
WHOLE_JPEG = encoded(Image.fromarray(random_image(64, 64)), "JPEG")


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"", "empty"),
        (b"GIF89a" + bytes(50), "neither PNG nor JPEG"),
        (encoded(COLOUR, "BMP"), "neither PNG nor JPEG"),
        (WHOLE[: len(WHOLE) // 2], "trunca"),
        (WHOLE_JPEG[: len(WHOLE_JPEG) // 2], "trunca"),
        (WHOLE[:10], "."),
        (WHOLE[:60] + bytes(len(WHOLE) - 60), "."),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "."),
    ],
)
def test_a_broken_image_says_why_in_one_line(file, reason):
    with pytest.raises(BrokenImage, match=reason) as caught:
        read_image(file, (4, 4), 3)
    assert str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_decompression_bomb_is_broken_and_not_a_warning(monkeypatch, recwarn):
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    with pytest.raises(BrokenImage, match="over the limit of 1000 pixels"):
        read_image(WHOLE, (4, 4), 3)
    assert not recwarn.list


def test_an_oversized_text_chunk_is_broken():
    text = PngImagePlugin.PngInfo()
    text.add_text("bomb", "x" * 3_000_000, zip=True)
    with pytest.raises(BrokenImage):
        read_image(encoded(COLOUR, pnginfo=text), (4, 4), 3)


def test_an_unreadable_path_is_broken(tmp_path):
    with pytest.raises(BrokenImage):
        read_image(tmp_path / "absent.png", (4, 4), 3)
