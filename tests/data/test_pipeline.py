"""Batches: every example once per epoch, and content that only (seed, step) decides."""

import functools
import itertools

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import codecs
from ddpm_jax.data import DataInfo, digits, folder, pipeline
from ddpm_jax.data.arrays import ArraySource
from ddpm_jax.errors import UserError

# Whatever the shape, pixels are scaled by the same function.
ENCODE = codecs.pixels((2, 3, 1)).encode_batch
Batches = functools.partial(pipeline.Batches, encode=ENCODE)
evaluation_batches = functools.partial(pipeline.evaluation_batches, encode=ENCODE)


@pytest.fixture(params=["permuted", "shuffled by grain"])
def shuffle(request, monkeypatch):
    """Runs a test with both ways to shuffle: small sources have their own."""
    if request.param != "permuted":
        monkeypatch.setattr(pipeline, "_SMALL", 0)


def counting_source(size: int) -> ArraySource:
    """Images that are no mirror of themselves; the label is the index."""
    images = np.zeros((size, 2, 3, 1), np.uint8)
    images[:, :, 0, 0] = 255
    info = DataInfo((2, 3, 1), size, 256, tuple(str(i) for i in range(size)))
    return ArraySource(images, np.arange(size), info)


def take(batches: pipeline.Batches, count: int, start: int = 0, **options):
    return list(itertools.islice(batches.iterate(start, **options), count))


def labels(batches) -> np.ndarray:
    return np.concatenate([batch["label"] for batch in batches])


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize(("size", "batch_size"), [(12, 4), (7, 3), (5, 8), (1, 4)])
@pytest.mark.usefixtures("shuffle")
@pytest.mark.wide(4)
def test_every_example_comes_once_per_epoch(size, batch_size):
    batches = Batches(counting_source(size), batch_size, seed=3)
    seen = labels([batches.batch_at(step) for step in range(6 * size)])
    for epoch in seen[: 6 * size].reshape(6, size):
        assert sorted(epoch) == list(range(size))


@pytest.mark.usefixtures("shuffle")
def test_epochs_and_seeds_are_shuffled_differently():
    source = counting_source(50)
    epochs = [labels([Batches(source, 50, seed=0).batch_at(step)]) for step in range(3)]
    other = labels([Batches(source, 50, seed=1).batch_at(0)])
    orders = [tuple(order) for order in [*epochs, other, np.arange(50)]]
    assert len(set(orders)) == 5


def test_the_shuffle_has_no_visible_order():
    # Over many epochs each example is first about equally often: chi-square, 9 degrees of freedom.
    source, epochs = counting_source(10), 2000
    batches = Batches(source, 10, seed=0)
    first = [int(batches.batch_at(step)["label"][0]) for step in range(epochs)]
    expected = epochs / 10
    assert ((np.bincount(first, minlength=10) - expected) ** 2 / expected).sum() < 33.7  # p = 1e-4


@pytest.mark.parametrize("threads", [0, 1, 4, 16])
@pytest.mark.usefixtures("shuffle")
def test_threads_do_not_change_the_batches(threads):
    batches = Batches(counting_source(37), 8, seed=5, flip=True)
    straight = [batches.batch_at(step) for step in range(20)]
    assert_same(take(batches, 20, num_threads=threads), straight)


@pytest.mark.parametrize("threads", [0, 1, 4, 16])
@pytest.mark.usefixtures("shuffle")
def test_the_places_told_are_those_delivered_whatever_the_threads(threads):
    batches = Batches(counting_source(37), 8, seed=5)
    told = [index for step in range(3, 23) for index in batches.example_ids(step)]
    assert labels(take(batches, 20, start=3, num_threads=threads)).tolist() == told
    assert len(set(told)) == 37


