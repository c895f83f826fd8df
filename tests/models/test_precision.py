"""bfloat16: what stays in float32, how far it may be from float32, and that it trains as well."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from random_networks import random_params
from small_networks import NETWORKS, TIME, XT, changed
from tiny_runs import tiny_config

from ddpm_jax import experiment
from ddpm_jax.data import evaluation_batches
from ddpm_jax.diffusion import schedules
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import attempt
from ddpm_jax.runtime import sharding

HALF = jnp.bfloat16


def relative(one, other):
    return np.linalg.norm(np.asarray(one) - np.asarray(other)) / np.linalg.norm(other)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.wide(3)
def test_the_error_is_bfloat16_s_own(name):
    """That of rounding parameters and images alone, all else in float32, or a few times as much.

    Over many images: the last rounding of a single number can be the largest.
    """
    full, half = (changed(NETWORKS[name], dtype=dtype) for dtype in (jnp.float32, HALF))
    params = random_params(full, XT, TIME)
    rng = np.random.default_rng(1)
    xt = rng.standard_normal((16, *XT.shape[1:])).astype(np.float32)
    time = rng.uniform(0, 999, 16).astype(np.float32)
    rounded, images = jax.tree.map(lambda x: jnp.asarray(x, HALF).astype(jnp.float32), (params, xt))
    apply = jax.jit(full.apply)
    expected = apply({"params": params}, xt, time)
    own = relative(apply({"params": rounded}, images, time), expected)
    y = jax.jit(half.apply)({"params": params}, xt, time)
    assert y.dtype == jnp.float32
    assert 2.0**-10 < own < 0.02
    assert own < relative(y, expected) < 5 * own


def equations(jaxpr):
    """Those of a jaxpr, and of those within."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner)


# Of a softmax, a norm and a loss; what swish and gelu are made of is none of them.
OF_STATISTICS = {"exp", "rsqrt", "sqrt", "log", "reduce_max", "reduce_sum", "div"}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.wide(2)
def test_statistics_and_softmax_are_float32(name):
    module = changed(NETWORKS[name], dtype=HALF)
    params = jax.eval_shape(module.init, jax.random.key(0), XT, TIME)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    jaxpr = jax.make_jaxpr(module.apply)({"params": params}, XT, TIME)
    seen = [
        (equation.primitive.name, variable.aval.dtype)
        for equation in equations(jaxpr.jaxpr)
        for variable in equation.invars
        if equation.primitive.name in OF_STATISTICS
    ]
    assert {name for name, _ in seen} >= {"exp", "rsqrt", "reduce_sum"}
    assert [(name, dtype) for name, dtype in seen if dtype == HALF] == []


# The variance is kept, or explodes to exp(20): images of 2e4, as no preconditioning scales them.
PATHS = [
    schedules.linear_gamma(gamma_0=-20.0, gamma_1=20.0),
    schedules.edm(sigma_min=float(np.exp(-10)), sigma_max=float(np.exp(10))),
]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.wide(6)
def test_nothing_overflows_from_log_snr_20_to_minus_20(name):
    module = changed(NETWORKS[name], dtype=HALF)
    params = random_params(module, XT, TIME)
    images, times = [], []
    for schedule in PATHS:
        t = schedules.time_of_log_snr(schedule, jnp.linspace(-20.0, 20.0, 9))
        alpha, sigma = (f(t)[:, None, None, None] for f in (schedule.alpha, schedule.sigma))
        np.testing.assert_allclose(2 * np.log(alpha / sigma).ravel()[::8], [-20, 20], atol=0.1)
        images.append(alpha * XT[:1] + sigma * XT[1:])
        times.append(schedule.network_time(t))
    images, times = jnp.concatenate(images), jnp.concatenate(times)
    assert jnp.abs(images).max() > 1e4

    def loss(params):
        out = module.apply({"params": params}, images, times)
        return (out**2).mean(), out

    (value, out), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    for leaf in jax.tree.leaves((value, out, gradient)):
        assert leaf.dtype == jnp.float32
        assert jnp.isfinite(leaf).all()


def held_out_loss(dtype, model, num_steps=200):
    """Of digits after so many steps, on fixed draws; all that is kept is float32."""
    config = tiny_config(model=model | {"dtype": dtype}, data={"batch_size": 32})
    built = experiment.build(config)
    place = sharding.batch_sharding(built.mesh)
    batches = attempt.training_batches(built, built.source("train"))
    state, train_step = built.init_state(), built.train_step()
    for k in range(num_steps):
        state, metrics = train_step(state, sharding.put_batch(batches.batch_at(k), place))
    kept = (state.params, state.ema, state.opt_state, metrics["loss"])
    floats = [one.dtype for one in jax.tree.leaves(kept) if jnp.issubdtype(one.dtype, jnp.floating)]
    assert {*floats} == {jnp.dtype("float32")}
    validate, key = built.validation_step(), jax.random.key(3)
    held_out = evaluation_batches(
        built.source("validation"), 32, 320, encode=built.codec.encode_batch
    )
    sums = [validate(state.params, sharding.put_batch(batch, place), key) for batch in held_out]
    total, count = (
        sum(float(one[name].sum()) for one in sums)
        for name in ("quarter_loss_sum", "quarter_count")
    )
    return total / count


def learns_as_well(model):
    full, half = (held_out_loss(dtype, model) for dtype in ("float32", "bfloat16"))
    assert full < 0.6  # 1 at first
    assert half != full
    assert abs(half / full - 1) < 0.03


# Two tests, so that they take turns.
@pytest.mark.wide(5)
def test_a_unet_learns_as_well():
    learns_as_well({})


@pytest.mark.wide(5)
def test_a_transformer_learns_as_well():
    learns_as_well({"name": "dit", "num_heads": 2, "patch_size": 2})


def test_float16_is_refused_by_name():
    with pytest.raises(UserError, match=r"config\.model\.dtype='float16': its grad.* set bfloat16"):
        experiment.build(tiny_config(model={"dtype": "float16"}))
    with pytest.raises(UserError, match=r"dtype='float8': need one of float32, bfloat16"):
        experiment.build(tiny_config(model={"dtype": "float8"}))
