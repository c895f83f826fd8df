"""The layers beside flax's own, and what half precision may cost."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.models.layers import GroupNorm


@pytest.mark.wide(7)
@pytest.mark.parametrize("shape", [(3, 8, 6, 12), (2, 5, 4), (1, 1, 1, 8)])
@pytest.mark.parametrize("num_groups", [1, 2, 4])
def test_group_norm_is_that_of_flax(shape, num_groups):
    x = 3 * jax.random.normal(jax.random.key(0), shape) + 1
    params = {
        "scale": jax.random.normal(jax.random.key(1), shape[-1:]),
        "bias": jax.random.normal(jax.random.key(2), shape[-1:]),
    }
    ours = GroupNorm(num_groups).apply({"params": params}, x)
    theirs = nn.GroupNorm(num_groups, epsilon=1e-6).apply({"params": params}, x)
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_group_norm_has_the_gradient_of_flax():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    weight = jax.random.normal(jax.random.key(1), x.shape)

    def gradients(norm):
        params = norm.init(jax.random.key(0), x)
        return jax.grad(lambda p, x: (weight * norm.apply(p, x)).sum(), (0, 1))(params, x)

    ours, theirs = gradients(GroupNorm(4)), gradients(nn.GroupNorm(4, epsilon=1e-6))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), ours, theirs)


def test_half_precision_keeps_the_statistics_in_single():
    # The sum of 4096 ones and the like is far outside bfloat16's eight bits.
    x = (1 + jax.random.normal(jax.random.key(0), (1, 64, 64, 2))).astype(jnp.bfloat16)
    norm = GroupNorm(1, dtype=jnp.bfloat16)
    y = norm.apply(norm.init(jax.random.key(0), x), x)
    assert y.dtype == jnp.bfloat16
    y = np.asarray(y, np.float64)
    assert abs(y.mean()) < 2e-3
    assert abs(y.std() - 1) < 2e-3


def test_a_constant_image_is_normalised_to_the_bias():
    x = jnp.full((1, 4, 4, 8), 1000.0)
    norm = GroupNorm(2)
    assert np.isfinite(norm.apply(norm.init(jax.random.key(0), x), x)).all()
