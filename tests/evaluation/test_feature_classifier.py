"""The small classifier: what it learns, what it keeps in its cache, what it is called."""

import dataclasses
import json
import os
import threading
import time
from concurrent import futures

import jax
import numpy as np
import pytest
import safetensors.numpy

from ddpm_jax.data import DataInfo, digits
from ddpm_jax.data.arrays import ArraySource
from ddpm_jax.evaluation import classifier
from ddpm_jax.models.feature_classifier import FeatureClassifier, patches


def dots(number, seed=0, shape=(4, 4, 1), classes=4):
    """One bright quarter, of four: the label is which."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 5, (number, *shape), np.uint8)
    labels = rng.integers(0, 4, number)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(label, 2)
        image[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 5
    return ArraySource(images, labels, DataInfo(shape, classes, 10, tuple("abcd"[:classes])))


@pytest.fixture
def brief(monkeypatch):
    """A recipe of seconds."""
    brief = {"num_steps": 30, "width": 8, "learning_rate": 1e-2}
    for name, value in brief.items():
        monkeypatch.setitem(classifier.RECIPE, name, value)


@pytest.fixture(scope="module")
def read_digits():
    """A classifier of a fifth of the steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(classifier.RECIPE, "num_steps", 140)
        return classifier.train(digits("train"), digits("validation"))


@pytest.mark.wide(3)
def test_digits_are_read_as_they_are_labelled(read_digits):
    held_out = digits("validation")
    images = np.stack([held_out[k]["image"] for k in range(len(held_out))])
    labels = np.array([held_out[k]["label"] for k in range(len(held_out))])
    found = classifier.extractor(read_digits, held_out.info).apply(images)
    assert found.pooled.shape == (360, 64)
    assert found.logits.shape == (360, 10)
    share = np.mean(found.logits.argmax(axis=1) == labels)
    assert share == pytest.approx(read_digits.accuracy["label"], abs=1e-9)
    assert share > 0.93
    # Features of a class are nearer to each other than to another's, which chance makes 1 in 10.
    distances = np.linalg.norm(found.pooled[:, None] - found.pooled[None], axis=-1)
    nearest = (distances + np.diag(np.full(360, np.inf))).argmin(axis=1)
    assert np.mean(labels[nearest] == labels) > 0.93


def test_neither_other_images_nor_devices_change_features(read_digits, monkeypatch):
    held_out = digits("validation")
    images = np.stack([held_out[k]["image"] for k in range(300)])
    apply = classifier.extractor(read_digits, held_out.info).apply
    whole = apply(images)
    assert whole.pooled.std() > 0.1
    parts = [apply(images[:7]), apply(images[7:290]), apply(images[290:])]
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    parts += [classifier.extractor(read_digits, held_out.info).apply(images)]
    for k in (0, 1):
        found = np.concatenate([part[k] for part in parts])
        np.testing.assert_array_equal(found, np.concatenate([whole[k]] * 2))


