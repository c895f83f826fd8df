"""Rematerialisation: what is kept falls, and nothing else changes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax._src.ad_checkpoint import saved_residuals
from random_networks import random_params
from small_networks import LEVELS, NETWORKS, TIME, XT, changed

from configs import adm64
from ddpm_jax.build import networks
from ddpm_jax.config import config_files
from ddpm_jax.models import DiT, UNet
from ddpm_jax.models.remat import RECOMPUTED
from ddpm_jax.training.inspection import residual_bytes


def shapes_of(module, xt):
    return jax.eval_shape(module.init, jax.random.key(0), xt, jnp.zeros(len(xt)))["params"]


def loss_of(module):
    """(params, xt, time) -> a scalar, with dropout."""

    def loss(params, xt, time):
        rngs = {"dropout": jax.random.key(7)}
        return (module.apply({"params": params}, xt, time, train=True, rngs=rngs) ** 2).mean()

    return loss


@pytest.mark.parametrize("mode", ["block", "full"])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.wide(12)
def test_gradients_and_draws_stay(name, mode):
    """In float64, where rounding hides little: angles of the time are float32 there too."""
    with jax.enable_x64(True):
        modules = [changed(NETWORKS[name], remat=one, dtype=jnp.float64) for one in ("none", mode)]
        xt = jnp.asarray(XT, jnp.float64)
        params = jax.tree.map(jnp.float64, random_params(modules[0], xt, TIME))
        (value, gradient), (other_value, other) = (
            jax.jit(jax.value_and_grad(loss_of(one)))(params, xt, TIME) for one in modules
        )
        np.testing.assert_allclose(other_value, value, rtol=1e-6)
        difference = optax.tree.norm(jax.tree.map(jnp.subtract, other, gradient))
        assert difference < 1e-6 * optax.tree.norm(gradient)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.wide(3)
def test_parameters_stay_where_they_are(name):
    shapes = [shapes_of(changed(NETWORKS[name], remat=mode), XT) for mode in RECOMPUTED]
    assert shapes[1:] == shapes[:-1]


def test_initial_parameters_stay():
    drawn = [
        jax.jit(changed(NETWORKS["dit"], remat=mode).init)(jax.random.key(0, impl="rbg"), XT, TIME)
        for mode in ("none", "full")
    ]
    jax.tree.map(np.testing.assert_array_equal, *drawn)


def test_bytes_are_those_that_jax_lists():
    module = changed(NETWORKS["dit"], remat="block")
    params, loss = shapes_of(module, XT), loss_of(module)
    listed = saved_residuals(lambda p: loss(p, XT, TIME), params)
    kept = [aval for aval, source in listed if "argument" not in source and "const" not in source]
    expected = sum(aval.size * aval.dtype.itemsize for aval in kept)
    assert residual_bytes(loss, params, XT, TIME) == expected


def test_a_chain_of_layers_keeps_what_is_known():
    """sin(sin(sin(x))): its gradient needs three cosines; recomputed, nothing but x."""
    x = jax.ShapeDtypeStruct((1000,), jnp.float32)

    def chain(x):
        return functools.reduce(lambda y, _: jnp.sin(y), range(3), x)

    assert residual_bytes(chain, x) == 3 * 4000
    assert residual_bytes(jax.checkpoint(chain), x) == 0
    # Two chains, one after the other: what is between them.
    assert residual_bytes(lambda x: jax.checkpoint(chain)(jax.checkpoint(chain)(x)), x) == 4000


def of_adm64(mode):
    config = config_files.override(adm64.get_config(), {"model": {"remat": mode}})
    return networks.DENOISERS["unet"](config, {})


def of_dit_b2(mode):
    return DiT(width=768, depth=12, num_heads=12, num_classes=1000, remat=mode)


@pytest.mark.parametrize("mode", ["block", "full"])
@pytest.mark.parametrize(("make", "size"), [(of_adm64, 64), (of_dit_b2, 32)])
@pytest.mark.wide(4)
def test_published_networks_keep_a_fraction(make, size, mode):
    """The claim is 40% less; docs/results.md has what it is."""
    xt = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    params = shapes_of(make("none"), xt)
    shapes = (params, xt, jax.ShapeDtypeStruct((1,), jnp.float32))
    plain, spare = (residual_bytes(loss_of(make(m)), *shapes) for m in ("none", mode))
    assert spare < 0.6 * plain
    assert spare < 0.1 * plain


def test_an_unknown_mode_is_named():
    with pytest.raises(ValueError, match="need remat to be one of none, block, full, got 'some'"):
        shapes_of(UNet(**LEVELS, remat="some"), XT)
    assert [*RECOMPUTED] == ["none", "block", "full"]
