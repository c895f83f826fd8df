"""What a process holds, by the arrays that it makes."""

import time
import types

import numpy as np

from ddpm_jax.runtime import memory

BLOCK, MARGIN = 256 * 2**20, 48 * 2**20


def test_a_watermark_is_the_most_that_was_held_while_it_was_watched():
    # Other threads of the process take and give back some megabytes meanwhile: `MARGIN`.
    before = memory.host_bytes()
    mark = memory.Watermark()
    mark.start()
    block = np.ones(BLOCK, np.uint8)
    seen = time.monotonic() + 10
    while mark.peak < before + BLOCK - MARGIN:
        assert time.monotonic() < seen
        time.sleep(0.001)
    del block
    peak = mark.stop()
    assert peak >= before + BLOCK - MARGIN
    assert memory.host_bytes() < peak - BLOCK + 2 * MARGIN
    # The system's own is of the whole life of the process.
    assert memory.host_peak_bytes() >= peak - MARGIN


def test_the_peak_of_devices_is_that_of_the_fullest():
    def device(stats):
        return types.SimpleNamespace(memory_stats=lambda: stats)

    full, empty = device({"peak_bytes_in_use": 7}), device({"peak_bytes_in_use": 3})
    assert memory.device_peak_bytes([empty, full]) == 7
    assert memory.device_peak_bytes([device(None), device({})]) is None
