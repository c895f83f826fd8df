"""The diffusion transformer: published sizes, what adaLN-Zero promises, conditions, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_networks import random_params

from ddpm_jax.models import DiT
from ddpm_jax.models.dit import SIZES, positions

SMALL = {"width": 24, "depth": 2, "num_heads": 2, "out_channels": 3}
XT = np.random.default_rng(0).standard_normal((2, 8, 12, 3)).astype(np.float32)


# Parameters of the authors' code, its frozen positions (256 patches) included; millions: Table 4.
@pytest.mark.parametrize(
    ("size", "count", "millions"),
    [
        ("S", 32_963_360, (33, 33, 33)),
        ("B", 130_512_416, (130, 131, 131)),
        ("L", 458_102_816, (458, 458, 459)),
        ("XL", 675_129_632, (675, 675, 676)),
    ],
)
@pytest.mark.wide(4)
def test_published_numbers_of_parameters(size, count, millions):
    depth, width, heads = SIZES[size]
    for patch_size, million in zip((2, 4, 8), millions, strict=True):
        dit = DiT(
            patch_size=patch_size, depth=depth, width=width, num_heads=heads, num_classes=1000
        )
        shapes = jax.eval_shape(
            dit.init, jax.random.key(0), jnp.zeros((1, 32, 32, 4)), jnp.zeros(1), jnp.zeros(1, int)
        )
        total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        total += (32 // patch_size) ** 2 * width
        assert patch_size != 2 or total == count
        assert abs(total / 1e6 - million) < 1


@pytest.mark.wide(6)
def test_it_begins_as_zero_whatever_it_sees():
    dit = DiT(**SMALL, num_classes=4)
    label, time = jnp.array([0, 3]), jnp.array([1.0, 900.0])
    variables = dit.init(jax.random.key(0), XT, time, label)
    np.testing.assert_array_equal(dit.apply(variables, XT, time, label), 0)


def test_positions_are_all_different_and_rows_and_columns_are_told_apart():
    table = positions(3, 5, 24)
    assert table.shape == (15, 24)
    assert len(np.unique(table.round(6), axis=0)) == 15
    grid = table.reshape(3, 5, 24)
    assert (grid[:, :, :12] == grid[:1, :, :12]).all()  # of the column alone
    assert (grid[:, :, 12:] == grid[:, :1, 12:]).all()


def test_each_condition_counts_and_an_absent_one_is_the_null_value():
    dit = DiT(**SMALL, num_classes=4, attributes=(("colour", 3),), images=(("sketch", 1),))
    sketch = np.random.default_rng(1).standard_normal((2, 8, 12, 1)).astype(np.float32)
    whole = {"label": jnp.array([1, 2]), "colour": jnp.array([0, 2]), "sketch": sketch}
    time = jnp.array([3.0, 500.0])
    variables = {"params": random_params(dit, XT, time, whole)}
    output = dit.apply(variables, XT, time, whole)
    assert output.shape == XT.shape
    for name, absent in (("label", -1), ("colour", -1), ("sketch", 0)):
        without = {other: value for other, value in whole.items() if other != name}
        left_out = dit.apply(variables, XT, time, without)
        null = dit.apply(variables, XT, time, without | {name: jnp.full_like(whole[name], absent)})
        np.testing.assert_array_equal(left_out, null)
        assert np.abs(output - left_out).max() > 1e-3


def test_an_image_moved_by_patches_is_another_image():
    dit = DiT(**SMALL)
    variables = {"params": random_params(dit, XT, 3.0)}
    moved = dit.apply(variables, np.roll(XT, 2, axis=1), 3.0)
    assert np.abs(np.roll(moved, -2, axis=1) - dit.apply(variables, XT, 3.0)).max() > 1e-3


def test_a_batch_of_2_is_2_of_1():
    dit = DiT(**SMALL, num_classes=4)
    time, label = jnp.array([3.0, 500.0]), jnp.array([1, -1])
    variables = {"params": random_params(dit, XT, time, label)}
    both = dit.apply(variables, XT, time, label)
    for k in range(2):
        one = dit.apply(variables, XT[k : k + 1], time[k : k + 1], label[k : k + 1])
        np.testing.assert_allclose(one[0], both[k], atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "xt", "conditions", "message"),
    [
        ({"patch_size": 3}, XT, None, "8x12 is not divisible by patch_size=3"),
        ({"width": 22}, XT, None, "width=22"),
        ({}, XT[0], None, r"\[B, H, W, C\]"),
        ({}, XT, {"label": jnp.zeros(2, int)}, "not conditioned on label"),
        ({"num_classes": 2}, XT, {"label": jnp.zeros(2)}, "labels must be integers"),
        ({"images": (("mask", 1),)}, XT, {"mask": XT}, r"mask must be \(2, 8, 12, 1\)"),
    ],
)
def test_what_does_not_fit_is_refused(fields, xt, conditions, message):
    with pytest.raises(ValueError, match=message):
        DiT(**{**SMALL, **fields}).init(jax.random.key(0), xt, 1.0, conditions)
