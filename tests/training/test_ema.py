import math

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.training import ema


def averaged(decay, warmup, num_steps):
    """The average of parameters that are 1 (and 2) in each of so many steps, from 0 (and 5)."""
    average = {"a": jnp.zeros(3), "b": {"c": jnp.full((2, 2), 5.0)}}
    params = {"a": jnp.ones(3), "b": {"c": jnp.full((2, 2), 2.0)}}
    for step in range(num_steps):
        average = ema.update(average, params, ema.decay_at(jnp.int32(step), decay, warmup))
    return average


@pytest.mark.parametrize("num_steps", [1, 7, 200])
def test_constant_parameters_leave_decay_to_the_n_of_the_start(num_steps):
    average = averaged(0.98, False, num_steps)
    left = 0.98**num_steps
    np.testing.assert_allclose(average["a"], 1 - left, rtol=2e-5)
    np.testing.assert_allclose(average["b"]["c"], 2 + 3 * left, rtol=2e-5)


def test_warm_up_forgets_the_start_as_a_binomial():
    # prod over k < n of (1 + k) / (10 + k) = n! 9! / (n + 9)! = 1 / binomial(n + 9, 9)
    for num_steps in (1, 3, 10):
        left = 1 / math.comb(num_steps + 9, 9)
        average = averaged(0.9999, True, num_steps)
        np.testing.assert_allclose(average["a"], 1 - left, rtol=1e-6)


def test_warm_up_ends_at_the_decay():
    # (1 + k) / (10 + k) passes 0.9 at k = 80.
    decays = [float(ema.decay_at(jnp.int32(k), 0.9, True)) for k in (0, 8, 79, 81, 10_000)]
    np.testing.assert_allclose(decays, [0.1, 0.5, 80 / 89, 0.9, 0.9], rtol=1e-6)


def test_a_half_precision_average_stays_one():
    average = ema.update(jnp.zeros(2, jnp.bfloat16), jnp.ones(2, jnp.bfloat16), jnp.float32(0.5))
    assert average.dtype == jnp.bfloat16
    np.testing.assert_array_equal(average.astype(np.float32), 0.5)