class Described(ArraySource):
    """Dots, of which the half's name is known too."""

    def __init__(self, number, seed=0):
        plain = dots(number, seed)
        super().__init__(plain._images, plain._labels, plain.info)
        halves = {"half": ("upper", "lower"), "brightness": ("one",)}
        self.info = dataclasses.replace(plain.info, attributes=halves)

    def __getitem__(self, index):
        example = super().__getitem__(index)
        return example | {"half": example["label"] // 2, "brightness": 0}


@pytest.mark.wide(6)
def test_each_attribute_has_a_head_and_the_label_is_the_first(brief):
    trained = classifier.train(Described(60), Described(30, seed=1))
    assert list(trained.heads.items()) == [("label", 4), ("half", 2), ("brightness", 1)]
    assert trained.accuracy == {"label": 1, "half": 1, "brightness": 1}
    # A head reads what it is told, not what another is: the halves are two labels each.
    held_out = Described(30, seed=2)
    examples = [held_out[k] for k in range(30)]
    extractor = classifier.extractor(trained, held_out.info)
    found = extractor.apply(np.stack([e["image"] for e in examples]))
    assert found.logits.argmax(axis=1).tolist() == [e["label"] for e in examples]
    assert extractor.protocol["logits"] == "label"


@pytest.mark.wide(3)
def test_training_is_repeated_bit_for_bit_and_the_seed_changes_it(brief):
    source, held_out = dots(60), dots(30, seed=1)
    first = classifier.train(source, held_out)
    assert classifier.train(source, held_out).digest == first.digest
    assert classifier.train(source, held_out, seed=1).digest != first.digest


def test_the_digest_hangs_on_every_parameter(read_digits):
    leaves, tree = jax.tree.flatten(read_digits.params)
    for k, leaf in enumerate(leaves):
        changed = leaf.copy()
        changed.flat[-1] = np.nextafter(changed.flat[-1], np.float32(1))
        other = jax.tree.unflatten(tree, [*leaves[:k], changed, *leaves[k + 1 :]])
        assert classifier._digest(other) != read_digits.digest


@pytest.mark.wide(3)
def test_the_cache_is_read_and_hangs_on_data_recipe_and_seed(brief, tmp_path, monkeypatch):
    source, held_out = dots(60), dots(30, seed=1)
    first = classifier.load_or_train(tmp_path / "new", source, held_out)

    def refuse(*args, **kwargs):
        raise AssertionError("trained again")

    with monkeypatch.context() as patch:
        patch.setattr(classifier, "train", refuse)
        again = classifier.load_or_train(tmp_path / "new", source, held_out)
    assert again.digest == first.digest
    assert again.heads == first.heads
    assert again.accuracy == first.accuracy
    jax.tree.map(np.testing.assert_array_equal, again.params, first.params)
    classifier.load_or_train(tmp_path / "new", dots(60, seed=2), held_out)
    classifier.load_or_train(tmp_path / "new", source, held_out, seed=3)
    monkeypatch.setitem(classifier.RECIPE, "version", 0)
    classifier.load_or_train(tmp_path / "new", source, held_out)
    assert len(list((tmp_path / "new").glob("*.safetensors"))) == 4


def test_two_at_the_same_time_train_once(brief, tmp_path, monkeypatch):
    source, held_out, calls = dots(60), dots(30, seed=1), []
    once = classifier.train(source, held_out)
    started, train = threading.Barrier(2), classifier.load_or_train

    def slowly(*args, **kwargs):
        calls.append(args)
        time.sleep(0.3)
        return once

    def load_or_train():
        started.wait()
        return train(tmp_path, source, held_out)

    monkeypatch.setattr(classifier, "train", slowly)
    with futures.ThreadPoolExecutor(2) as pool:
        both = [one.result() for one in [pool.submit(load_or_train) for _ in range(2)]]
    assert [one.digest for one in both] == [once.digest] * 2
    assert len(calls) == 1


@pytest.mark.wide(6)
def test_metadata_of_another_shape_is_damage(brief, tmp_path, capsys):
    source, held_out = dots(60), dots(30, seed=1)
    first = classifier.load_or_train(tmp_path, source, held_out)
    (path,) = tmp_path.glob("*.safetensors")
    arrays = safetensors.numpy.load_file(path)
    for told in ("[]", json.dumps({"digest": first.digest}), "{"):
        path.write_bytes(safetensors.numpy.save(arrays, {"trained": told}))
        assert classifier.load_or_train(tmp_path, source, held_out).accuracy == first.accuracy
        assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "pipe"])
@pytest.mark.wide(4)
def test_a_damaged_cache_is_told_and_made_anew(brief, tmp_path, capsys, damage):
    source, held_out = dots(60), dots(30, seed=1)
    first = classifier.load_or_train(tmp_path, source, held_out)
    (path,) = tmp_path.glob("*.safetensors")
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[:-10])
    elif damage == "flipped":
        path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    elif damage == "other":
        path.write_bytes(b"nothing of the kind")
    else:
        path.unlink()
        os.mkfifo(path)
    again = classifier.load_or_train(tmp_path, source, held_out)
    said = capsys.readouterr().err
    assert "is damaged" in said
    assert len(said.splitlines()) == 1
    assert again.digest == first.digest
    assert path.read_bytes() == whole


def test_data_that_it_is_not_for_are_refused():
    with pytest.raises(ValueError, match="no labels to train a classifier on"):
        classifier.heads_of(DataInfo((8, 8, 1), 0, 256, ()))
    with pytest.raises(ValueError, match=r"images are 8x65.*choose the features inception"):
        classifier.heads_of(DataInfo((8, 65, 1), 2, 256, ("a", "b")))
    empty = dots(0)
    with pytest.raises(ValueError, match="data are empty"):
        classifier.train(empty, empty)


def test_other_images_are_refused(read_digits):
    extractor = classifier.extractor(read_digits, digits("validation").info)
    with pytest.raises(ValueError, match=r"the extractor's are \(8, 8, 1\)"):
        extractor.apply(np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="images are float64"):
        extractor.apply(np.zeros((2, 8, 8, 1)))
    with pytest.raises(ValueError, match="a pixel is 255"):
        extractor.apply(np.full((2, 8, 8, 1), 255, np.uint8))


def test_patches_are_squares_in_reading_order():
    x = np.arange(2 * 3 * 5).reshape(1, 6, 5, 1)
    found = np.asarray(patches(x, 2))
    assert found.shape == (1, 3, 3, 4)
    assert found[0, 1, 0].tolist() == [10, 11, 15, 16]
    assert found[0, 2, 2].tolist() == [24, 0, 29, 0]  # completed by zeros


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 8, 1), (16, 10, 3), (64, 64, 3), (33, 7, 3)])
def test_images_of_any_size_cost_about_the_same(shape):
    model = FeatureClassifier((("label", 3), ("colour", 5)))
    image = jax.ShapeDtypeStruct((2, *shape), np.float32)
    hidden, logits = jax.eval_shape(model.init_with_output, jax.random.key(0), image)[0]
    assert hidden.shape == (2, 64)
    assert {name: x.shape for name, x in logits.items()} == {"label": (2, 3), "colour": (2, 5)}
