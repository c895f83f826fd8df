"""Named key streams: no two of one key, and none that a count reaches."""

import itertools

import jax
import pytest

from ddpm_jax import streams

# No count under these keys gets so far: steps and places are int32, heights and samples smaller.
LARGEST_COUNT = {"run": 2**31, "step": 0, "batch": 2**31, "sampler": 2**24, "sample": 2**24}
HEIGHTS = (8, 16, 32, 64, 256, 1024, 4096)


def test_no_two_streams_of_a_key_are_one():
    every = [*streams.ALL, *map(streams.enlarging, HEIGHTS)]
    for one, other in itertools.combinations(every, 2):
        assert one != other
    assert {stream.parent for stream in every} == set(LARGEST_COUNT)


def test_every_stream_is_listed():
    named = [value for value in vars(streams).values() if isinstance(value, streams.Stream)]
    assert sorted(named) == sorted(streams.ALL)


@pytest.mark.parametrize("stream", [*streams.ALL, *map(streams.enlarging, HEIGHTS)])
def test_no_count_reaches_a_stream(stream):
    assert LARGEST_COUNT[stream.parent] <= stream.number < 2**32


def test_the_keys_are_those_of_runs_that_are_there():
    """The numbers that runs were trained and samples drawn with: another one changes results."""
    numbers = {
        "VALIDATION": 4294967295,
        "SHARED": 4294967295,
        "CELLS": 4294967294,
        "SMALL_IMAGES": 4294967293,
        "AUGMENTATION": 4294967292,
        "PROJECTION": 2147483647,
        "LEVEL_PROJECTION": 2147483646,
    }
    assert {name: getattr(streams, name).number for name in numbers} == numbers
    assert streams.enlarging(64).number == 4294967231


def test_many_keys_are_folded_as_each_alone():
    keys = jax.random.split(jax.random.key(0), 3)
    folded = jax.random.key_data(streams.fold(keys, streams.CELLS))
    for k in range(3):
        alone = jax.random.key_data(streams.fold(keys[k], streams.CELLS))
        assert (folded[k] == alone).all()


def test_keys_by_name_depend_on_the_name_alone():
    key = jax.random.key(0)
    one, same, other = (
        jax.random.key_data(streams.named(key, n)).tolist() for n in ("a", "a", "b")
    )
    assert one == same != other