def test_the_places_of_a_large_source_are_those_delivered():
    size = 2**16 + 1
    source = ArraySource(
        np.zeros((size, 1, 1, 1), np.uint8), np.arange(size), DataInfo((1, 1, 1), size, 256, ())
    )
    parts = [Batches(source, 50, 4, process_index=p, process_count=2) for p in range(2)]
    # Within epochs and across their ends.
    for step in (0, 7, size // 50 - 1, size // 50, 5000):
        delivered = np.concatenate([part.batch_at(step)["label"] for part in parts]).tolist()
        for part in parts:  # each knows the places of all
            assert part.example_ids(step) == delivered


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.usefixtures("shuffle")
def test_processes_together_read_what_one_reads(processes):
    source = counting_source(37)
    one = Batches(source, 8, seed=5, flip=True)
    parts = [
        Batches(source, 8, seed=5, flip=True, process_index=p, process_count=processes)
        for p in range(processes)
    ]
    for step in (0, 1, 9):
        whole = one.batch_at(step)
        blocks = [part.batch_at(step) for part in parts]
        assert all(part.example_ids(step) == one.example_ids(step) for part in parts)
        assert {len(block["label"]) for block in blocks} == {8 // processes}
        joined = {name: np.concatenate([block[name] for block in blocks]) for name in whole}
        assert_same([joined], [whole])


@pytest.mark.parametrize("start", [1, 4, 5, 13])
@pytest.mark.usefixtures("shuffle")
def test_a_resumed_run_reads_the_tail(start):
    source = counting_source(37)
    straight = take(Batches(source, 8, seed=5, flip=True), 20)
    resumed = take(Batches(source, 8, seed=5, flip=True), 20 - start, start)
    assert_same(resumed, straight[start:])


@pytest.mark.usefixtures("shuffle")
def test_the_order_of_reading_does_not_matter():
    batches = Batches(counting_source(37), 8, seed=5, flip=True)
    forwards = [batches.batch_at(step) for step in range(12)]
    assert_same([batches.batch_at(step) for step in reversed(range(12))][::-1], forwards)


def test_flips_are_exact_mirrors_and_about_half_of_them():
    source = digits("train")
    plain, flipped = Batches(source, 100, seed=0), Batches(source, 100, seed=0, flip=True)
    count = 0
    for step in range(20):
        before, after = plain.batch_at(step), flipped.batch_at(step)
        np.testing.assert_array_equal(before["label"], after["label"])
        same = (before["x0"] == after["x0"]).all(axis=(1, 2, 3))
        mirrored = (before["x0"][:, :, ::-1] == after["x0"]).all(axis=(1, 2, 3))
        assert (same | mirrored).all()
        count += mirrored.sum()
    assert abs(count - 1000) < 4 * np.sqrt(500)  # binomial(2000, 1/2), 4 sigma


def test_an_example_is_flipped_in_some_epochs_only():
    batches = Batches(counting_source(1), 64, seed=0, flip=True)
    left = batches.batch_at(0)["x0"][:, 0, 0, 0]
    assert set(left) == {-1.0, 1.0}


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_scaling_hits_both_ends_and_is_symmetric(levels):
    images = np.arange(levels, dtype=np.uint8)[:, None, None, None]
    source = ArraySource(images, np.arange(levels), DataInfo((1, 1, 1), levels, levels, ()))
    batch = next(evaluation_batches(source, levels))
    values = batch["x0"].ravel()
    assert batch["x0"].dtype == np.float32
    assert (values[0], values[-1]) == (-1.0, 1.0)
    np.testing.assert_array_equal(values, -values[::-1])
    np.testing.assert_allclose(np.diff(values), 2 / (levels - 1), rtol=1e-4)
    # What a sampler does to write uint8 gives the pixel back.
    back = np.round((values + 1) * (levels - 1) / 2).astype(int)
    np.testing.assert_array_equal(back, np.arange(levels))


class Points(ArraySource):
    """What is no image: two floats, as the network is to see them."""

    def __getitem__(self, index):
        return {"x0": np.array([index / 3, -2.5]), "label": np.int32(index)}


def test_what_is_no_image_is_handed_on_as_it_is():
    source = Points(np.zeros((4, 2, 3, 1), np.uint8), np.arange(4), counting_source(4).info)
    for batch in (Batches(source, 4, seed=0).batch_at(0), *evaluation_batches(source, 4)):
        assert batch["x0"].dtype == np.float32
        expected = np.stack([batch["label"] / 3, np.full(4, -2.5)], axis=1)
        np.testing.assert_array_equal(batch["x0"], expected.astype(np.float32))


def test_what_the_source_holds_is_handed_to_the_encoding_and_nothing_else_is_done():
    source = digits("train")
    seen = []

    def encode(examples, num_values):
        seen.append((examples, num_values))
        return {"tokens": examples["image"][..., 0]}

    options = {"encode": encode}
    batch = pipeline.Batches(source, 4, seed=0, **options).batch_at(0)
    held = next(pipeline.evaluation_batches(source, 4, 4, **options, num_threads=0))
    (first, values), (second, _) = seen
    assert values == 17
    assert (first["image"].dtype, first["image"].shape) == (np.uint8, (4, 8, 8, 1))
    assert first["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["tokens"], first["image"][..., 0])
    np.testing.assert_array_equal(held["tokens"], second["image"][..., 0])
    assert (set(batch), set(held)) == ({"tokens"}, {"tokens", "mask"})


def test_shapes_and_dtypes():
    batch = Batches(digits("train"), 64, seed=0).batch_at(0)
    assert (batch["x0"].shape, batch["x0"].dtype) == ((64, 8, 8, 1), np.float32)
    assert (batch["label"].shape, batch["label"].dtype) == ((64,), np.int32)
    assert (batch["x0"].min(), batch["x0"].max()) == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("size", "batch_size", "most"),
    [(10, 4, None), (8, 4, None), (10, 4, 6), (3, 8, None), (5, 2, 99)],
)
def test_evaluation_reads_in_order_and_masks_the_filling(size, batch_size, most):
    batches = list(evaluation_batches(counting_source(size), batch_size, most))
    assert {batch["x0"].shape[0] for batch in batches} == {batch_size}
    mask = np.concatenate([batch["mask"] for batch in batches])
    assert mask.dtype == bool
    expected = {6: [0, 1, 3, 5, 6, 8]}.get(most, list(range(size)))  # evenly spaced
    assert list(labels(batches)[mask]) == expected
    assert mask[: -batch_size + 1].all() if batch_size > 1 else mask.all()


@pytest.mark.parametrize("most", [32, 30, 10, 999])
def test_a_part_of_a_folder_of_classes_has_them_all(tmp_path, most):
    for k in range(400):
        path = tmp_path / str(k % 10) / f"{k}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (2, 2)).save(path)
    held_out = folder(tmp_path, "validation", (2, 2), 1, holdout=0.5)
    batches = list(evaluation_batches(held_out, 8, most))
    drawn = np.concatenate([batch["label"][batch["mask"]] for batch in batches])
    every = np.bincount([held_out[k]["label"] for k in range(len(held_out))])
    shares = np.bincount(drawn, minlength=10) / len(drawn)
    assert len(drawn) == min(most, len(held_out))
    # Each class has its share, to within one image.
    np.testing.assert_allclose(shares, every / every.sum(), atol=1 / len(drawn))


def test_evaluation_by_two_processes_is_evaluation_by_one():
    whole = list(evaluation_batches(counting_source(10), 4))
    parts = [
        evaluation_batches(counting_source(10), 4, process_index=p, process_count=2)
        for p in range(2)
    ]
    joined = [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*parts, strict=True)]
    assert_same(joined, whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "data.batch_size=0 must be at least 1"),
        ({"batch_size": 6, "process_count": 4}, "data.batch_size=6 is not divisible by the 4"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**32}, "seed=4294967296"),
        ({"source": counting_source(0)}, "the data source is empty"),
    ],
)
def test_bad_arguments_are_one_line(options, message):
    with pytest.raises(UserError, match=message) as caught:
        Batches(**{"source": counting_source(4), "batch_size": 4, "seed": 0, **options})
    assert "\n" not in str(caught.value)


def test_evaluation_refuses_bad_arguments_at_once():
    with pytest.raises(UserError, match=r"data\.batch_size=0"):
        evaluation_batches(counting_source(4), 0)
    with pytest.raises(UserError, match="max_examples=0"):
        evaluation_batches(counting_source(4), 2, 0)


class Failing(ArraySource):
    def __getitem__(self, index):
        if index == 5:
            raise UserError("image 5 is broken; remove it")
        return super().__getitem__(index)


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_an_error_in_a_thread_reaches_the_caller(threads):
    whole = counting_source(8)
    source = Failing(whole._images, whole._labels, whole.info)
    batches = Batches(source, 2, seed=0)
    order = labels([Batches(whole, 8, seed=0).batch_at(0)])
    before = int(np.flatnonzero(order == 5)[0]) // 2
    iterator = batches.iterate(num_threads=threads)
    for _ in range(before):
        next(iterator)
    with pytest.raises(UserError) as caught:
        next(iterator)
    assert str(caught.value) == "image 5 is broken; remove it"
