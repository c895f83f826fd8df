"""Grids of times: they descend, end at the data and keep to the nodes of the schedule."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import schedules
from ddpm_jax.samplers import base, grids

CONTINUOUS = schedules.Schedule(lambda t: 1 - t, lambda t: t, lambda t: t)


@pytest.mark.parametrize("size", [10, 1000, 4000])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.25, 0.07])
def test_the_grid_descends_on_the_nodes(size, share):
    schedule, num_steps = schedules.linear(size), max(1, int(share * size))
    times = grids.uniform(schedule, num_steps)
    assert times.shape == (num_steps + 1,)
    assert times.dtype == np.float64
    assert (times[0], times[-1]) == (1, 0)
    strides = -np.diff(times) * size
    np.testing.assert_allclose(strides, np.rint(strides), atol=1e-9)
    assert strides.min() > 0.5
    assert np.ptp(strides) < 1.5  # equal up to the rounding to nodes
    # What a sampler sees in float32: the network's whole-number index of every step.
    time = np.asarray(schedule.network_time(jnp.asarray(times[:-1], jnp.float32)))
    np.testing.assert_array_equal(time, np.rint(times[:-1] * size) - 1)


def test_the_full_grid_is_the_chain_itself():
    times = grids.uniform(schedules.linear(8), 8)
    np.testing.assert_array_equal(times, [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0])


@pytest.mark.parametrize("num_steps", [1, 2, 50, 1000])
def test_the_grid_is_the_trailing_one_of_diffusers(num_steps):
    diffusers = pytest.importorskip("diffusers")
    peer = diffusers.DDIMScheduler(1000, timestep_spacing="trailing")
    peer.set_timesteps(num_steps)
    times = grids.uniform(schedules.linear(1000), num_steps)
    np.testing.assert_allclose(times[:-1] * 1000 - 1, peer.timesteps.numpy(), atol=1e-9)


def test_a_continuous_schedule_has_equal_strides():
    times = grids.uniform(CONTINUOUS, 7)
    np.testing.assert_allclose(np.diff(times), -1 / 7, rtol=1e-12)
    assert (times[0], times[-1]) == (1, 0)


def test_bad_grids_are_refused():
    with pytest.raises(ValueError, match="num_steps=0"):
        grids.uniform(CONTINUOUS, 0)
    with pytest.raises(ValueError, match=r"T = 10.*num_steps=11"):
        grids.uniform(schedules.linear(10), 11)
    for times in ([0.0, 1.0], [1.0, 0.5, 0.5, 0.0], [1.2, 0.0], [0.5, -0.1], [1.0, np.nan]):
        with pytest.raises(ValueError, match="descend strictly"):
            base.check_times(times)
    for times in ([1.0], [], [[1.0, 0.0]]):
        with pytest.raises(ValueError, match="num_steps >= 1"):
            base.check_times(times)
