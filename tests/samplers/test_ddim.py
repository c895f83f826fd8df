"""DDIM against exact flow maps, its order of convergence, and ancestral sampling at eta = 1."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy import stats

from ddpm_jax import samplers
from ddpm_jax.diffusion import schedules
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.samplers import grids

KEY = jax.random.key(1)
# A smooth path: the discrete tables have kinks at their nodes, which would hide the order.
TURN = Schedule(
    alpha=lambda t: jnp.cos(jnp.pi / 2 * t),
    sigma=lambda t: jnp.sin(jnp.pi / 2 * t),
    network_time=lambda t: t,
)
STRAIGHT = Schedule(alpha=lambda t: 1 - t, sigma=lambda t: t, network_time=lambda t: t)


@pytest.mark.parametrize(
    "times", [[1.0, 0.0], [1.0, 0.99, 0.3, 0.0], [0.7, 0.2, 0.01, 0.0], np.linspace(1, 0, 101)]
)
@pytest.mark.parametrize("schedule", [schedules.linear(100), schedules.cosine(100), STRAIGHT])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.wide(4)
def test_a_point_mass_is_reached_exactly_on_any_grid(schedule, times, eta):
    target = jnp.array([0.3, -0.8])
    denoise = oracles.point_mass(target).denoiser(schedule)
    x = jax.random.normal(jax.random.key(0), (4, 2))
    out = samplers.ddim(denoise, schedule, times, KEY, x, eta=eta)
    np.testing.assert_allclose(out, np.tile(target, (4, 1)), rtol=1e-6)


def test_on_a_point_mass_every_step_lies_on_the_exact_flow():
    data, schedule = oracles.point_mass(jnp.array([0.3, -0.8])), schedules.linear(100)
    times = [1.0, 0.9, 0.35, 0.05]
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (4, 2), jnp.float64)
        _, path = samplers.ddim(
            data.denoiser(schedule), schedule, times, KEY, x, return_trajectory=True
        )
        for s, xs in zip(times[1:], path[1:], strict=True):
            np.testing.assert_allclose(xs, data.flow_map(schedule, x, 1.0, s), rtol=1e-10)


@pytest.mark.parametrize("schedule", [TURN, STRAIGHT], ids=["turn", "straight"])
def test_the_error_falls_with_the_first_power_of_the_step(schedule):
    data = oracles.Gaussian(0.5, 0.3)
    sizes = (20, 40, 80, 160)
    with jax.enable_x64(True):
        x = jnp.linspace(-2, 2, 7)[:, None]
        errors = [
            np.abs(
                samplers.ddim(
                    data.denoiser(schedule), schedule, grids.uniform(schedule, size), KEY, x
                )
                - data.flow_map(schedule, x, 1.0, 0.0)
            ).max()
            for size in sizes
        ]
    slope = -np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert 0.85 <= slope <= 1.15, (slope, errors)
    assert errors[-1] < 0.01


def test_the_full_chain_of_ddpm_is_close_to_its_flow():
    schedule, data = schedules.linear(), oracles.Mixture([1.0], [[0.5, -0.5]], [0.1])
    x = jax.random.normal(jax.random.key(0), (8, 2))
    run = jax.jit(
        lambda x: samplers.ddim(
            data.denoiser(schedule), schedule, grids.uniform(schedule, 1000), KEY, x
        )
    )
    exact = data.component(0).flow_map(schedule, x, 1.0, 0.0)
    np.testing.assert_allclose(run(x), exact, atol=0.02)


def test_the_flow_keeps_order_and_carries_quantiles():
    # In one dimension the flow is increasing, so it carries each quantile to its own.
    schedule = schedules.cosine(1000)
    data = oracles.Mixture([0.25, 0.75], [[-2.0], [1.0]], [0.05, 0.05])
    levels = (np.arange(200) + 0.5) / 200
    run = jax.jit(
        lambda x: samplers.ddim(
            data.denoiser(schedule), schedule, grids.uniform(schedule, 200), KEY, x
        )
    )
    with jax.enable_x64(True):
        out = np.asarray(run(jnp.asarray(stats.norm.ppf(levels)[:, None])))[:, 0]
    assert (np.diff(out) > 0).all()
    reached = 0.25 * stats.norm.cdf(out, -2, 0.05**0.5) + 0.75 * stats.norm.cdf(out, 1, 0.05**0.5)
    np.testing.assert_allclose(reached, levels, atol=0.02)


@pytest.mark.parametrize("times", [[1.0, 0.5, 0.2, 0.0], np.linspace(1, 0, 26)])
@pytest.mark.wide(2)
def test_eta_1_is_ancestral_sampling_with_the_posterior_variance(times):
    # Song et al. 2021, section 4.1; the same key makes the same draws.
    schedule = schedules.linear(100)
    denoise = oracles.Mixture([0.5, 0.5], [[-1.0, 0], [1.0, 0]], [0.1, 0.2]).denoiser(schedule)
    x = jax.random.normal(jax.random.key(0), (4, 2))
    ddim = samplers.ddim(denoise, schedule, times, KEY, x, eta=1.0)
    ancestral = samplers.ancestral(denoise, schedule, times, KEY, x, variance="fixed_small")
    np.testing.assert_allclose(ddim, ancestral, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_any_eta_keeps_the_marginals_of_the_path(eta):
    # Song et al. 2021, lemma 1: told the true x_0, x_s ~ N(alpha x_0, sigma²) at every s.
    schedule, n, x0 = schedules.linear(100), 20_000, 0.8
    bars = oracles.exact_alphas_cumprod(schedule.betas).astype(float)
    x = np.sqrt(bars[90]) * x0 + np.sqrt(1 - bars[90]) * jax.random.normal(KEY, (n, 1))
    _, path = samplers.ddim(
        oracles.point_mass(x0).denoiser(schedule),
        schedule,
        [0.9, 0.6, 0.3, 0.1],
        jax.random.key(3),
        x,
        eta=eta,
        return_trajectory=True,
    )
    for i, xs in zip((60, 30, 10), np.asarray(path[1:]), strict=True):
        assert abs(xs.mean() - np.sqrt(bars[i]) * x0) < 4 * np.sqrt((1 - bars[i]) / n)
        assert abs(xs.var() / (1 - bars[i]) - 1) < 4 * np.sqrt(2 / n)


def test_without_eta_the_key_has_no_effect():
    schedule = schedules.linear(100)
    denoise = oracles.Gaussian(0.2, 0.4).denoiser(schedule)
    x = jax.random.normal(jax.random.key(0), (4, 2))
    times = grids.uniform(schedule, 5)
    first, second = (
        samplers.ddim(denoise, schedule, times, jax.random.key(seed), x) for seed in (0, 1)
    )
    np.testing.assert_array_equal(first, second)


def test_halves_of_a_deterministic_trajectory_make_the_whole():
    schedule = schedules.linear(100)
    denoise = oracles.Gaussian(0.2, 0.4).denoiser(schedule)
    x = jax.random.normal(jax.random.key(0), (4, 2))
    middle = samplers.ddim(denoise, schedule, [1.0, 0.7, 0.4], KEY, x)
    end = samplers.ddim(denoise, schedule, [0.4, 0.1, 0.0], KEY, middle)
    whole = samplers.ddim(denoise, schedule, [1.0, 0.7, 0.4, 0.1, 0.0], KEY, x)
    np.testing.assert_allclose(end, whole, rtol=1e-6)


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_an_eta_out_of_range_is_refused(eta):
    schedule = schedules.linear(10)
    denoise = oracles.point_mass(0.0).denoiser(schedule)
    with pytest.raises(ValueError, match=f"eta={eta}"):
        samplers.ddim(denoise, schedule, [1.0, 0.0], KEY, jnp.ones((1, 1)), eta=eta)
