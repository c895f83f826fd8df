"""The gradient of a kernel by rows: equal to the plain one's, and where it is used."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from random_networks import random_params
from tiny_runs import tiny_config

from ddpm_jax import experiment
from ddpm_jax.measures import model_flop
from ddpm_jax.models import Classifier, UNet, WithSchedule
from ddpm_jax.models.convolution import convolution, enlarging
from ddpm_jax.models.layers import upsample_nearest

# (batch, height, width, channels), then what nn.Conv takes.
TAKEN = {
    "more_out": ((2, 5, 7, 3), {"features": 6, "kernel_size": (3, 3)}),
    "more_in": ((2, 5, 7, 6), {"features": 3, "kernel_size": (3, 3)}),
    "batch_1": ((1, 4, 4, 1), {"features": 1, "kernel_size": (3, 3)}),
    "one_pixel": ((3, 1, 1, 2), {"features": 5, "kernel_size": (3, 3)}),
    "kernel_5": ((2, 6, 4, 4), {"features": 4, "kernel_size": (5, 5)}),
    "even_kernel": ((2, 6, 5, 3), {"features": 2, "kernel_size": (2, 4)}),
    "valid": ((2, 6, 5, 5), {"features": 2, "kernel_size": (3, 3), "padding": "VALID"}),
    "uneven": (
        (2, 6, 5, 3),
        {"features": 4, "kernel_size": (3, 3), "padding": ((0, 1), (2, 0))},
    ),
}
NOT_TAKEN = {
    "strides": ((2, 6, 6, 3), {"features": 4, "kernel_size": (3, 3), "strides": (2, 2)}),
    "groups": ((2, 6, 6, 4), {"features": 4, "kernel_size": (3, 3), "feature_group_count": 2}),
    "dilated": ((2, 6, 6, 3), {"features": 4, "kernel_size": (3, 3), "kernel_dilation": (2, 2)}),
    "kernel_1": ((2, 6, 6, 3), {"features": 4, "kernel_size": (1, 1)}),
    "padded_more": ((2, 4, 4, 3), {"features": 2, "kernel_size": (3, 3), "padding": 3}),
    "a_line": ((2, 6, 3), {"features": 4, "kernel_size": (3,)}),
}
NETWORK = UNet(block_channels=(8, 8), num_blocks=1, attention_levels=(), num_groups=4)


def gradients(form, shape, options, dtype):
    """Of a nonlinear function of a convolution, by x and parameters; and whether it is by rows."""
    layer = nn.Conv(
        **options,
        dtype=dtype,
        param_dtype=dtype,
        conv_general_dilated_cls=functools.partial(convolution, form),
    )
    x = jax.random.normal(jax.random.key(0), shape, dtype)
    by_rows = "custom_vjp" in str(jax.make_jaxpr(layer.init)(jax.random.key(1), x))

    def both(x):
        params = layer.init(jax.random.key(1), x)
        return jax.grad(lambda x, p: jnp.sin(layer.apply(p, x)).sum(), (0, 1))(x, params)

    return jax.jit(both)(x), by_rows


CASES = [(name, jnp.float64, 1e-10) for name in (*TAKEN, *NOT_TAKEN)]
CASES += [(name, jnp.float32, 1e-5) for name in ("more_out", "more_in")]


@pytest.mark.parametrize(("name", "dtype", "tolerance"), CASES)
def test_gradients_are_those_of_the_plain_form(name, dtype, tolerance):
    with jax.enable_x64(dtype == jnp.float64):
        rows, by_rows = gradients("rows", *{**TAKEN, **NOT_TAKEN}[name], dtype)
        plain, _ = gradients("plain", *{**TAKEN, **NOT_TAKEN}[name], dtype)
        assert by_rows == (name in TAKEN)
        for one, other in zip(*map(jax.tree.leaves, (rows, plain)), strict=True):
            one, other = np.asarray(one), np.asarray(other)
            np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())


@pytest.mark.parametrize("form", ["plain", "rows"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 1, 2, 3)])
def test_an_enlarged_image_is_convolved_from_the_small_one(form, shape):
    """In value and in both gradients."""

    def function(convolve, enlarge):
        return lambda x, kernel: jnp.sin(
            convolve(
                enlarge(x),
                kernel,
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                precision=None,
            )
        )

    def results(function, x, kernel):
        found, back = jax.vjp(function, x, kernel)
        return found, back(found)

    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), shape, jnp.float64)
        kernel = jax.random.normal(jax.random.key(1), (3, 3, shape[-1], 2), jnp.float64)
        small = jax.jit(lambda: results(function(enlarging(form), lambda x: x), x, kernel))()
        large = jax.jit(
            lambda: results(function(jax.lax.conv_general_dilated, upsample_nearest), x, kernel)
        )()
        for one, other in zip(*map(jax.tree.leaves, (small, large)), strict=True):
            np.testing.assert_allclose(np.asarray(one), np.asarray(other), atol=1e-12)


def test_half_precision_is_computed_plainly():
    assert not gradients("rows", *TAKEN["more_in"], jnp.bfloat16)[1]


def test_gradients_are_torchs():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, kernel, g = (
        rng.standard_normal(shape) for shape in ((2, 5, 7, 6), (3, 3, 6, 4), (2, 5, 7, 4))
    )
    first = (torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(g).permute(0, 3, 1, 2))
    expected = torch.nn.grad.conv2d_weight(first[0], (4, 6, 3, 3), first[1], padding=1)
    convolved = functools.partial(
        convolution("rows"),
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=None,
    )
    with jax.enable_x64(True):
        _, back = jax.vjp(lambda kernel: convolved(jnp.asarray(x), kernel), jnp.asarray(kernel))
        (found,) = back(jnp.asarray(g))
    np.testing.assert_allclose(found, expected.permute(2, 3, 1, 0).numpy(), rtol=1e-10)


def test_an_unknown_form_is_named():
    with pytest.raises(ValueError, match="kernel gradient of plain or rows, got 'columns'"):
        convolution("columns")


@pytest.mark.wide(3)
def test_a_batch_on_eight_devices_gives_the_same_and_is_not_gathered():
    params = {"params": random_params(NETWORK, jnp.zeros((1, 8, 8, 3)), jnp.zeros(1))}
    x = jax.random.normal(jax.random.key(1), (8, 8, 8, 3))

    def gradient(network):
        loss = lambda p, x: jnp.sin(network.apply(p, x, jnp.zeros(len(x)))).sum()  # noqa: E731
        return jax.grad(loss)

    mesh = jax.make_mesh((8,), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    step = jax.jit(
        gradient(NETWORK.with_kernel_gradient("rows")),
        in_shardings=(whole, split),
        out_shardings=whole,
    )
    compiled = step.lower(params, x).compile()
    assert "all-gather" not in compiled.as_text()
    found = compiled(jax.device_put(params, whole), jax.device_put(x, split))
    expected = jax.jit(gradient(NETWORK))(params, x)
    largest = max(abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * largest)


@pytest.mark.parametrize(
    "network",
    [
        NETWORK,
        WithSchedule(NETWORK),
        Classifier(block_channels=(8,), num_blocks=1, num_groups=4, head_dim=4, num_classes=2),
    ],
    ids=["unet", "learned_schedule", "classifier"],
)
def test_parameters_and_outputs_are_those_of_the_plain_form(network):
    rows, key, x = network.with_kernel_gradient("rows"), jax.random.key(0), jnp.zeros((2, 8, 8, 3))
    assert jax.eval_shape(rows.init, key, x, jnp.zeros(2)) == jax.eval_shape(
        network.init, key, x, jnp.zeros(2)
    )
    params = jax.eval_shape(network.init, key, x, jnp.zeros(2))
    assert "custom_vjp" in str(jax.make_jaxpr(rows.apply)(params, x, jnp.zeros(2)))


@pytest.mark.parametrize("resample_blocks", [False, True])
def test_its_flop_are_those_of_the_plain_form(resample_blocks):
    network = NETWORK.clone(resample_blocks=resample_blocks)
    args = jnp.zeros((2, 8, 12, 3)), jnp.zeros(2)
    params = jax.eval_shape(network.init, jax.random.key(0), *args)
    plain, rows = (
        model_flop.of_function(network.with_kernel_gradient(form).apply, params, *args)
        for form in ("plain", "rows")
    )
    assert plain == rows


def own_loss(network, schedule, x0, t, eps):
    """One of the user's own, which differentiates forwards, as likelihoods and MeanFlow do."""
    _, slope = jax.jvp(lambda t: network(x0, t), (t,), (jnp.ones_like(t),))
    return ((slope - eps) ** 2).mean(axis=(1, 2, 3))


@pytest.mark.parametrize(
    "own", [{}, {"test_convolution:own_loss": own_loss}], ids=["built_in", "own"]
)
def test_a_step_on_cpus_uses_it_and_nothing_else_does(own):
    diffusion = {"loss": next(iter(own), "simple")}
    built = experiment.build(tiny_config(diffusion=diffusion), own=own)
    state, batch = built.state_shapes(), built.batch_shapes()
    # A form without a forward derivative would end the trace of one's own loss.
    step = str(
        jax.make_jaxpr(built.objective, static_argnums=3)(
            state.params, batch, jax.random.key(0), True, {}
        )
    )
    assert ("custom_vjp" in step) == (not own)

    def slope(params, x, t):
        def velocity(x, t):
            return built.model.apply({"params": params}, x, t)

        return jax.jvp(velocity, (x, t), (x, t))

    jax.eval_shape(slope, state.params, batch["x0"], jnp.zeros(len(batch["x0"])))
