"""Grids of times: they descend, end at the data and keep to the nodes of the schedule."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import schedules
from ddpm_jax.samplers import base, grids

CONTINUOUS = schedules.Schedule(lambda t: 1 - t, lambda t: t, lambda t: t)


@pytest.mark.parametrize("size", [10, 1000, 4000])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.25, 0.07])
@pytest.mark.wide(4)
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


ON_NODES = {
    "uniform": grids.uniform,
    "leading": grids.leading,
    "linspace": grids.linspace,
    "quadratic": grids.quadratic,
}
BY_LEVEL = {"karras": grids.karras, "log_snr_uniform": grids.log_snr_uniform}
PATHS = {
    "linear": schedules.linear(),
    "vp_continuous": schedules.vp_continuous(),
    "edm": schedules.edm(),
    "ve": schedules.ve(),
    "gamma": schedules.from_gamma(lambda t: 18.3 * t - 13.3),
}


@pytest.mark.parametrize("name", ON_NODES)
@pytest.mark.parametrize("num_steps", [1, 7, 50, 999, 1000])
def test_every_grid_on_nodes_descends_to_0(name, num_steps):
    times = ON_NODES[name](schedules.linear(1000), num_steps)
    assert times.shape == (num_steps + 1,)
    assert times[-1] == 0
    assert (np.diff(times) < 0).all()
    np.testing.assert_allclose(times * 1000, np.rint(times * 1000), atol=1e-9)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("num_steps", [7, 20, 50])
def test_spacings_are_those_of_diffusers(spacing, num_steps):
    diffusers = pytest.importorskip("diffusers")
    peer = diffusers.DDIMScheduler(1000, timestep_spacing=spacing, steps_offset=1)
    peer.set_timesteps(num_steps)
    schedule = schedules.linear(1000)
    times = {
        "leading": lambda: grids.leading(schedule, num_steps, steps_offset=1),
        "linspace": lambda: grids.linspace(schedule, num_steps),
        "trailing": lambda: grids.uniform(schedule, num_steps),
    }[spacing]()
    np.testing.assert_allclose(times[:-1] * 1000 - 1, peer.timesteps.numpy(), atol=1e-9)


def test_the_quadratic_grid_has_growing_strides():
    times = grids.quadratic(CONTINUOUS, 10)
    np.testing.assert_allclose(np.sqrt(times), np.linspace(1, 0, 11), atol=1e-12)


@pytest.mark.parametrize("grid", BY_LEVEL)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("num_steps", [2, 18])
@pytest.mark.wide(4)
def test_every_grid_by_level_descends_to_0(grid, path, num_steps):
    times = BY_LEVEL[grid](PATHS[path], num_steps)
    assert times.shape == (num_steps + 1,)
    assert (times[0], times[-1]) == (1, 0)
    assert (np.diff(times) < 0).all()


def test_karras_is_that_of_the_paper():
    # Karras et al. 2022, equation 5, at N = 18 on their own path.
    times = grids.karras(schedules.edm(), 18)
    i = np.arange(18)
    sigmas = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(80 * times[:-1], sigmas, rtol=1e-9)
    # And on a path with alpha != 1 it is sigma / alpha that falls so.
    alpha, sigma = PATHS["vp_continuous"].values(
        grids.karras(PATHS["vp_continuous"], 18, sigma_max=80.0)
    )
    np.testing.assert_allclose((sigma / alpha)[:-1], sigmas, rtol=1e-9)


def karras_levels(num_levels, sigma_min, sigma_max, rho=7.0):
    """Karras et al. 2022, equation 5, for i = 0 .. N - 1."""
    i, ends = np.arange(num_levels), (sigma_max ** (1 / rho), sigma_min ** (1 / rho))
    return (ends[0] + i / (num_levels - 1) * (ends[1] - ends[0])) ** rho


@pytest.mark.parametrize(
    ("options", "sigmas"),
    [
        # sigma falls to sigma_min and from there to the 0.01 at which this path starts.
        ({"sigma_min": 0.05}, [*karras_levels(4, 0.05, 50.0), 0.01]),
        ({"sigma_min": 0.05, "sigma_max": 20.0}, [*karras_levels(4, 0.05, 20.0), 0.01]),
        ({"sigma_min": 0.05, "rho": 3.0}, [*karras_levels(4, 0.05, 50.0, 3.0), 0.01]),
        # Where sigma_min is the start itself, all five levels are the paper's.
        ({"sigma_min": 0.01, "sigma_max": 20.0}, karras_levels(5, 0.01, 20.0)),
        ({}, karras_levels(5, 0.01, 50.0)),
    ],
)
def test_karras_visits_every_level_of_the_paper_on_a_path_that_starts_above_0(options, sigmas):
    times = grids.karras(schedules.ve(0.01, 50.0), 4, **options)
    # Song et al. 2021: sigma = 0.01 (50 / 0.01)^t.
    np.testing.assert_allclose(0.01 * 5000**times, sigmas, rtol=1e-9)
    assert times[-1] == 0


@pytest.mark.parametrize(
    ("schedule", "level"),
    [
        (schedules.edm(sigma_min=0.05), 0.05),
        (schedules.edm(), 0.002),
        # The level of i = 1, of which the network has seen none below: sigma² / alpha² = beta_1 /
        # (1 - beta_1).
        (schedules.linear(1000), (1e-4 / (1 - 1e-4)) ** 0.5),
        (schedules.vp_continuous(), 0.002),
    ],
    ids=["edm, 0.05", "edm", "linear", "vp"],
)
def test_karras_ends_where_the_network_is_meant_to(schedule, level):
    times = grids.karras(schedule, 6)
    sigmas = np.exp(-base.signal_noise(schedule, times[:-1]).lam)
    np.testing.assert_allclose(sigmas[-1], level, rtol=1e-9)
    # A node of a discrete schedule is 1e-3 wide.
    tolerance = 1e-9 if schedule.betas is None else 1e-3
    np.testing.assert_allclose(sigmas, karras_levels(6, level, sigmas[0]), rtol=tolerance)
    if schedule.betas is not None:
        assert times[-2] == 1 / 1000
        assert schedule.network_time(jnp.float32(times[-2])) == 0


def test_log_snr_visits_its_bounds_on_a_path_that_starts_above_0():
    # log_snr = -2 log(0.01) - 2 t log(5000) on this path.
    times = grids.log_snr_uniform(schedules.ve(0.01, 50.0), 4, log_snr_min=-6.0, log_snr_max=3.0)
    log_snr = -2 * np.log(0.01) - 2 * times * np.log(5000)
    np.testing.assert_allclose(log_snr, [-6, -3, 0, 3, -2 * np.log(0.01)], rtol=0, atol=1e-9)


def test_log_snr_falls_evenly():
    times = grids.log_snr_uniform(PATHS["gamma"], 10)
    np.testing.assert_allclose(np.diff(times), -0.1, rtol=1e-9)
    times = grids.log_snr_uniform(PATHS["linear"], 20, log_snr_min=-8.0, log_snr_max=6.0)
    log_snr = 2 * base.signal_noise(PATHS["linear"], times[:-1]).lam
    np.testing.assert_allclose(log_snr, np.linspace(-8, 6, 20), atol=2e-5)  # nodes are 1e-3 wide


def test_a_path_that_ends_at_alpha_0_needs_a_level_to_start_from():
    with pytest.raises(ValueError, match="give sigma_max"):
        grids.karras(schedules.flow(), 10)
    times = grids.karras(schedules.flow(), 10, sigma_max=80.0)
    np.testing.assert_allclose(times[0] / (1 - times[0]), 80, rtol=1e-9)
    assert grids.log_snr_uniform(schedules.flow(), 10)[0] == pytest.approx(0.999)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: grids.karras(schedules.edm(), 0), "num_steps=0"),
        (lambda: grids.karras(schedules.edm(), 5, rho=0.5), "rho=0.5"),
        (lambda: grids.karras(schedules.edm(), 5, sigma_max=100.0), "sigma_max=100"),
        (lambda: grids.karras(schedules.edm(), 5, sigma_min=90.0), "sigma_min=90"),
        (lambda: grids.karras(schedules.ve(), 5, sigma_min=0.005), "0.01 to 50, .*sigma_min=0.005"),
        (lambda: grids.log_snr_uniform(schedules.linear(), 5, log_snr_max=-20.0), "-20"),
        (lambda: grids.log_snr_uniform(schedules.linear(), 5, log_snr_min=-90.0), "-90"),
        (lambda: grids.leading(schedules.linear(), 10, steps_offset=200), "steps_offset=200"),
        (lambda: grids.quadratic(schedules.linear(10), 11), "T = 10"),
        (lambda: grids.leading(CONTINUOUS, 5), "continuous"),
        (lambda: grids.linspace(CONTINUOUS, 5), "continuous"),
    ],
)
def test_numbers_out_of_range_are_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("grid", "option"),
    [
        ("karras", "rho"),
        ("karras", "sigma_min"),
        ("karras", "sigma_max"),
        ("log_snr_uniform", "log_snr_min"),
        ("log_snr_uniform", "log_snr_max"),
    ],
)
def test_what_is_no_number_is_refused(grid, option, value):
    # On a path whose levels reach from 0 to infinity, which bounds no number by itself.
    given = ({"sigma_max": 80.0} if grid == "karras" else {}) | {option: value}
    with pytest.raises(ValueError, match=f"got.*{option}={value}"):
        BY_LEVEL[grid](schedules.flow(), 5, **given)


def test_log_snr_uniform_goes_down_to_the_smallest_level():
    schedule = schedules.edm(sigma_min=0.05)
    times = grids.log_snr_uniform(schedule, 5)
    alpha, sigma = schedule.values(times)
    np.testing.assert_allclose(sigma[-2] / alpha[-2], 0.05, rtol=1e-6)
    assert sigma[-1] == 0
