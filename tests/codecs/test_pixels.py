import numpy as np

from ddpm_jax import codecs


def test_every_grey_level_comes_back():
    codec = codecs.pixels((16, 16, 1))
    image = np.arange(256, dtype=np.uint8).reshape(codec.shape)
    x0 = codec.encode(image)
    assert (x0.dtype, x0.min(), x0.max()) == (np.float32, -1, 1)
    np.testing.assert_allclose(x0, np.linspace(-1, 1, 256).reshape(codec.shape), atol=1e-7)
    np.testing.assert_array_equal(codec.decode(x0), image)


def test_what_lies_outside_is_clipped():
    images = codecs.pixels((1, 1, 4)).decode(np.array([[[-7.0, -1.0, 1.0, 7.0]]]))
    assert images.tolist() == [[[0, 0, 255, 255]]]
    assert images.dtype == np.uint8


def test_a_batch_is_encoded_by_what_each_part_is():
    codec = codecs.pixels((1, 2, 1))
    grey = np.array([[[[0], [16]]], [[[8], [4]]]], np.uint8)  # of 17 values
    stored = {
        "image": grey,
        "label": np.array([3, -1]),
        "mask": grey > 4,
        "photo": grey * np.uint8(15),  # of 256, like any image that is a condition
        "sketch": grey / 2,
    }
    batch = codec.encode_batch(stored, 17)
    assert {name: array.dtype for name, array in batch.items()} == {
        "x0": np.float32,
        "label": np.int32,
        "mask": np.float32,
        "photo": np.float32,
        "sketch": np.float32,
    }
    assert batch["x0"].ravel().tolist() == [-1, 1, 0, -0.5]
    assert batch["label"].tolist() == [3, -1]
    assert batch["mask"].ravel().tolist() == [0, 1, 1, 0]
    np.testing.assert_allclose(batch["photo"].ravel(), grey.ravel() * 15 / 127.5 - 1, atol=1e-7)
    assert batch["sketch"].ravel().tolist() == [0, 8, 4, 2]


def test_what_is_no_image_needs_no_encoding():
    points = np.array([0.25, 200.0])
    batch = codecs.pixels((1, 1, 1)).encode_batch({"x0": points, "label": np.zeros(2, int)})
    assert (batch["x0"].dtype, batch["x0"].tolist()) == (np.float32, [0.25, 200.0])
