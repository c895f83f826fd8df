"""Sources by name: the digits against scikit-learn's classifier, and the errors of build_source."""

import subprocess
import sys

import numpy as np
import pytest

from ddpm_jax.data import build_source, digits
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
        ({"name": "digit"}, "built in: digits, shapes, folder; did you mean 'digits'"),
        ({"name": "cifar1O"}, "did you mean.*'cifar10'"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=message) as caught:
        build_source(**{"split": "train", **arguments})
    assert "\n" not in str(caught.value)


def test_the_import_brings_in_nothing_heavy():
    heavy = ["jax", "grain", "sklearn", "tensorflow_datasets", "ml_collections", "scipy"]
    code = f"import sys, ddpm_jax.data; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
