"""The U-Net of latent diffusion and its ControlNet by themselves: conditions, gradients, forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from random_networks import random_params

from ddpm_jax.models.controlnet import ControlNet
from ddpm_jax.models.unet_condition import UNet2DCondition

TINY = {
    "block_channels": (8, 16),
    "num_blocks": (1, 1),
    "down_depths": ((1,), ()),
    "num_heads": (2, 2),
    "only_tokens": (False, False),
    "tokens_channels": 12,
    "num_groups": 4,
}
UNET = UNet2DCondition(**TINY, up_depths=((1, 1), ()))
CONTROLNET = ControlNet(**TINY, hint_channels=(4, 8))
TIME = np.array([7.0, 300.0], np.float32)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


XT, TOKENS = normal(2, 6, 5, 4), normal(2, 3, 12, seed=1)
CONDITIONS = {"tokens": TOKENS}
CONTROL = normal(2, 12, 10, 3, seed=2)


def output(module, params, *args, **options):
    return jax.jit(lambda p, *args: module.apply({"params": p}, *args, **options))(params, *args)


@pytest.fixture(scope="module")
def params():
    return random_params(UNET, XT, TIME, CONDITIONS)


def loss_of(module):
    """(params, xt, time, conditions) -> a scalar, with dropout."""

    def loss(params, *args):
        rngs = {"dropout": jax.random.key(7)}
        return (module.apply({"params": params}, *args, train=True, rngs=rngs) ** 2).mean()

    return jax.jit(jax.value_and_grad(loss))


# With one of each kind of layer.
SLIM = UNET.clone(up_depths=((), ()), mid_depth=None)


def test_a_new_network_is_zero_and_a_new_control_changes_nothing():
    key = jax.random.key(0, impl="rbg")
    drawn = jax.jit(SLIM.init)(key, XT, TIME, CONDITIONS)["params"]
    plain = output(SLIM, drawn, XT, TIME, CONDITIONS)
    assert np.abs(plain).max() < 1e-3
    conditions = {**CONDITIONS, "control": CONTROL}
    network = CONTROLNET.clone(mid_depth=None)
    control = jax.jit(network.init)(key, XT, TIME, conditions)["params"]
    residuals = output(network, control, XT, TIME, conditions)
    assert len(residuals.down_residuals) == 4
    assert all(not np.any(one) for one in jax.tree.leaves(residuals))
    conditions = {**CONDITIONS, **residuals._asdict()}
    np.testing.assert_array_equal(output(SLIM, drawn, XT, TIME, conditions), plain)


@pytest.mark.parametrize("fields", [{"remat": "full"}, {"kernel_gradient": "rows"}], ids=str)
@pytest.mark.wide(2)
def test_gradients_reach_all_and_stay_in_every_form(fields):
    """In float64, whatever is computed again and however a kernel's gradient is computed."""
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.float64, random_params(SLIM, XT, TIME, CONDITIONS))
        at = (jnp.asarray(XT, jnp.float64), TIME, {"tokens": jnp.asarray(TOKENS, jnp.float64)})
        plain = SLIM.clone(dtype=jnp.float64, dropout=0.2)
        (value, gradient), (other_value, other) = (
            loss_of(module)(params, *at) for module in (plain, plain.clone(**fields))
        )
        assert all(leaf.any() for leaf in jax.tree.leaves(gradient))
        np.testing.assert_allclose(other_value, value, rtol=1e-6)
        difference = optax.tree.norm(jax.tree.map(jnp.subtract, other, gradient))
        assert difference < 1e-6 * optax.tree.norm(gradient)


def test_tangents_are_central_differences():
    with jax.enable_x64(True):
        module = SLIM.clone(dtype=jnp.float64)
        double = jax.tree.map(jnp.float64, random_params(SLIM, XT, TIME, CONDITIONS))
        at = (jnp.asarray(XT, jnp.float64), jnp.array([0.5, 2.0]), jnp.asarray(TOKENS, jnp.float64))
        along = jax.tree.map(lambda leaf: jnp.float64(normal(*leaf.shape, seed=3)), at)

        def network(xt, time, tokens):
            return module.apply({"params": double}, xt, time, {"tokens": tokens})

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


def test_half_precision_is_near_and_answers_in_float32():
    params = random_params(SLIM, XT, TIME, CONDITIONS)
    exact = np.asarray(output(SLIM, params, XT, TIME, CONDITIONS))
    held = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    half = output(SLIM.clone(dtype=jnp.bfloat16), held, XT, TIME, CONDITIONS)
    assert half.dtype == jnp.float32
    assert 1e-4 < np.abs(half - exact).max() / exact.std() < 0.2


def test_an_example_knows_no_other_and_time_may_be_one_number(params):
    both = np.asarray(output(UNET, params, XT, TIME, CONDITIONS))
    alone = output(UNET, params, XT[1:], TIME[1], {"tokens": TOKENS[1:]})
    np.testing.assert_allclose(alone, both[1:], atol=1e-5 * both.std())


