"""Ancestral sampling against the law that a linear denoiser gives it in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax import samplers
from ddpm_jax.diffusion import schedules
from ddpm_jax.samplers import grids

VARIANCES = ("fixed_small", "fixed_large")


@pytest.mark.wide(7)
@pytest.mark.parametrize(
    ("size", "num_steps"), [(50, 50), (1000, 20), (1000, 7)], ids=["chain", "respaced", "uneven"]
)
@pytest.mark.parametrize("build", [schedules.linear, schedules.cosine])
@pytest.mark.parametrize("variance", VARIANCES)
def test_the_samples_follow_the_closed_form_law(build, size, num_steps, variance):
    schedule, data, n = build(size), oracles.Gaussian(0.6, 0.05), 40_000
    times = grids.uniform(schedule, num_steps)
    nodes = np.rint(times * size).astype(int)
    mean, spread = oracles.ancestral_law(schedule.betas, nodes, 0.6, 0.05, variance)
    key_start, key = jax.random.split(jax.random.key(0))
    x = samplers.initial_noise(key_start, schedule, times, (n, 1))
    run = jax.jit(
        lambda key, x: samplers.ancestral(
            data.denoiser(schedule), schedule, times, key, x, variance=variance
        )
    )
    out = np.asarray(run(key, x))
    assert abs(out.mean() - mean) < 4 * np.sqrt(spread / n)
    assert abs(out.var() / spread - 1) < 4 * np.sqrt(2 / n)


@pytest.mark.parametrize(("variance", "ratio"), [("fixed_small", 0.967), ("fixed_large", 1.008)])
@pytest.mark.wide(6)
def test_the_bias_of_1000_steps_is_the_known_one(variance, ratio):
    # Neither choice of sigma² is exact at finite T: on data of variance 0.05 they miss by this.
    schedule = schedules.linear()
    nodes = np.arange(1000, -1, -1)
    _, spread = oracles.ancestral_law(schedule.betas, nodes, 0.0, 0.05, variance)
    assert spread / 0.05 == pytest.approx(ratio, abs=5e-4)
    # 40,000 draws see 4 * sqrt(2 / 40,000) = 2.8%: enough to tell the two apart.
    n = 4000
    data = oracles.Gaussian(0.0, 0.05)
    run = jax.jit(
        lambda key, x: samplers.ancestral(
            data.denoiser(schedule),
            schedule,
            grids.uniform(schedule, 1000),
            key,
            x,
            variance=variance,
        )
    )
    out = np.asarray(run(jax.random.key(1), jax.random.normal(jax.random.key(0), (n, 10))))
    assert abs(out.var() / spread - 1) < 4 * np.sqrt(2 / out.size)


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_law_tends_to_the_data_as_steps_grow(variance):
    errors = []
    for size in (100, 400, 1600):
        # The same continuous path in more and more steps: beta_i of order 1 / T.
        betas = schedules.linear(size, 0.1 / size, 20 / size).betas
        mean, spread = oracles.ancestral_law(betas, np.arange(size, -1, -1), 0.6, 0.5, variance)
        errors.append(abs(spread - 0.5))
        assert mean == pytest.approx(0.6, abs=0.01)
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.wide(2)
def test_the_last_step_adds_no_noise(variance):
    schedule, data = schedules.linear(100), oracles.Gaussian(0.6, 0.05)
    x = jax.random.normal(jax.random.key(0), (5, 3))

    def last(key, t):
        times = [t, 0.0]
        return samplers.ancestral(
            data.denoiser(schedule), schedule, times, key, x, variance=variance
        )

    for t in (0.01, 0.5, 1.0):
        first, second = (last(jax.random.key(seed), t) for seed in (1, 2))
        np.testing.assert_array_equal(first, second)
        # And the mean of the last step is the estimate of x_0 itself.
        estimate = data.denoiser(schedule)(x, jnp.full(5, t)).x0
        np.testing.assert_allclose(first, estimate, rtol=1e-5)
    # Two steps do differ.
    pair = [
        samplers.ancestral(data.denoiser(schedule), schedule, [1.0, 0.5, 0.0], jax.random.key(k), x)
        for k in (1, 2)
    ]
    assert np.abs(pair[0] - pair[1]).min() > 0


def test_fixed_large_is_the_wider_one():
    schedule, data = schedules.linear(100), oracles.Gaussian(0.0, 1.0)
    x = jax.random.normal(jax.random.key(0), (20_000, 1))
    spread = [
        samplers.ancestral(
            data.denoiser(schedule),
            schedule,
            grids.uniform(schedule, 5),
            jax.random.key(1),
            x,
            variance=variance,
        ).var()
        for variance in VARIANCES
    ]
    assert spread[0] < spread[1]


@pytest.mark.parametrize("variance", VARIANCES)
def test_a_point_mass_is_reached_exactly(variance):
    schedule, target = schedules.cosine(1000), jnp.array([0.3, -0.8])
    x = jax.random.normal(jax.random.key(0), (6, 2))
    out = samplers.ancestral(
        oracles.point_mass(target).denoiser(schedule),
        schedule,
        [1.0, 0.9, 0.12, 0.0],
        jax.random.key(1),
        x,
        variance=variance,
    )
    np.testing.assert_allclose(out, np.tile(target, (6, 1)), rtol=1e-6)


def test_clipping_bounds_the_result():
    schedule = schedules.linear(100)
    out = samplers.ancestral(
        oracles.point_mass(1.7).denoiser(schedule),
        schedule,
        grids.uniform(schedule, 10),
        jax.random.key(0),
        jnp.ones((2, 3)),
        clip_x0=True,
    )
    np.testing.assert_allclose(out, 1, rtol=1e-6)


def test_an_unknown_variance_is_refused():
    schedule = schedules.linear(10)
    with pytest.raises(ValueError, match=r"fixed_small, fixed_large.*'learned'"):
        samplers.ancestral(
            oracles.point_mass(0.0).denoiser(schedule),
            schedule,
            [1.0, 0.0],
            jax.random.key(0),
            jnp.ones((1, 1)),
            variance="learned",
        )


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.wide(2)
def test_a_chain_run_in_two_halves_has_the_law_of_the_whole(variance):
    # The first half ends above 0, where its last step is noised like any other.
    schedule, data, n = schedules.linear(50), oracles.Gaussian(0.6, 0.05), 40_000
    nodes = np.arange(50, -1, -1)
    mean, spread = oracles.ancestral_law(schedule.betas, nodes, 0.6, 0.05, variance)
    x = samplers.initial_noise(jax.random.key(0), schedule, [1.0], (n, 1))
    # The noise left out at this seam would shrink the final variance by more than the bound.
    for half in (nodes[:46], nodes[45:]):
        x = samplers.ancestral(
            data.denoiser(schedule),
            schedule,
            half / 50,
            jax.random.key(half[0]),
            x,
            variance=variance,
        )
    out = np.asarray(x)
    assert abs(out.mean() - mean) < 4 * np.sqrt(spread / n)
    assert abs(out.var() / spread - 1) < 4 * np.sqrt(2 / n)
