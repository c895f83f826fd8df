"""The fingerprint of a data set: another for other data, the same wherever they lie."""

import shutil

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.data import build_source, digits, fingerprint, folder, shapes
from ddpm_jax.data.arrays import ArraySource


@pytest.fixture
def images(tmp_path):
    """A folder of ten distinct 8x8 images in two classes."""
    rng = np.random.default_rng(0)
    for k in range(10):
        path = tmp_path / "here" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(path)
    return tmp_path / "here"


def of_folder(path, **options):
    options = {"image_size": (8, 8), "channels": 1, "holdout": 0.0, **options}
    return fingerprint(folder(path, "train", **options))


def test_the_same_data_have_the_same_wherever_they_lie(images, tmp_path):
    first = of_folder(images)
    assert len(first) == 64
    assert int(first, 16) > 0
    shutil.copytree(images, tmp_path / "copy")
    assert {of_folder(images), of_folder(tmp_path / "copy")} == {first}
    # How a broken image is dealt with says nothing of the data.
    assert of_folder(images, on_error="skip") == first


@pytest.mark.parametrize("change", ["pixel", "file", "name", "class", "broken", "size", "holdout"])
def test_other_images_have_another(images, change):
    before = of_folder(images)
    options = {"size": {"image_size": (4, 4)}, "holdout": {"holdout": 0.3}}.get(change, {})
    first = images / "a" / "0.png"
    if change == "pixel":
        array = np.array(Image.open(first))
        array[3, 4] ^= 1
        Image.fromarray(array).save(first)
    if change == "file":
        shutil.copy(first, images / "b" / "more.png")
    if change == "name":
        first.rename(images / "a" / "00.png")
    if change == "class":
        (images / "b").rename(images / "c")
    if change == "broken":
        first.write_bytes(b"no image")
    assert of_folder(images, **options) != before


def test_a_broken_image_is_not_its_neighbour(images):
    first, second = images / "a" / "0.png", images / "a" / "2.png"
    before = of_folder(images, on_error="skip")
    # Read past, it would be replaced by the next image: here by its very own copy.
    content = first.read_bytes()
    second.write_bytes(content)
    twins = of_folder(images, on_error="skip")
    first.write_bytes(b"\0" * len(content))
    broken = of_folder(images, on_error="skip")
    assert folder(images, "train", (8, 8), 1, holdout=0.0, on_error="skip")[0] is not None
    assert len({before, twins, broken}) == 3


def test_of_a_large_folder_what_is_not_read_counts_by_name_and_size(images):
    for k in range(100):
        shutil.copy(images / "a" / "0.png", images / "a" / f"more_{k:03}.png")
    before = of_folder(images)
    read = []

    class Counting:
        def __init__(self, source):
            self.info, self._source = source.info, source

        def __len__(self):
            return len(self._source)

        def __getitem__(self, index):
            read.append(index)
            return self._source[index]

    fingerprint(Counting(folder(images, "train", (8, 8), 1, holdout=0.0)))
    assert len(read) == 64
    assert (read[0], read[-1]) == (0, 109)
    assert max(np.diff(read)) <= 2
    unread = next(k for k in range(110) if k not in read)
    files = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    with (images / files[unread]).open("ab") as file:
        file.write(b"\0")  # after the image's end: its pixels stay
    assert of_folder(images) != before


def test_an_array_is_seen_whole():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 17, (200, 8, 8, 1), np.uint8), rng.integers(0, 10, 200)
    info = digits("train").info
    seen = {fingerprint(ArraySource(images, labels, info))}
    for index in (0, 1, 199):
        images[index, 2, 3] ^= 1
        seen.add(fingerprint(ArraySource(images, labels, info)))
    labels[1] ^= 1
    seen.add(fingerprint(ArraySource(images, labels, info)))
    assert len(seen) == 5


def test_built_in_data_by_their_options():
    told = [
        fingerprint(digits("train")),
        fingerprint(digits("validation")),
        fingerprint(shapes("train", 16)),
        fingerprint(shapes("train", 32)),
        fingerprint(shapes("train", 16, held_out=[("circle", "red")])),
        fingerprint(shapes("train", 16, held_out=[("circle", "green")])),
        fingerprint(shapes("train", 16, max_objects=1)),
        fingerprint(shapes("train", 16, length=1000)),
        fingerprint(shapes("validation", 16)),
    ]
    assert len(set(told)) == len(told)
    options = {"image_size": (16, 16), "channels": 3}
    again = build_source("shapes", "train", held_out=("red circle",), **options)
    assert fingerprint(again) == told[4]
