import tracemalloc

import numpy as np
import pytest

from ddpm_jax.data import digits
from ddpm_jax.evaluation import fidelity, manifold, neighbours


def arrays(split):
    source = digits(split)
    examples = [source[k] for k in range(len(source))]
    images = np.stack([e["image"] for e in examples]) / 8.0 - 1
    return images, np.array([e["label"] for e in examples])


@pytest.fixture(scope="module")
def train():
    return arrays("train")


@pytest.fixture(scope="module")
def held_out():
    return arrays("validation")


def test_held_out_digits_show_their_label_as_in_scikit_learns_own_example(train, held_out):
    from sklearn.svm import SVC

    # gamma = 0.001 on pixels of 0..16 is the example's, and so must be the share that it gets.
    classifier = SVC(gamma=0.001).fit((train[0].reshape(-1, 64) + 1) * 8, train[1])
    own = classifier.score((held_out[0].reshape(-1, 64) + 1) * 8, held_out[1])
    accuracy = fidelity.label_accuracy(*train, *held_out)
    assert accuracy == own == 356 / 360


def test_images_of_8_bits_are_read_in_the_same_units(train, held_out):
    bits = [np.round((images + 1) * 127.5).astype(np.uint8) for images in (train[0], held_out[0])]
    accuracy = fidelity.label_accuracy(bits[0], train[1], bits[1], held_out[1])
    assert accuracy == fidelity.label_accuracy(*train, *held_out)


def test_wrong_labels_are_wrong(train, held_out):
    images, labels = held_out
    assert fidelity.label_accuracy(*train, images, (labels + 1) % 10) < 0.02
    half = np.where(np.arange(len(labels)) % 2, labels, (labels + 1) % 10)
    assert fidelity.label_accuracy(*train, images, half) == pytest.approx(0.5, abs=0.02)


def test_copies_are_memorised_and_held_out_images_are_not(train, held_out):
    images = train[0]
    assert neighbours.copies(images, held_out[0], images[5:105]).memorisation == 0
    assert neighbours.copies(images, held_out[0], held_out[0]).memorisation == 1
    noise = np.random.default_rng(0).uniform(-1, 1, (100, 8, 8, 1))
    assert neighbours.copies(images, held_out[0], noise).memorisation > 1.5


def test_memorisation_is_a_ratio_of_distances():
    # All on a line: samples lie 1 from the training set, held-out images 4.
    train, held_out, samples = ([[0.0], [10.0]], [[14.0]], [[1.0], [11.0]])
    assert neighbours.copies(*map(np.array, (train, held_out, samples))).memorisation == 0.25


def test_a_set_is_as_spread_as_itself_and_a_constant_not_at_all(train):
    images, labels = train
    assert fidelity.spread_ratio(images, labels, images, labels) == 1
    constant = np.stack([images[labels == c].mean(axis=0) for c in range(10)])[labels]
    assert fidelity.spread_ratio(images, labels, constant, labels) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("scale", [0.5, 0.9, 3.0])
def test_the_spread_is_in_units_of_the_pixels(train, scale):
    images, labels = train
    means = np.stack([images[labels == c].mean(axis=0) for c in range(10)])[labels]
    # Shrunk within the classes; what lies between them does not count.
    shrunk = 7 * means + scale * (images - means)
    assert fidelity.spread_ratio(images, labels, shrunk, labels) == pytest.approx(scale)


def test_the_spread_compares_the_classes_that_were_drawn(train):
    images, labels = train
    ones = labels == 1
    assert fidelity.spread_ratio(images, labels, images[ones], labels[ones]) == pytest.approx(1)
    with pytest.raises(ValueError, match="class 11"):
        fidelity.spread_ratio(images, labels, images[:2], np.array([1, 11]))


def test_recall_is_the_share_of_real_images_inside_the_samples_balls():
    # Samples at 0, 1, 2, 3 reach 3, 2, 2 and 3 to their third nearest: what lies in [-3, 6].
    samples = np.arange(4.0)[:, None]
    real = np.array([[-3.5], [-2.9], [1.5], [5.9], [6.1]])
    zeros = np.zeros(5, int)
    assert fidelity.recall(real, zeros, samples, zeros[:4]) == 3 / 5
    # Of the first neighbour: within 1 of each.
    assert fidelity.recall(real, zeros, samples, zeros[:4], neighbours=1) == 1 / 5
    # Classes count equally, and each by itself.
    both = np.concatenate([samples, samples + 100])
    labels = np.repeat([0, 1], 4)
    classes = np.array([0, 0, 0, 0, 1])
    assert fidelity.recall(real, classes, both, labels) == (3 / 4 + 0) / 2
    with pytest.raises(ValueError, match="class 1: need real images and more than 3"):
        fidelity.recall(real, zeros, both, labels)


def test_recall_of_many_images_takes_little_memory():
    rng = np.random.default_rng(0)
    real, samples = rng.normal(size=(2, 1500, 200)).astype(np.float32)
    labels = np.zeros(1500, int)
    tracemalloc.start()
    found = fidelity.recall(real, labels, samples, labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == manifold.prdc(samples, real, 3, num_groups=0).recall
    assert peak < 200e6  # all differences at once are 1500 x 1500 x 200 x 8 = 3.6e9 bytes


def test_real_images_that_are_all_alike_have_no_spread():
    alike, labels = np.ones((4, 2, 2, 1)), np.zeros(4, int)
    with pytest.raises(ValueError, match="all alike"):
        fidelity.spread_ratio(alike, labels, alike * np.arange(4)[:, None, None, None], labels)


def test_recall_falls_as_samples_collapse(train, held_out):
    assert fidelity.recall(*held_out, *held_out) == 1
    few = [*range(360)]
    real = train[0][few], train[1][few]
    whole = fidelity.recall(*real, *held_out)
    means = np.stack([held_out[0][held_out[1] == c].mean(axis=0) for c in range(10)])[held_out[1]]
    halved = means + 0.5 * (held_out[0] - means)
    collapsed = means + 1e-3 * (held_out[0] - means)
    assert whole > 0.6
    assert whole > fidelity.recall(*real, halved, held_out[1]) + 0.2
    assert fidelity.recall(*real, collapsed, held_out[1]) < 0.01


def test_the_classes_read_in_real_images_are_their_own_and_their_shares_add_up(train, held_out):
    images, labels = held_out
    few = labels < 3
    read = fidelity.classes_read(*train, images[few])
    assert np.mean(read == labels[few]) > 0.97
    shares = fidelity.shares(read, np.arange(10))
    assert shares.sum() == pytest.approx(1)
    assert shares[3:].sum() < 0.03
    with pytest.raises(ValueError, match="fewer than two classes"):
        fidelity.classes_read(train[0], np.zeros(len(train[0])), images)