def residuals(**changes):
    """Of a bottom and its four skips, two of them before the resolution halves."""
    shapes = [(2, 6, 5, 8)] * 2 + [(2, 3, 3, 8), (2, 3, 3, 16)]
    down = [np.zeros(shape, np.float32) for shape in shapes]
    return {"down_residuals": down, "mid_residual": np.zeros((2, 3, 3, 16), np.float32), **changes}


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (None, r"needs the condition tokens \[2, L, 12\]"),
        ({}, r"needs the condition tokens \[2, L, 12\]"),
        (np.array([1, 2]), "is not conditioned on label; it knows tokens, tokens_mask"),
        ({**CONDITIONS, "text": 1}, "is not conditioned on text"),
        ({"tokens": TOKENS[:1]}, r"tokens must be \[2, L, 12\], got \[1, 3, 12\]"),
        ({"tokens": TOKENS[..., 1:]}, r"tokens must be \[2, L, 12\], got \[2, 3, 11\]"),
        (
            {**CONDITIONS, "tokens_mask": np.ones((2, 3))},
            r"tokens_mask must be bool \[2, 3\], got float",
        ),
        ({**CONDITIONS, "tokens_mask": np.ones((2, 2), bool)}, r"bool \[2, 3\], got bool\[2, 2\]"),
        ({**CONDITIONS, "mid_residual": XT}, "give both, or neither"),
        ({**CONDITIONS, **residuals(down_residuals=[XT])}, "need 4 down_residuals, got 1"),
        (
            {**CONDITIONS, **residuals(mid_residual=XT)},
            r"mid_residual must be \[2, 3, 3, 16\], got",
        ),
    ],
)
def test_conditions_that_are_missing_or_other_are_refused(conditions, message, params):
    with pytest.raises(ValueError, match=message) as caught:
        UNET.apply({"params": params}, XT, TIME, conditions)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "conditions", "message"),
    [
        ({"label": "table", "label_channels": 3}, {}, r"needs the condition label \[2\]"),
        ({"label": "table", "label_channels": 3}, {"label": TIME}, "labels must be integers"),
        ({"label": "vector", "label_channels": 3}, {"label": TIME}, r"label must be \[2, 3\], got"),
        ({"label": "words"}, {}, "need label of table, number, vector"),
        ({"guidance_channels": 5}, {}, r"needs the condition guidance_embedding \[2, 5\]"),
        ({"vector_channels": 9, "time_ids_channels": 2}, {}, "needs the condition pooled"),
        (
            {"vector_channels": 9, "time_ids_channels": 2},
            {"pooled": XT[:, 0, 0], "time_ids": XT[:, 0, 0]},
            "pooled of 4 channels and 4 time_ids of 2 each are not the 9 channels",
        ),
        ({"in_channels": 9}, {}, r"need latents \[B, H, W, 9\], got \[2, 6, 5, 4\]"),
        ({"num_groups": 3}, {}, "8 channels do not divide into 3 groups"),
        ({"num_blocks": (1,)}, {}, "need num_blocks of 2 levels"),
        ({"up_depths": ((1,), ())}, {}, "need 2 depths of a level's way up, got"),
        ({"down_depths": ((1, 1), ())}, {}, "need a depth for each of 1 blocks or none"),
        ({"remat": "some"}, {}, "need remat to be one of"),
    ],
)
def test_fields_and_what_they_need(changes, conditions, message):
    module = UNET.clone(**changes)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), XT, TIME, {**CONDITIONS, **conditions})


def test_what_a_controlnet_needs():
    def make(conditions, *args):
        return jax.eval_shape(CONTROLNET.init, jax.random.key(0), XT, TIME, conditions, *args)

    with pytest.raises(ValueError, match=r"needs the condition control \[2, H, W, 3\]"):
        make(CONDITIONS)
    with pytest.raises(ValueError, match=r"becomes \[6, 6\] pixels; the latents have \[6, 5\]"):
        make({**CONDITIONS, "control": np.zeros((2, 12, 12, 3), np.float32)})
    with pytest.raises(ValueError, match="need a conditioning_scale or 2 of them"):
        make({**CONDITIONS, "control": CONTROL}, np.ones(3))
    with pytest.raises(ValueError, match="is not conditioned on down_residuals"):
        make({**CONDITIONS, "control": CONTROL, "down_residuals": ()})


def test_a_scale_of_each_example_scales_its_residuals():
    conditions = {**CONDITIONS, "control": CONTROL}
    params = random_params(CONTROLNET, XT, TIME, conditions)
    whole = output(CONTROLNET, params, XT, TIME, conditions)
    scales = np.array([0.25, 2.0], np.float32)
    scaled = output(CONTROLNET, params, XT, TIME, conditions, scales)
    for one, other in zip(jax.tree.leaves(scaled), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(one, other * scales[:, None, None, None], rtol=1e-5, atol=1e-6)


def test_a_label_outside_of_its_table_is_no_number():
    module = SLIM.clone(label="table", label_channels=3)
    params = random_params(module, XT, TIME, {**CONDITIONS, "label": np.zeros(2, np.int32)})
    for label in (np.array([2, 3]), np.array([0, -1])):
        found = output(module, params, XT, TIME, {**CONDITIONS, "label": label})
        assert np.isfinite(found[0]).all()
        assert np.isnan(found[1]).all()
