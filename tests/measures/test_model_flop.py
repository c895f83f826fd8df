"""Model FLOP: against counts that arrays of ones make, XLA's own analysis, and published figures.

Nothing is computed of the networks: shapes are traced, and at most lowered.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from tiny_runs import brief_config

from configs import cifar10
from ddpm_jax import experiment
from ddpm_jax.build import kinds
from ddpm_jax.config import config_files
from ddpm_jax.measures import model_flop
from ddpm_jax.models import DiT

CONVOLUTIONS = {
    "padded": ((2, 7, 9, 3), (3, 3, 3, 4), {"padding": "SAME"}),
    "strided": ((2, 8, 8, 3), (3, 3, 3, 4), {"padding": "SAME", "window_strides": (2, 2)}),
    "one side": ((1, 8, 6, 2), (3, 5, 2, 4), {"padding": ((0, 1), (3, 0))}),
    "cut": ((1, 9, 9, 2), (3, 3, 2, 4), {"padding": ((-2, 1), (1, -1))}),
    "dilated kernel": ((1, 9, 9, 2), (3, 3, 2, 2), {"padding": "SAME", "rhs_dilation": (2, 3)}),
    "dilated image": (
        (1, 5, 6, 2),
        (4, 4, 2, 3),
        {"padding": ((2, 2), (1, 3)), "lhs_dilation": (2, 3)},
    ),
    "grouped": ((2, 6, 6, 6), (3, 3, 2, 9), {"padding": "SAME", "feature_group_count": 3}),
    "batch groups": ((6, 6, 6, 2), (3, 3, 2, 6), {"padding": "SAME", "batch_group_count": 3}),
}


def convolution(options):
    options = {"window_strides": (1, 1)} | options
    numbers = ("NHWC", "HWIO", "NHWC")
    return lambda x, k: lax.conv_general_dilated(x, k, dimension_numbers=numbers, **options)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolutions_taps_on_padding_are_no_flop(name):
    image, kernel, options = CONVOLUTIONS[name]
    conv = convolution(options)
    # Of ones, each multiplication adds 1 to the sum of the output.
    multiplications = conv(jnp.ones(image), jnp.ones(kernel)).sum()
    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in (image, kernel)]
    assert model_flop.of_function(conv, *shapes) == 2 * multiplications


def test_the_layout_of_a_convolution_does_not_matter():
    shapes = [(2, 7, 9, 3), (3, 3, 3, 4)]

    def transposed(x, k):
        x, k = x.transpose(3, 1, 2, 0), k.transpose(3, 0, 2, 1)
        return lax.conv_general_dilated(
            x, k, (1, 2), "SAME", dimension_numbers=("CHWN", "OHIW", "NCHW")
        )

    plain = convolution({"padding": "SAME", "window_strides": (1, 2)})
    shaped = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    counts = {model_flop.of_function(f, *shaped) for f in (plain, transposed)}
    assert len(counts) == 1
    assert counts.pop() > 0


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("mk,kn->mn", [(3, 5), (5, 7)]),
        ("bhtd,bhsd->bhts", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("abc,cbd->ad", [(2, 3, 4), (4, 3, 5)]),
    ],
)
def test_a_matrix_products_flop_are_those_of_its_sum(equation, shapes):
    def product(*arrays):
        return jnp.einsum(equation, *arrays)

    multiplications = product(*[jnp.ones(shape) for shape in shapes]).sum()
    shaped = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    assert model_flop.of_function(product, *shaped) == 2 * multiplications


def test_what_is_called_is_counted_as_often_as_it_runs():
    square = jax.ShapeDtypeStruct((4, 4), np.float32)
    once = 2 * 4**3

    @jax.custom_vjp
    def own(x):
        return x @ x

    own.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x.T + x.T @ g,))
    cases = {
        jax.jit(lambda x: x @ x): 1,
        jax.checkpoint(lambda x: x @ x): 1,
        own: 1,
        lambda x: lax.scan(lambda c, _: (c @ c, None), x, None, length=5)[0]: 5,
        lambda x: lax.cond(x[0, 0] > 0, lambda y: y @ y @ y, lambda y: y @ y, x): 2,
        lambda x: lax.map(lambda row: x @ (x @ row), x).T @ x: 4 * 2 / 4 + 1,
        lambda x: jax.vmap(lambda row: x @ row)(x): 1,
    }
    for function, times in cases.items():
        assert model_flop.of_function(function, square) == times * once
    # What remat computes again is in the gradient's program; the model's own forward pass has not.
    gradient = jax.grad(lambda x: jax.checkpoint(lambda y: jnp.sin(y @ y))(x).sum())
    assert model_flop.of_function(gradient, square) == 4 * once


def analysis(function, *shapes):
    """XLA's count, before its compiler: which, too, leaves out taps on padding."""
    return jax.jit(function).lower(*shapes).cost_analysis()["flops"]


def network(module, image, batch=2):
    """The forward pass of a network, and the shapes of what it is called with."""
    xt = jax.ShapeDtypeStruct((batch, *image), np.float32)
    time = jax.ShapeDtypeStruct((batch,), np.float32)
    label = jax.ShapeDtypeStruct((batch,), np.int32) if module.num_classes else None
    variables = jax.eval_shape(module.init, jax.random.key(0), xt, time, label)
    return module.apply, (variables, xt, time, label)


def test_the_cifar_unet_agrees_with_the_compilers_analysis():
    config = cifar10.get_config()
    module = kinds.KINDS[config.kind].network(config, {})
    apply, shapes = network(module, (32, 32, 3))
    counted = model_flop.of_function(apply, *shapes)
    assert counted == pytest.approx(analysis(apply, *shapes), rel=0.05)
    # Fang et al. 2023, "Structural pruning for diffusion models", table 1: 6.1 G multiplications
    # for one image, with those on padding: of a 3x3 kernel, (1 - 2/(3 n))^2 are none on n x n.
    assert counted / 2 / 2 == pytest.approx(6.1e9, rel=0.1)


def test_dit_b_2_agrees_with_the_compilers_analysis_and_its_paper():
    module = DiT(width=768, depth=12, num_heads=12, num_classes=1000)
    apply, shapes = network(module, (32, 32, 4))
    counted = model_flop.of_function(apply, *shapes)
    assert counted == pytest.approx(analysis(apply, *shapes), rel=0.05)
    # Peebles & Xie 2023, table 4: 23.01 G multiplications and additions, counted as one, an image.
    assert counted / 2 / 2 == pytest.approx(23.01e9, rel=0.02)


def test_a_step_counts_three_forward_passes_of_the_whole_batch():
    built = experiment.build(brief_config())
    apply, shapes = network(built.model, (8, 8, 1), batch=8)
    assert model_flop.forward(built) == model_flop.of_function(apply, *shapes)
    assert model_flop.of_step(built) == 3 * model_flop.forward(built)
    larger = config_files.override(brief_config(), {"data": {"batch_size": 16}})
    assert model_flop.of_step(experiment.build(larger)) == 2 * model_flop.of_step(built)
