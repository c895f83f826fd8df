"""Pixel values as whole numbers: those of the data stay, those of saved images come back."""

import numpy as np
import pytest

from ddpm_jax import codecs
from ddpm_jax.errors import UserError


@pytest.mark.parametrize("num_values", [2, 4, 17, 256])
def test_values_stay_and_come_back_from_eight_bits(num_values):
    codec = codecs.quantised((1, num_values, 1), num_values)
    own = np.arange(num_values, dtype=np.uint8).reshape(1, 1, -1, 1)
    x0 = codec.encode(own, num_values)
    assert x0.dtype == codec.dtype == np.int32
    np.testing.assert_array_equal(x0, own)
    shown = codec.decode(x0)
    assert shown.dtype == np.uint8
    assert (shown.min(), shown.max()) == (0, 255)
    # What other codecs show of the same values, and nearest to every value in between.
    same = codecs.pixels((1, num_values, 1))
    np.testing.assert_array_equal(shown, same.decode(same.encode(own, num_values)))
    np.testing.assert_array_equal(codec.encode(shown), x0)
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, -1, 1)
    distance = np.abs(codec.decode(codec.encode(every)).astype(int) - every)
    assert distance.max() <= np.ceil(255 / (num_values - 1) / 2)


def test_a_batch_is_of_whole_numbers():
    codec = codecs.quantised((1, 2, 1), 17)
    stored = {"image": np.array([[[[16], [3]]]], np.uint8), "label": np.array([4])}
    batch = codec.encode_batch(stored, 17)
    assert batch["x0"].ravel().tolist() == [16, 3]
    assert codec.encode_batch({"x0": np.array([[5, 6]], np.int64)})["x0"].dtype == np.int32
    with pytest.raises(UserError, match="float32 numbers, and the values of pixels are needed"):
        codec.encode_batch({"x0": np.ones((1, 2), np.float32)})


@pytest.mark.parametrize("num_values", [1, 257])
def test_numbers_of_values_that_are_none(num_values):
    with pytest.raises(ValueError, match=f"got {num_values}"):
        codecs.quantised((1, 1, 1), num_values)
