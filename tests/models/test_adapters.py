"""Adapters: nothing at first, a product of two thin matrices afterwards, and of what fits alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.models import UNet, adapters
from ddpm_jax.models.adapters import Adapted

UNET = UNet(
    block_channels=(8, 16), num_blocks=1, attention_levels=(1,), num_groups=4, out_channels=3
)
XT, TIME = jnp.ones((2, 8, 8, 3)), jnp.array([3.0, 900.0])


def _shaken(tree):
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return structure.unflatten(
        [
            leaf + 0.1 * jax.random.normal(key, leaf.shape)
            for leaf, key in zip(leaves, keys, strict=True)
        ]
    )


def test_new_adapters_change_no_bit():
    adapted = Adapted(UNET, rank=2, alpha=4.0, targets=("*/query", "*/conv_0"))
    variables = adapted.init(jax.random.key(0), XT, TIME)
    own = {name: tree for name, tree in variables["params"].items() if name != "lora"}
    np.testing.assert_array_equal(
        adapted.apply(variables, XT, TIME), UNET.apply({"params": own}, XT, TIME)
    )
    # Not because they do nothing: the gradient reaches them.
    grads = jax.grad(lambda p: (adapted.apply({"params": p}, XT, TIME) ** 2).sum())(
        {**_shaken(own), "lora": variables["params"]["lora"]}
    )["lora"]
    assert all(
        np.abs(g["up"]).max() > 0 for g in jax.tree.leaves(grads, is_leaf=adapters.is_adapter)
    )


def test_a_layer_is_its_own_output_and_that_of_the_two_thin_ones():
    x = jax.random.normal(jax.random.key(2), (5, 8, 8, 6))
    kernel = jax.random.normal(jax.random.key(3), (3, 3, 6, 4))
    down = jax.random.normal(jax.random.key(4), (3, 3, 6, 2))
    up = jax.random.normal(jax.random.key(5), (2, 4))

    def convolved(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    params = {"conv": {"kernel": kernel}, "lora": {"conv": {"down": down, "up": up}}}
    both = convolved(x, adapters.merged(params, 1.5)["conv"]["kernel"])
    beside = convolved(x, kernel) + 1.5 * (convolved(x, down) @ up)
    np.testing.assert_allclose(both, beside, atol=1e-6 * float(np.std(beside)) * 10)


def test_a_pattern_that_fits_nothing_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="'\\*/queri' fits no layer with a kernel; the nearest is"):
        Adapted(UNET, 2, 2.0, ("*/queri",)).init(jax.random.key(0), XT, TIME)
    with pytest.raises(ValueError, match="rank=0"):
        Adapted(UNET, 0, 2.0, ("*/query",)).init(jax.random.key(0), XT, TIME)
