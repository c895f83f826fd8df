"""Forward-mode derivatives of every network, which likelihoods and flow maps need."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_networks import random_params
from small_networks import NETWORKS, TIME, XT, changed

from ddpm_jax.models.remat import RECOMPUTED


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.wide(6)
def test_a_tangent_is_the_central_difference(name):
    """In float64, along x_t, time and parameters at once."""
    with jax.enable_x64(True):
        module = changed(NETWORKS[name], dtype=jnp.float64)
        rng = np.random.default_rng(1)
        params = jax.tree.map(jnp.float64, random_params(module, XT, TIME))
        # Early times: the embedding's angles are float32, and large ones coarse.
        at = (params, jnp.asarray(XT, jnp.float64), jnp.array([0.5, 2.0]))
        along = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), at)

        def network(params, xt, time):
            return module.apply({"params": params}, xt, time)

        def compared(step):
            _, tangent = jax.jvp(network, at, along)
            ends = jax.vmap(
                lambda sign: network(*jax.tree.map(lambda a, b: a + sign * step * b, at, along))
            )(jnp.array([1.0, -1.0]))
            return tangent, (ends[0] - ends[1]) / (2 * step)

        tangent, difference = jax.jit(compared)(3e-4)
    scale = np.abs(tangent).max()
    assert scale > 1e-2
    np.testing.assert_allclose(tangent, difference, atol=2e-3 * scale)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mode", RECOMPUTED)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.wide(36)
def test_every_form_of_a_network_has_them(name, mode, dtype):
    """Tangents, those that `linearize` makes, and gradients of tangents, as they are trained on."""
    module = changed(NETWORKS[name], remat=mode, dtype=jnp.dtype(dtype))
    params = jax.eval_shape(module.init, jax.random.key(0), XT, TIME)["params"]

    def slope(params, xt, time):
        def along_time(xt, time):
            return module.apply({"params": params}, xt, time)

        value, linear = jax.linearize(along_time, xt, time)
        _, tangent = jax.jvp(along_time, (xt, time), (xt, jnp.ones_like(time)))
        return value, linear(xt, jnp.ones_like(time)), tangent

    value, *tangents = jax.eval_shape(slope, params, XT, TIME)
    for tangent in tangents:
        assert (tangent.shape, tangent.dtype) == (value.shape, value.dtype)
    loss = jax.grad(lambda params, *at: (slope(params, *at)[2] ** 2).mean())
    gradient = jax.eval_shape(loss, params, XT, TIME)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
