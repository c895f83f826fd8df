"""Decoding, channels and size of single images."""

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from ddpm_jax.data import colour, images
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


def png(values, depth, *before):
    """A PNG of values [H, W, 1 or 3] of so many bits, packed as the specification says."""
    height, width, channels = values.shape
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
        rows = [np.packbits(row.reshape(-1)).tobytes() for row in bits]
    header = struct.pack(">IIBBBBB", width, height, depth, 2 if channels == 3 else 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *before, (b"IDAT", data), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(content))
        + kind
        + content
        + zlib.crc32(kind + content).to_bytes(4, "big")
        for kind, content in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def key_chunk(*key):
    return b"tRNS", struct.pack(f">{len(key)}H", *key)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_value_of_a_png_is_white_and_no_other(depth, channels):
    if channels == 3 and depth < 8:
        return  # no such PNG
    top = 2**depth - 1
    # Values that differ in one byte alone among them.
    few = [0, 1, top, top - 1, 5 & top, *([0x0105, 0x0500, 0x0505, 0xFF00] if depth == 16 else [])]
    values = RNG.choice(few, (40, 16, channels))
    for key in values[:8, 0]:
        keyed = (values == key).all(axis=-1, keepdims=True)
        # By the specification (PNG, 13.12) a sample of d bits is v / (2^d - 1) of the brightest.
        eight = values >> 8 if depth == 16 else values * 255 // top
        expected = np.where(keyed, 255, eight)
        read = read_image(png(values, depth, key_chunk(*key)), None, channels)
        np.testing.assert_array_equal(read, expected)
        plain = read_image(png(values, depth), None, channels)
        np.testing.assert_array_equal(plain, eight)


def test_transparent_values_of_files_that_were_read_wrongly():
    grey = png(np.array([[[5], [6]]]), 4, key_chunk(5))
    assert read_image(grey, None, 1).ravel().tolist() == [255, 102]
    deep = png(np.array([[[0], [256]]]), 16, key_chunk(0))
    assert read_image(deep, None, 1).ravel().tolist() == [255, 1]
    colour = png(np.array([[[256, 512, 768], [256, 512, 769]]]), 16, key_chunk(256, 512, 768))
    assert read_image(colour, None, 3).tolist() == [[[255, 255, 255], [1, 2, 3]]]
    # High bits that the pixels do not have are not looked at.
    wide = png(np.array([[[5], [6]]]), 8, key_chunk(0x0105))
    assert read_image(wide, None, 1).ravel().tolist() == [255, 6]


def test_webp_is_read_whole_and_lossless():
    array = random_image(5, 9)
    file = encoded(Image.fromarray(array), "WEBP", lossless=True)
    np.testing.assert_array_equal(read_image(file, None, 3), array)
    red = Image.new("RGB", (16, 16), (200, 30, 40))
    lossy = read_image(encoded(red, "WEBP", quality=95), None, 3)
    assert np.abs(lossy.astype(int) - [200, 30, 40]).max() <= 6
    hidden = encoded(with_alpha(0), "WEBP", lossless=True, exact=True)
    assert (read_image(hidden, None, 3) == 255).all()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    moving = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(read_image(moving, None, 3), np.asarray(frames[0]))


# Red, green and blue in XYZ as profiles state them (adapted to D50), and the exponent of the curve.
P3 = ((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))


def curve():
    """The curve of sRGB (IEC 61966-2-1), which Display P3 has too, as a table of 1,024."""
    x = np.linspace(0, 1, 1024)
    y = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    table = np.rint(y * 65535).astype(">u2").tobytes()
    return b"curv" + bytes(4) + struct.pack(">I", 1024) + table


def gamma(exponent):
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(exponent * 256)) + bytes(2)


