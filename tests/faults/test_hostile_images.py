"""Images made to harm: bombs, wrong formats, pipes, devices. Each is one line, at once."""

import io
import os
import stat
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from ddpm_jax.commands.sample import task_flags
from ddpm_jax.data import folder, images
from ddpm_jax.data.images import BrokenImage, read_exact, read_image
from ddpm_jax.errors import UserError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 4, 3), dtype=np.uint8)


def encoded(image, format="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


WHOLE = encoded(Image.fromarray(COLOUR))


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(
        ">I", zlib.crc32(kind + content)
    )  # fmt: skip


def png(width, height, data, *before, depth=8, colour=0):
    """A PNG of these chunks, and of this stream of pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *before, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def zeros(count):
    """At least `count` zero bytes as a zlib stream, made without inflating or holding them."""
    squeeze = zlib.compressobj(9, wbits=-15)
    piece = squeeze.compress(bytes(2**20)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    pieces = -(-count // 2**20)
    # The checksum of n zeros, by its definition: 1 in the low half, n in the high one.
    check = (pieces * 2**20 % 65521) << 16 | 1
    return b"\x78\xda" + piece * pieces + squeeze.flush() + struct.pack(">I", check)


def test_the_bombs_are_what_they_say():
    assert zlib.decompress(zeros(3 * 2**20)) == bytes(3 * 2**20)


def fitted(file):
    return read_image(file, (4, 4), 3)


def exact(file):
    return read_exact(file, 3)


def refused(file, match, read=fitted):
    with pytest.raises(BrokenImage, match=match) as caught:
        read(file)
    assert len(str(caught.value).splitlines()) == 1


# In a process of its own, for the memory that a process has had at most never falls.
MEASURED = """
import resource, sys
from pathlib import Path
from ddpm_jax.data.images import BrokenImage, read_image
read_image(Path(sys.argv[1]), (4, 4), 3)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    try:
        read_image(Path(path), (4, 4), 3)
        print("read")
    except BrokenImage as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    side = 60_000
    bomb = zeros(side * (side // 8 + 1))  # of one bit a pixel: the smallest file for its pixels
    bombs = {
        "pixels": png(side, side, bomb, depth=1),
        "claimed": png(2**31 - 1, 2**31 - 1, b""),
        "profile": png(4, 4, b"", chunk(b"iCCP", b"x\0\0" + zeros(2**30))),
        "text": png(4, 4, b"", chunk(b"zTXt", b"x\0\0" + zeros(2**30))),
        "international": png(4, 4, b"", chunk(b"iTXt", b"x\0\1\0\0\0" + zeros(2**30))),
        # More of them than pixels can be: what is too much is never inflated.
        "data": png(4, 4, zeros(2**30)),
    }
    (tmp_path / "good.png").write_bytes(WHOLE)
    for name, content in bombs.items():
        assert len(content) < 2**21, name
        (tmp_path / name).write_bytes(content)
    with open(tmp_path / "long.png", "wb") as long:  # a hole: no byte of it is on the disk
        long.truncate(images.MAX_BYTES + 1)
    paths = [tmp_path / "good.png", *(tmp_path / name for name in (*bombs, "long.png"))]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, paths)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    *said, kilobytes = done.stdout.splitlines()
    assert time.monotonic() - began < 30
    assert "over the limit of 134217728 pixels" in said[0]
    assert "over the limit of 134217728 pixels" in said[1]
    assert said[-1] == "it has more than the limit of 268,435,456 bytes"
    assert len(said) == len(bombs) + 1
    # A bomb inflates to a gigabyte.
    assert int(kilobytes) < 64 * 1024, (kilobytes, said)


def test_the_limits_are_our_own_and_exact(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as other libraries do
    monkeypatch.setattr(images, "MAX_PIXELS", 23)
    refused(WHOLE, "4 x 6 is over the limit of 23 pixels")
    monkeypatch.setattr(images, "MAX_PIXELS", 24)
    np.testing.assert_array_equal(read_image(WHOLE, None, 3), COLOUR)
    monkeypatch.setattr(images, "MAX_BYTES", len(WHOLE))
    np.testing.assert_array_equal(read_image(WHOLE, None, 3), COLOUR)
    monkeypatch.setattr(images, "MAX_BYTES", len(WHOLE) - 1)
    refused(WHOLE, "more than the limit of")


def webp(kind, content, claimed=None):
    """A WebP file of one chunk, whatever is in it."""
    size = len(content) if claimed is None else claimed
    body = b"WEBP" + kind + struct.pack("<I", size) + content
    return b"RIFF" + struct.pack("<I", len(body)) + body


def canvas(width, height):
    """The extended header of a canvas, whose sides have 24 bits."""
    return bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


@pytest.mark.parametrize(
    ("file", "match"),
    [
        (webp(b"VP8X", canvas(2**24, 2**24)), "16777216 x 16777216 is over the limit"),
        (webp(b"VP8X", canvas(2**14, 2**14)), "16384 x 16384 is over the limit"),
        (webp(b"VP8L", b"\x2f" + b"\xff" * 8), "16384 x 16384 is over the limit"),
        (webp(b"VP8 ", bytes(3) + b"\x9d\x01\x2a" + b"\xff\x3f" * 2), "16383 x 16383 is over"),
        (webp(b"VP8X", canvas(8, 8)), "."),
        (webp(b"VP8L", b"\x2f" + bytes(8)), "."),
        (webp(b"VP8?", bytes(30)), "WebP header is damaged"),
        (webp(b"VP8L", b""), "WebP header is damaged"),
        (b"RIFF\0\0\0\0WEBP", "WebP header is damaged"),
        (b"RIFF\0\0\0\0WAVEfmt " + bytes(30), "neither PNG nor JPEG nor WebP"),
        (encoded(Image.fromarray(COLOUR), "WEBP")[:-4], "."),
    ],
)
def test_a_webp_file_is_bounded_by_its_header(file, match):
    refused(file, match)
    refused(file, match, read=exact)


def test_a_large_webp_canvas_takes_no_memory_before_it_is_refused(tmp_path):
    (tmp_path / "good.png").write_bytes(WHOLE)
    (tmp_path / "bomb.webp").write_bytes(webp(b"VP8X", canvas(2**14, 2**14)))
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path / "good.png"), str(tmp_path / "bomb.webp")],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    said, kilobytes = done.stdout.splitlines()
    assert "over the limit" in said
    assert int(kilobytes) < 16 * 1024


def test_a_jpeg_of_endless_scans_is_refused():
    plain = encoded(Image.fromarray(COLOUR), "JPEG", progressive=True)
    first = plain.index(b"\xff\xda")
    second = plain.index(b"\xff\xda", first + 1)
    scans = plain[:first] + plain[first:second] * (images.MAX_SCANS + 1) + plain[second:]
    refused(scans, "limit of 1000 scans")
    read_image(plain, (4, 4), 3)


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "JPEG2000"])
def test_another_format_under_the_name_of_a_png_is_refused(tmp_path, format):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.new("RGB", (16, 16), "red"), format))
    for read in (fitted, exact):
        refused(path, "neither PNG nor JPEG nor WebP; save it as a PNG file", read=read)


