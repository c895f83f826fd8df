"""The variance of the reverse step at the ends of a path, where its logarithm has no value."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax import samplers
from ddpm_jax.diffusion import schedules, variances
from ddpm_jax.diffusion.prediction import Denoised

# Flow up to u = 0.4, where it stands still for t in [0.4, 0.8], and on from there.
STILL = schedules.Schedule(
    alpha=lambda t: 1 - jnp.minimum(t, 0.4) - jnp.maximum(t - 0.8, 0),
    sigma=lambda t: jnp.minimum(t, 0.4) + jnp.maximum(t - 0.8, 0),
    network_time=lambda t: t,
)


@pytest.mark.parametrize("name", ["fixed_small", "fixed_large"])
def test_a_last_step_before_which_the_path_stands_still_has_the_variance_of_its_own(name):
    # From 2t = 0.8 to t = 0.4 nothing is noised: beta-tilde is 0 there. beta of the step from
    # t = 0.4 to 0 is sigma² = 0.16.
    found = variances.log_variance(name, STILL, jnp.float32(0), jnp.float32(0.4), jnp.ones((2, 3)))
    np.testing.assert_allclose(np.exp(found), 0.16, rtol=1e-5)


def test_where_the_step_before_is_noised_its_posterior_variance_is_taken():
    # Ho et al. 2020: beta-tilde_2 = (1 - alpha_bar_1) / (1 - alpha_bar_2) beta_2.
    schedule = schedules.linear(10, 0.1, 0.3)
    bars = oracles.exact_alphas_cumprod(schedule.betas)
    expected = (1 - bars[1]) / (1 - bars[2]) * schedule.betas[1]
    small = variances.log_small(schedule, jnp.float32(0), jnp.float32(0.1))
    np.testing.assert_allclose(np.exp(small), float(expected), rtol=1e-5)
    # A grid of one step has none before it: beta itself.
    small = variances.log_small(schedule, jnp.float32(0), jnp.float32(1.0))
    np.testing.assert_allclose(np.exp(small), float(1 - bars[-1]), rtol=1e-5)


@pytest.mark.parametrize("fraction", [-1.0, 0.0, 1.0])
def test_ancestral_sampling_stays_finite_on_such_a_path(fraction):
    data = oracles.Gaussian(0.3, 0.5)

    def denoise(xt, t):
        x0, eps, _ = data.denoiser(STILL)(xt, t)
        return Denoised(x0, eps, jnp.full_like(xt, fraction))

    x = jax.random.normal(jax.random.key(0), (4, 2))
    for variance in variances.VARIANCES:
        out = samplers.ancestral(
            denoise, STILL, [1.0, 0.4, 0.0], jax.random.key(1), x, variance=variance
        )
        assert np.isfinite(out).all(), variance