def xyz(values):
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def profile(space, tags):
    """A display's ICC profile (ICC.1, version 2.1) of these tags."""
    tags = {b"wtpt": xyz((0.9642, 1.0, 0.8249)), **tags}
    directory, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        directory += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(content))
        body += content.ljust(-(-len(content) // 4) * 4, b"\0")
    d50 = xyz((0.9642, 1.0, 0.8249))[8:]
    header = struct.pack(
        ">I4sI4s4s4s12s4s20s4x4x12s48x", 128 + len(directory) + len(body), b"none", 0x02100000,
        b"mntr", space, b"XYZ ", bytes(12), b"acsp", bytes(20), d50,
    )  # fmt: skip
    assert len(header) == 128
    return header + directory + body


def display(primaries, tone=None):
    names = ("r", "g", "b")
    colours = {f"{n}XYZ".encode(): xyz(v) for n, v in zip(names, primaries, strict=True)}
    tones = {f"{n}TRC".encode(): tone or curve() for n in names}
    return profile(b"RGB ", colours | tones)


# Pairs that Apple and the CSS Color 4 tests publish: the same colour in Display P3 and in sRGB.
SAME_COLOUR = {(234, 51, 35): (255, 0, 0), (117, 251, 76): (0, 255, 0), (0, 0, 245): (0, 0, 255)}


@pytest.mark.parametrize(("wide", "narrow"), SAME_COLOUR.items())
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_wide_gamut_profile_is_followed(wide, narrow, format):
    options = {"quality": 100} | ({"lossless": True} if format == "WEBP" else {})
    image = Image.new("RGB", (16, 16), wide)
    file = encoded(image, format, icc_profile=display(P3), **options)
    assert np.abs(read_image(file, None, 3).astype(int) - narrow).max() <= 6
    # Neutral stays neutral, and what has no profile stays as it is.
    grey = encoded(
        Image.new("RGB", (16, 16), (90, 90, 90)), format, icc_profile=display(P3), **options
    )
    assert np.abs(read_image(grey, None, 3).astype(int) - 90).max() <= 2
    plain = encoded(image, "PNG")
    assert read_image(plain, None, 3)[0, 0].tolist() == list(wide)


def test_a_profile_that_is_srgb_changes_no_pixel():
    array = random_image(64, 64)
    for one in (display(SRGB), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()):
        file = encoded(Image.fromarray(array), icc_profile=one)
        np.testing.assert_array_equal(read_image(file, None, 3), array)


def test_the_curve_of_a_grey_profile_is_followed():
    values = np.arange(256, dtype=np.uint8)[None]
    tone = profile(b"GRAY", {b"kTRC": gamma(1.0)})
    read = read_image(encoded(Image.fromarray(values), icc_profile=tone), None, 1).ravel()
    linear = values[0] / 255
    expected = 255 * np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
    )
    assert np.abs(read - expected).max() <= 1.5


def test_alpha_is_kept_where_colours_are_converted():
    image = Image.new("RGBA", (2, 1), (234, 51, 35, 255))
    image.putpixel((1, 0), (234, 51, 35, 0))
    read = read_image(encoded(image, icc_profile=display(P3)), None, 3).astype(int)
    assert np.abs(read[0, 0] - [255, 0, 0]).max() <= 3
    assert (read[0, 1] == 255).all()
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([234, 51, 35, 0, 0, 0])
    read = read_image(encoded(palette, icc_profile=display(P3)), None, 3).astype(int)
    assert np.abs(read - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize(
    "broken",
    [
        b"no profile",
        display(P3)[:200],
        display(P3)[:128] + bytes(200),
        profile(b"GRAY", {b"kTRC": gamma(1.0)}),  # of a grey image
        profile(b"Lab ", {}),
        bytes(colour.MAX_PROFILE + 1),
    ],
    ids=["text", "cut", "zeros", "grey", "Lab", "long"],
)
def test_a_profile_that_is_not_of_the_image_is_ignored(broken):
    file = encoded(COLOUR, "WEBP", lossless=True, icc_profile=broken)
    np.testing.assert_array_equal(read_image(file, None, 3), np.asarray(COLOUR))


def test_threads_that_share_a_profile_read_the_same():
    file = encoded(Image.fromarray(random_image(64, 64)), icc_profile=display(P3))
    expected = read_image(file, None, 3)
    with ThreadPoolExecutor(8) as threads:
        for read in threads.map(lambda _: read_image(file, None, 3), range(64)):
            np.testing.assert_array_equal(read, expected)


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
    with pytest.raises(BrokenImage, match=r"^No such file or directory$"):
        read_image(tmp_path / "absent.png", (4, 4), 3)
    with pytest.raises(BrokenImage, match=r"^Is a directory$"):
        read_image(tmp_path, (4, 4), 3)
