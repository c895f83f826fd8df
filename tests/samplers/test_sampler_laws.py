"""The law of what samplers draw: on Gaussian data exactly, on a mixture by its moments."""

import numpy as np
import oracles
import pytest
from conformance import laws, problems

from ddpm_jax import samplers
from ddpm_jax.diffusion import schedules
from ddpm_jax.samplers import grids


@pytest.mark.wide(7)
@pytest.mark.parametrize("name", [name for name in laws.NOISY if name != laws.SIGN_ERROR])
def test_the_variance_tends_to_the_datas_at_the_order_of_the_theory(name):
    noisy = laws.NOISY[name]
    means, variances = zip(*(laws.bias(noisy.sampler, "vp", n) for n in (64, 128)), strict=True)
    assert np.log2(variances[0] / variances[1]) > noisy.order - 0.15
    # Every one of these keeps the mean.
    assert max(means) < 1e-12


def test_the_published_sde_of_order_3_falls_short_of_2():
    # diffusers' last term has the wrong sign there.
    sampler = laws.NOISY[laws.SIGN_ERROR].sampler
    variances = [laws.bias(sampler, "vp", n)[1] for n in (64, 128)]
    assert np.log2(variances[0] / variances[1]) < 1.5


@pytest.mark.wide(5)
@pytest.mark.parametrize("name", laws.NOISY)
def test_draws_follow_the_exact_law_of_the_sampler(name):
    schedule, sampler = problems.PATHS["vp"], laws.NOISY[name].sampler
    times = grids.uniform(schedule, 15)
    start = laws.Law(0.0, float(schedule.values(np.array([1.0]))[1][0]) ** 2)
    law = laws.linear_map(sampler, schedule, times).of(start)
    samples = laws.drawn(sampler, laws.DATA, schedule, times, (100_000, 1))
    assert np.abs(laws.scores(samples, law)).max() < laws.Z_BOUND


@pytest.mark.parametrize("fixed", ["fixed_small", "fixed_large"])
@pytest.mark.wide(2)
def test_the_linear_map_of_ancestral_sampling_is_the_textbooks(fixed):
    # The textbook's recursion in beta and alpha_bar shares no code with the package.
    schedule = schedules.linear(100)
    nodes = np.arange(100, -1, -4)
    law = laws.linear_map(laws.NOISY[f"ancestral, {fixed}"].sampler, schedule, nodes / 100)
    start = float(1 - oracles.exact_alphas_cumprod(schedule.betas)[100])
    expected = oracles.ancestral_law(schedule.betas, nodes, 0.6, 0.05, fixed)
    np.testing.assert_allclose(law.of(laws.Law(0.0, start)), expected, rtol=1e-10)


@pytest.mark.wide(8)
@pytest.mark.parametrize("path", ["vp", "flow", "edm"])
@pytest.mark.parametrize("name", laws.EXACT_ON_A_POINT)
def test_on_a_point_mass_every_solver_stays_on_the_exact_flow(name, path):
    assert laws.distance_from_the_flow_of_a_point(laws.EXACT_ON_A_POINT[name], path) < 1e-12


@pytest.mark.wide(3)
def test_on_a_mixture_modes_mean_and_covariance_are_the_datas():
    for check in laws.mixture_checks(samplers.ancestral, num_steps=200, count=100_000):
        assert abs(check.measured - check.truth) < check.bound, check


@pytest.mark.parametrize("step_size", [0.3, 1.0])
@pytest.mark.wide(2)
def test_langevin_ends_in_the_variance_of_unadjusted_langevin(step_size):
    for z in laws.langevin_scores(step_size, count=100_000):
        assert abs(z) < laws.Z_BOUND
