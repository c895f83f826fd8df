"""Where arrays differ: every bit counts, and the distances are those of the numbers."""

import json
import math

import numpy as np
import pytest

from ddpm_jax.runtime import bits, leaves


def test_the_largest_difference_is_placed_and_measured():
    left = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]], np.float32)
    right = left.copy()
    right[0, 1], right[1, 2] = 4.5, -1.0
    # |(0.5, 1)| / |(3, 4)|
    assert bits.difference(left, right) == {
        "elements": 2,
        "of": 6,
        "index": [1, 2],
        "a": 0.0,
        "b": -1.0,
        "max_abs": 1.0,
        "relative_l2": pytest.approx(math.sqrt(1.25) / 5),
    }
    assert bits.difference(left, left.copy()) is None


def test_a_zero_of_another_sign_and_a_last_bit_differ():
    found = bits.difference(np.zeros(3), np.array([0.0, -0.0, 0.0]))
    assert (found["elements"], found["index"], found["max_abs"]) == (1, [1], 0.0)
    one = np.ones(2, np.float32)
    next_one = np.nextafter(one, np.float32(2), where=[False, True], out=one.copy())
    found = bits.difference(one, next_one)
    assert (found["elements"], found["index"], found["max_abs"]) == (1, [1], 2.0**-23)


def test_nan_equals_its_copy_and_comes_before_any_number():
    nan = np.array([np.nan, 1.0, 2.0])
    assert bits.equal(nan, nan.copy())
    found = bits.difference(nan, np.array([np.nan, 5.0, np.nan]))
    assert (found["elements"], found["index"]) == (2, [2])
    assert (found["a"], found["b"], found["max_abs"], found["relative_l2"]) == (2.0, *[None] * 3)
    json.dumps(found, allow_nan=False)


def test_scalars_integers_and_bools():
    found = bits.difference(np.int32(3), np.int32(5))
    assert (found["index"], found["max_abs"], found["of"]) == ([], 2.0, 1)
    found = bits.difference(np.array([True, False]), np.array([True, True]))
    assert (found["index"], found["a"], found["b"]) == ([1], 0.0, 1.0)


def test_arrays_of_other_kinds_are_not_measured():
    assert bits.difference(np.zeros((2, 3)), np.zeros(3, np.float32)) == {
        "a": "float64[2,3]",
        "b": "float32[3]",
    }
    assert not bits.equal(np.zeros(3), np.zeros(3, np.float32))


def test_trees_are_compared_in_their_order_where_both_have_a_leaf():
    left = leaves.named({"b": np.ones(2), "a": {"y": np.ones(2), "x": np.ones(2)}})
    assert list(left) == ["a/x", "a/y", "b"]
    right = {"b": np.zeros(2), "a/y": np.array([1.0, 3.0]), "c": np.ones(1)}
    found = bits.compare(left, right)
    assert (found["tensors"], found["differing"]) == (2, 2)
    assert (found["first"]["tensor"], found["first"]["max_abs"]) == ("a/y", 2.0)
    assert found["alone"] == {"a": ["a/x"], "b": ["c"]}
