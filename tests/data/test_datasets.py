"""The table of data sets: the digits against scikit-learn's classifier, own data sets, errors."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from ddpm_jax.build import datasets
from ddpm_jax.config.defaults import get_config
from ddpm_jax.data import (
    DATASETS,
    ArraySource,
    BrokenImage,
    DataInfo,
    Dataset,
    Expected,
    build_source,
    dataset,
    digits,
    fingerprint,
    lookup,
)
from ddpm_jax.errors import UserError


def arrays(source):
    examples = [source[i] for i in range(len(source))]
    images = np.stack([example["image"] for example in examples])
    return images, np.array([example["label"] for example in examples])


def test_digits_are_the_real_ones_split_once_and_for_all():
    from sklearn.datasets import load_digits

    train, validation = arrays(digits("train")), arrays(digits("validation"))
    assert (len(train[0]), len(validation[0])) == (1437, 360)
    # Together they are scikit-learn's data set, each image once.
    rows = np.concatenate([train[0], validation[0]]).reshape(1797, 64)
    rows = np.c_[rows, np.concatenate([train[1], validation[1]])]
    data = load_digits()
    real = np.c_[data.data, data.target]
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], real[np.lexsort(real.T)])
    np.testing.assert_array_equal(arrays(digits("train"))[0], train[0])


def test_digits_split_is_stratified():
    counts = [np.bincount(arrays(digits(split))[1]) for split in ("train", "validation")]
    # A stratified fifth of every class, to within one image.
    np.testing.assert_allclose(counts[1], (counts[0] + counts[1]) * 360 / 1797, atol=1)


def test_digits_teach_a_classifier_what_readme_quotes():
    from sklearn.svm import SVC

    (x, y), (x_validation, y_validation) = arrays(digits("train")), arrays(digits("validation"))
    svm = SVC(gamma=0.001).fit(x.reshape(len(x), -1), y)
    assert svm.score(x_validation.reshape(len(x_validation), -1), y_validation) >= 0.985


def test_digits_info_and_dtypes():
    source = build_source("digits", "train")
    info = source.info
    assert (info.image_shape, info.num_classes, info.levels) == ((8, 8, 1), 10, 17)
    assert info.class_names == tuple("0123456789")
    assert source.skipped == 0
    images, labels = arrays(source)
    assert (images.min(), images.max()) == (0, 16)
    assert set(labels) == set(range(10))
    assert source[0]["image"].dtype == np.uint8
    assert source[0]["image"].shape == (8, 8, 1)
    assert source[0]["label"].dtype == np.int32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "digits", "image_size": (16, 16)}, r"8x8.*data.image_size=\(16, 16\)"),
        ({"name": "digits", "channels": 3}, "data.channels=3"),
        ({"name": "digits", "split": "test"}, "no split 'test': choose one of train, validation"),
        ({"name": "digits", "image_size": (8, 0)}, r"data.image_size=\(8, 0\)"),
        ({"name": "digits", "image_size": 8}, "data.image_size=8 must be"),
        ({"name": "digits", "channels": 4}, "data.channels=4 must be 1"),
        ({"name": "folder"}, "needs data.data_dir"),
        (
            {"name": "digit"},
            "built in: digits, shapes.*; did you mean 'digits'",
        ),
        ({"name": "cifar1O"}, "did you mean.*'cifar10'"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=message) as caught:
        build_source(**{"split": "train", **arguments})
    assert "\n" not in str(caught.value)


INFO = DataInfo((4, 6, 3), 2, 256, ("dark", "light"))


def blobs(split: str, *, image_size: tuple[int, int], channels: int, width: float = 3.0):
    """An own data set: `width` is the value of every pixel."""
    shape = (*image_size, channels)
    images = np.full((5 if split == "train" else 2, *shape), width, np.uint8)
    return ArraySource(
        images, np.arange(len(images)) % 2, dataclasses.replace(INFO, image_shape=shape)
    )


OWN_SIZE = {"image_size": (4, 6), "channels": 3}


def test_an_own_data_set_is_a_function():
    source = build_source("blobs", "train", own=blobs, **OWN_SIZE, width=7.0)
    assert (len(source), source.info) == (5, INFO)
    assert (source[1]["image"] == 7).all()
    # The fields of config.data that it does not take are not for it.
    held_out = build_source("blobs", "validation", own=blobs, holdout=0.1, data_dir="x", **OWN_SIZE)
    assert (len(held_out), held_out[0]["image"].max()) == (2, 3)
    assert list(dataset(blobs).options()) == ["width"]
    assert lookup("blobs", blobs) == dataset(blobs) == Dataset(blobs)
    row = dataset(blobs, info=Expected(16), extractor="pca")
    assert (row.info.num_values, row.extractor, dataset(row)) == (16, "pca", row)


def test_an_own_data_set_need_not_know_its_size():
    source = build_source("sized", "train", own=lambda split: blobs(split, **OWN_SIZE), **OWN_SIZE)
    assert source.info == INFO
    with pytest.raises(UserError, match=r"sized are 4x6 with 3 .*image_size=\(8, 8\)"):
        build_source("sized", "train", own=lambda split: blobs(split, **OWN_SIZE), channels=3)


def test_a_config_names_an_own_data_set_that_is_handed_over():
    config = get_config()
    config.data.update(name="my_package.data:blobs", image_size=(4, 6), channels=3)
    own = {"my_package.data:blobs": dataset(blobs, extractor="pca")}
    assert datasets.dataset(config, own).extractor == "pca"
    source = datasets.source(config, "train", own, width=9.0)
    assert (source.info, source[0]["image"].max()) == (INFO, 9)
    with pytest.raises(UserError, match=r"my_package\.data:blobs: .*--code=my_package\.data"):
        datasets.source(config, "train")


class Reading:
    """The least that an own source has; every second image is broken."""

    info = INFO

    def __init__(self, split):
        self.split = split

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index % 2:
            raise BrokenImage(f"image {index} is broken")
        return {"image": np.full((4, 6, 3), index, np.uint8), "label": index // 2}


def test_an_own_source_may_have_broken_images():
    source = build_source("own", "train", own=Reading, on_error="skip", **OWN_SIZE)
    assert [int(one["image"][0, 0, 0]) for one in source] == [0, 2, 2, 0]
    assert source.skipped == 2
    stopping = build_source("own", "train", own=Reading, **OWN_SIZE)
    with pytest.raises(UserError, match=r"image 1 is broken; .* set data\.options\.on_error"):
        stopping[1]
    assert fingerprint(source) == fingerprint(stopping)


def changed(example=None, **info):
    """An own data set of one example, with something that does not fit."""

    class Source(Reading):
        def __getitem__(self, index):
            if isinstance(example, Exception):
                raise example
            fitting = {"image": np.zeros((4, 6, 3), np.uint8), "label": np.int32(1)}
            return example if isinstance(example, list) else fitting | (example or {})

    Source.info = dataclasses.replace(INFO, **info)
    return Source


class Empty(Reading):
    def __len__(self):
        return 0


class Uninformed(Reading):
    info = None


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (changed({"image": np.zeros((4, 6, 3))}), r"images are float64 \(4, 6, 3\): need uint8"),
        (changed({"image": [[0]]}), "images are list: need uint8"),
        (changed({"image": np.zeros((6, 4, 3), np.uint8)}), r"shape \(6, 4, 3\), and info.*\(4, 6"),
        (changed({"image": np.full((4, 6, 3), 16, np.uint8)}, levels=16), "value 16, .*levels=16"),
        (changed({"label": 2}), "label is 2, and info.num_classes=2"),
        (changed({"label": -2}), "label is -2"),
        (changed({"label": 0.5}), r"label is '0.5' \(float\): need a whole number"),
        (changed({"label": "dark"}), r"label is 'dark' \(str\)"),
        (changed({"label": True}), r"label is 'True' \(bool\)"),
        (changed([1, 2]), "examples are list, not dicts"),
        (changed(KeyError("no\nfile")), r"first example cannot be read \(KeyError: .*no.*file"),
        (changed(levels=300), "levels=300: need .* 2 to 256"),
        (changed(image_shape=(4, 6)), r"image_shape=\(4, 6\): need \(H, W, C\)"),
        (changed(image_shape=(4, 6, 2)), "C 1 or 3"),
        (changed(num_classes=3), "2 different names, for 3 classes"),
        (changed(class_names=("a", "a")), "1 different names, for 2 classes"),
        (changed(class_names=["a", "b"]), "need a tuple of texts"),
        (changed(levels=17), "pixels take 17 values, and its objective counts on 256"),
        (Empty, "its source is empty"),
        (Uninformed, "info is NoneType, not a DataInfo"),
        (lambda split: 3, "returned int, which has no __len__"),
        (lambda: 3, "this one takes no split first"),
        (3, "need a function build.*got int"),
        (lambda split, path: 3, "its path is neither a keyword nor has a default"),
        (Dataset(Reading, conditions={"colour": ("red",)}), "no 'colour' .*it has image, label"),
        (Dataset(Reading, conditions={"mask": 1}), r"Reading: conditions\['mask'\]: .*another"),
        (Dataset(Reading, conditions={"colour": "red"}), r"\['colour'\]='red': need a tuple"),
        (Dataset(Reading, conditions={"colour": ("a", "a")}), "need a tuple of the different"),
        (Dataset(Reading, conditions={"colour": ()}), "need a tuple"),
        (Dataset(Reading, conditions={"sketch": 0}), "number of channels"),
    ],
)  # fmt: skip
def test_an_own_source_that_does_not_fit_is_one_line(own, message):
    with pytest.raises(UserError, match=message) as caught:
        build_source("own", "train", own=own, **OWN_SIZE)
    assert "\n" not in str(caught.value)


def test_conditions_of_an_own_data_set_are_looked_at():
    conditions = {"colour": ("red", "blue"), "outline": 1}
    whole = {"colour": 1, "outline": np.zeros((4, 6, 1), bool)}

    def build(**values):
        own = Dataset(changed(whole | values), conditions=conditions)
        return build_source("own", "train", own=own, **OWN_SIZE)

    assert set(build()[0]) == {"image", "label", "colour", "outline"}
    with pytest.raises(
        UserError, match=r"condition colour is '2' .*need the number of one of red,"
    ):
        build(colour=2)
    with pytest.raises(
        UserError, match=r"condition outline has the shape \(4, 6\): need \(4, 6, 1\)"
    ):
        build(outline=np.zeros((4, 6), bool))
    with pytest.raises(UserError, match=r"condition outline is int64: need bool, uint8 or floats"):
        build(outline=np.zeros((4, 6, 1), np.int64))


def test_options_that_a_data_set_does_not_have_are_refused():
    with pytest.raises(
        UserError, match=r"data\.options\.widht=3 blobs has no such .*mean 'width'.*unset"
    ):
        build_source("blobs", "train", own=blobs, **OWN_SIZE, widht=3)
    with pytest.raises(UserError, match=r"max_objects=1 applies only to data\.name=shapes"):
        build_source("blobs", "train", own=blobs, **OWN_SIZE, max_objects=1)

    def needs(split, *, path):
        return Reading(split)

    with pytest.raises(UserError, match=r"options\.path: the data set own needs this option"):
        build_source("own", "train", own=needs, **OWN_SIZE)


@pytest.mark.parametrize("name", DATASETS)
def test_the_options_of_a_row_are_annotated_with_types(name):
    for option in DATASETS[name].options().values():
        assert option.annotation is not option.empty
        assert option.default is not option.empty


def test_the_import_brings_in_nothing_heavy():
    heavy = ["jax", "grain", "sklearn", "tensorflow_datasets", "ml_collections", "scipy"]
    code = f"import sys, ddpm_jax.data; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