@pytest.mark.parametrize(
    "content", [b"<svg/>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x80\x04K\x01.", b"\x93NUMPY", b"PK\3\4"]
)
def test_what_is_no_image_is_refused(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    refused(path, "neither PNG nor JPEG")


def test_of_several_frames_the_first_is_read():
    frames = [Image.fromarray(255 * (k % 2) + 0 * COLOUR) for k in range(3)]
    moving = encoded(frames[0], save_all=True, append_images=frames[1:])
    assert b"acTL" in moving
    np.testing.assert_array_equal(read_image(moving, None, 3), frames[0])
    several = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert several.count(b"\xff\xd8\xff") == 3
    np.testing.assert_array_equal(read_image(several, None, 3), frames[0])


def test_the_suffix_says_nothing_of_the_content(tmp_path):
    jpeg = tmp_path / "a.png"
    jpeg.write_bytes(encoded(Image.new("RGB", (8, 8), "white"), "JPEG"))
    assert (read_image(jpeg, None, 3) == 255).all()


@pytest.mark.parametrize("size", [(1, 1), (100_000, 1), (1, 100_000)])
def test_extreme_sizes_within_the_limits_are_read(size):
    file = encoded(Image.new("L", size, 9))
    assert (read_image(file, (8, 8), 1) == 9).all()
    assert read_image(file, None, 1).shape == (size[1], size[0], 1)


@pytest.mark.parametrize("side", [0, 2**31])
def test_impossible_sizes_are_refused(side):
    refused(png(side, 1, zeros(8)), ".")


def test_every_cut_and_most_flips_are_refused_or_read():
    """Never another exception: 600 files damaged at random, and each cut of one."""
    colour = Image.fromarray(COLOUR)
    jpeg, webp = encoded(colour, "JPEG"), encoded(colour, "WEBP", lossless=True)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    whole = (WHOLE, jpeg, webp, encoded(colour, "WEBP", lossless=True, icc_profile=profile))
    broken = [file[:end] for file in whole[:3] for end in range(len(file) - 12)]
    for _ in range(600):
        file = bytearray(whole[RNG.integers(len(whole))])
        file[RNG.integers(len(file))] ^= 1 << RNG.integers(8)
        broken.append(bytes(file))
    outcomes = []
    for file in broken:
        try:
            assert fitted(file).shape == (4, 4, 3)
            outcomes.append("read")
        except BrokenImage as error:
            outcomes.append(len(str(error).splitlines()))
    assert set(outcomes) == {"read", 1}


def pipe(path):
    os.mkfifo(path)


def link_to_null(path):
    path.symlink_to("/dev/zero")


def link_to_itself(path):
    path.symlink_to(path)


def locked(path):
    path.write_bytes(WHOLE)
    path.chmod(0)


IRREGULAR = {
    "pipe": (pipe, "no regular file"),
    "device": (link_to_null, "no regular file"),
    "folder": (lambda path: path.mkdir(), "no regular file|directory"),
    "link to nothing": (lambda path: path.symlink_to("nowhere"), "No such file"),
    "link to itself": (link_to_itself, "symbolic links"),
    "locked": (locked, "Permission denied"),
}


@pytest.mark.parametrize("kind", IRREGULAR)
def test_what_is_no_file_of_its_own_neither_hangs_nor_is_read(tmp_path, kind):
    make, reason = IRREGULAR[kind]
    path = tmp_path / "x.png"
    make(path)
    if kind == "locked" and os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    refused(path, reason)
    with pytest.raises(UserError, match=rf"--init_image=.*x\.png: cannot take .*({reason})"):
        task_flags.read_image("init_image", str(path), 3)
    if kind == "folder":
        return
    (tmp_path / "y.png").write_bytes(WHOLE)
    skipping = folder(tmp_path, "train", (4, 4), 3, holdout=0, on_error="skip")
    assert [one["image"].shape for one in skipping] == [(4, 4, 3)] * 2
    assert skipping.skipped == 1
    with pytest.raises(UserError, match=rf"broken image .*x\.png: .*({reason})"):
        list(folder(tmp_path, "train", (4, 4), 3, holdout=0))
    assert not stat.S_ISREG(path.lstat().st_mode) or kind == "locked"


def test_folders_that_link_to_each_other_end(tmp_path):
    names = ["a", "b", "c"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.png").write_bytes(WHOLE)
        for other in names:
            (tmp_path / name / f"to_{other}").symlink_to(tmp_path / other)
    began = time.monotonic()
    found = folder(tmp_path, "train", (4, 4), 3, holdout=0)
    # Each way through the three that meets none of them twice: 3 + 3 x 2 + 3 x 2 x 1.
    assert len(found) == 15
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("flag", ["init_image", "inpaint", "colourise", "upscale"])
def test_a_planted_pickle_as_an_image_is_one_line(tmp_path, flag):
    path = tmp_path / "x.npz"
    np.savez(path, samples=np.array([{"an": "object"}], dtype=object))
    with pytest.raises(UserError, match=f"--{flag}={path}: .*neither PNG nor JPEG") as caught:
        task_flags.read_image(flag, str(path), 3)
    assert len(str(caught.value).splitlines()) == 1
