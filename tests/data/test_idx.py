"""MNIST's own format, written here byte by byte as its page has it."""

import gzip
import struct

import numpy as np
import pytest

from ddpm_jax.data import build_source, fingerprint, idx
from ddpm_jax.errors import EmptySplit, UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 28, 28), np.uint8)
LABELS = np.array([3, 0, 9, 1, 1, 4, 2], np.uint8)


def written(array):
    """Magic number 0, 0, 8 (unsigned byte), axes; sizes as big-endian int32; the values."""
    return struct.pack(f">HBB{array.ndim}i", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(folder, prefix, images, labels, *, packed=False, separator="-"):
    for what, array in (("images", images), ("labels", labels)):
        name = f"{prefix}-{what}{separator}idx{array.ndim}-ubyte{'.gz' if packed else ''}"
        content = written(array)
        (folder / name).write_bytes(gzip.compress(content) if packed else content)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "train", IMAGES, LABELS)
    write(tmp_path, "t10k", IMAGES[:2], LABELS[:2])
    return tmp_path


@pytest.mark.parametrize("packed", [False, True])
def test_images_and_labels_are_what_was_written(tmp_path, packed):
    write(tmp_path, "train", IMAGES, LABELS, packed=packed)
    write(tmp_path, "t10k", IMAGES[:2], LABELS[:2], packed=packed)
    source = idx(tmp_path, "train", (28, 28), 1)
    assert len(source) == 7
    for k in range(7):
        np.testing.assert_array_equal(source[k]["image"][..., 0], IMAGES[k])
        assert source[k]["label"] == LABELS[k]
    held_out = build_source("idx", "validation", image_size=(28, 28), channels=3, data_dir=tmp_path)
    np.testing.assert_array_equal(held_out[1]["image"], np.repeat(IMAGES[1, ..., None], 3, axis=2))
    # Of both splits the same classes, though the second has not all of them.
    assert held_out.info.class_names == source.info.class_names == tuple("0123456789")


def test_images_of_another_size_are_scaled(folder):
    white = np.full((2, 28, 28), 255, np.uint8)
    write(folder, "train", white, LABELS[:2])
    image = idx(folder, "train", (32, 32), 1)[0]["image"]
    assert image.shape == (32, 32, 1)
    assert (image == 255).all()


def test_names_as_others_write_them(tmp_path):
    write(tmp_path, "emnist-letters-train", IMAGES, LABELS, packed=True)
    write(tmp_path, "emnist-letters-test", IMAGES[:3], LABELS[:3], separator=".")
    assert len(idx(tmp_path, "train", (28, 28), 1)) == 7
    assert len(idx(tmp_path, "validation", (28, 28), 1)) == 3


def test_packing_changes_no_fingerprint(folder, tmp_path_factory):
    packed = tmp_path_factory.mktemp("packed")
    write(packed, "train", IMAGES, LABELS, packed=True)
    prints = [fingerprint(idx(place, "train", (28, 28), 1)) for place in (folder, packed)]
    assert prints[0] == prints[1]


def damage(folder, name, change):
    path = folder / name
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-images-idx3-ubyte", lambda b: b[:-1], "not just the 5,488 bytes"),
        ("train-images-idx3-ubyte", lambda b: b + b"x", "not just the 5,488 bytes"),
        ("train-images-idx3-ubyte", lambda b: b"\0\0\x0d\3" + b[4:], "does not begin as IDX of 3"),
        ("train-images-idx3-ubyte", lambda b: b[:4] + b"\xff" * 12 + b[16:], "it says that it has"),
        ("train-images-idx3-ubyte", lambda b: b"", "does not begin as IDX"),
        ("train-labels-idx1-ubyte", lambda b: written(LABELS[:5]), "7 images and 5 labels"),
        ("train-labels-idx1-ubyte", lambda b: written(IMAGES), "does not begin as IDX of 1 axes"),
    ],
)
def test_broken_files_are_one_line(folder, name, change, message):
    damage(folder, name, change)
    with pytest.raises(UserError, match=message) as caught:
        idx(folder, "train", (28, 28), 1)
    assert "\n" not in str(caught.value)


def test_missing_and_doubled_files_are_one_line(folder):
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(written(IMAGES))[:-9])
    with pytest.raises(UserError, match=r"ubyte and train-images.*\.gz: keep one of them"):
        idx(folder, "train", (28, 28), 1)
    (folder / "train-images-idx3-ubyte").unlink()
    with pytest.raises(UserError, match=r"gz is not an IDX file"):
        idx(folder, "train", (28, 28), 1)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"no gzip")
    with pytest.raises(UserError, match=r"gz is not an IDX file"):
        idx(folder, "train", (28, 28), 1)
    (folder / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"has no train-images-idx3-ubyte, nor .gz"):
        idx(folder, "train", (28, 28), 1)
    (folder / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(EmptySplit, match="train without validation"):
        idx(folder, "validation", (28, 28), 1)
    with pytest.raises(UserError, match="no such folder"):
        idx(folder / "none", "train", (28, 28), 1)
    with pytest.raises(UserError, match=r"data.name=idx needs data.data_dir"):
        build_source("idx", "train", image_size=(28, 28))
