"""TFDS data sets prepared here, by a tiny builder of our own: no TensorFlow, no network."""

import socket
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from ddpm_jax import codecs
from ddpm_jax.data import build_source, evaluation_batches, fingerprint, tfds_source
from ddpm_jax.data.prepare import prepare
from ddpm_jax.errors import UserError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 6, 8, 3), dtype=np.uint8)


class DdpmTinyImages(tfds.core.GeneratorBasedBuilder):
    """Twelve random images of two classes, and a feature that nobody asked for."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["even", "odd"]),
            "caption": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(range(8)),
            "test": self._generate_examples(range(8, 12)),
        }

    def _generate_examples(self, numbers):
        for i in numbers:
            image = Image.fromarray(PIXELS[i])
            yield i, {"image": image, "label": i % 2, "caption": f"number {i}"}


class DdpmTinyArrays(DdpmTinyImages):
    """The same pixels as plain arrays, without labels."""

    def _info(self):
        features = {"image": tfds.features.Tensor(shape=(6, 8, 3), dtype=np.uint8)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _generate_examples(self, numbers):
        for i in numbers:
            yield i, {"image": PIXELS[i]}


class DdpmTinyText(DdpmTinyImages):
    """No image at all."""

    def _info(self):
        features = {"text": tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _generate_examples(self, numbers):
        for i in numbers:
            yield i, {"text": str(i)}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    for name in ("ddpm_tiny_images", "ddpm_tiny_arrays", "ddpm_tiny_text"):
        assert "is prepared in" in prepare(name, directory)
    return directory


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a network connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def all_of(source):
    examples = [source[i] for i in range(len(source))]
    return {e["image"].tobytes(): int(e["label"]) for e in examples}


@pytest.mark.parametrize(
    ("name", "labels"),
    [("ddpm_tiny_images", [i % 2 for i in range(12)]), ("ddpm_tiny_arrays", [-1] * 12)],
)
def test_what_was_prepared_comes_back(data_dir, name, labels):
    expected = {PIXELS[i].tobytes(): labels[i] for i in range(12)}
    train = tfds_source(name, "train", data_dir, (6, 8), 3)
    test = tfds_source(name, "test", data_dir, (6, 8), 3)
    assert (len(train), len(test)) == (8, 4)
    assert all_of(train) | all_of(test) == expected
    assert "tensorflow" not in sys.modules


def test_info_names_the_classes(data_dir):
    info = tfds_source("ddpm_tiny_images", "train", data_dir, (6, 8), 3).info
    assert (info.image_shape, info.num_classes, info.levels) == ((6, 8, 3), 2, 256)
    assert info.class_names == ("even", "odd")
    assert tfds_source("ddpm_tiny_arrays", "train", data_dir, (6, 8), 3).info.num_classes == 0


def test_images_are_those_that_tfds_itself_decodes(data_dir):
    builder = tfds.builder_from_directory(data_dir / "ddpm_tiny_images" / "1.0.0")
    theirs = builder.as_data_source("train")
    ours = tfds_source("ddpm_tiny_images", "train", data_dir, (6, 8), 3)
    for i in range(len(ours)):
        np.testing.assert_array_equal(ours[i]["image"], theirs[i]["image"])
        assert ours[i]["label"] == theirs[i]["label"]


def test_sub_splits_divide_a_split(data_dir):
    parts = [
        tfds_source("ddpm_tiny_images", split, data_dir, (6, 8), 3)
        for split in ("train[:75%]", "train[75%:]", "train")
    ]
    assert [len(part) for part in parts] == [6, 2, 8]
    assert all_of(parts[0]) | all_of(parts[1]) == all_of(parts[2])
    assert len(tfds_source("ddpm_tiny_images", "train+test", data_dir, (6, 8), 3)) == 12


def test_build_source_maps_the_splits_and_resizes(data_dir):
    options = {"data_dir": data_dir, "image_size": (4, 4), "channels": 1}
    train = build_source("ddpm_tiny_images", "train", train_split="train[:5]", **options)
    validation = build_source("ddpm_tiny_images:1.0.0", "validation", **options)
    assert (len(train), len(validation)) == (5, 4)
    encode = codecs.pixels((4, 4, 1)).encode_batch
    batch = next(evaluation_batches(validation, 4, encode=encode))
    assert batch["x0"].shape == (4, 4, 4, 1)


def test_the_default_directory_is_read_from_the_environment(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert len(tfds_source("ddpm_tiny_images", "train", None, (6, 8), 3)) == 8


@pytest.mark.parametrize("name", ["mnist", "cifar10", "celeb_a_hq/256", "ddpm_no_such_set"])
def test_not_prepared_is_said_at_once_with_the_command(tmp_path, name):
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        build_source(name, "train", data_dir=tmp_path)
    assert time.monotonic() - start < 2
    message = str(caught.value)
    command = f"python -m ddpm_jax prepare_data --dataset={name} --data_dir={tmp_path}"
    assert message.endswith(f"prepare it with: {command}")
    assert "built in: digits, shapes, folder, captions, idx, emoji" in message
    assert "\n" not in message


@pytest.mark.parametrize("split", ["validation", "train[:5", "trian", ""])
def test_an_unknown_split_lists_the_splits(data_dir, split):
    with pytest.raises(UserError, match="choose from test, train") as caught:
        tfds_source("ddpm_tiny_images", split, data_dir, (6, 8), 3)
    assert "\n" not in str(caught.value)


def test_an_empty_sub_split_is_refused(data_dir):
    with pytest.raises(UserError, match=r"'train\[:0\]' of ddpm_tiny_images is empty"):
        tfds_source("ddpm_tiny_images", "train[:0]", data_dir, (6, 8), 3)


def test_a_data_set_without_images_is_refused(data_dir):
    with pytest.raises(UserError, match=r"no 8-bit image.*features: text"):
        tfds_source("ddpm_tiny_text", "train", data_dir, (6, 8), 3)


def copy_of(data_dir, tmp_path):
    import shutil

    name = "ddpm_tiny_images"
    return shutil.copytree(data_dir / name, tmp_path / name) / "1.0.0"


def test_another_format_is_refused_with_the_remedy(data_dir, tmp_path):
    prepared = copy_of(data_dir, tmp_path)
    info = prepared / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match=r"as tfrecord.*prepare_data --dataset=ddpm_tiny_images"):
        tfds_source("ddpm_tiny_images", "train", tmp_path, (6, 8), 3)
    with pytest.raises(UserError, match=r"as tfrecord: move it away, or choose another --data_dir"):
        prepare("ddpm_tiny_images", tmp_path)


def test_a_missing_shard_is_one_line(data_dir, tmp_path):
    prepared = copy_of(data_dir, tmp_path)
    for shard in prepared.glob("*train*"):
        shard.unlink()
    with pytest.raises(UserError, match=r"train.* is missing: delete .* and prepare it again"):
        tfds_source("ddpm_tiny_images", "train", tmp_path, (6, 8), 3)


def test_a_damaged_shard_is_one_line(data_dir, tmp_path):
    prepared = copy_of(data_dir, tmp_path)
    for shard in prepared.glob("*train*"):
        shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(UserError, match="and prepare it again") as caught:
        tfds_source("ddpm_tiny_images", "train", tmp_path, (6, 8), 3)[0]
    assert "\n" not in str(caught.value)


def test_the_fingerprint_knows_the_split_and_not_the_place(data_dir, tmp_path):
    def told(directory, split):
        return fingerprint(tfds_source("ddpm_tiny_images", split, directory, (6, 8), 3))

    copy_of(data_dir, tmp_path)
    assert told(tmp_path, "train") == told(data_dir, "train")
    seen = {told(data_dir, split) for split in ("train", "test", "train[:7]", "train[1:]")}
    assert len(seen) == 4
