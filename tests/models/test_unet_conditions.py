"""What a U-Net is conditioned on, and the blocks of Dhariwal & Nichol (2021)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_networks import random_params

from ddpm_jax.diffusion.condition_dropout import null
from ddpm_jax.models import DiT, UNet
from ddpm_jax.models.layers import ResidualBlock, downsample_mean

TIME = jnp.array([3.0, 500.0])
SMALL = {"block_channels": (8, 16), "num_blocks": 1, "attention_levels": (1,), "num_groups": 4}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


XT = normal(2, 8, 8, 3)
WHOLE = {
    "label": jnp.array([1, 2]),
    "colour": jnp.array([0, 2]),
    "sketch": normal(2, 8, 8, 1, seed=1),
    "tokens": normal(2, 3, 5, seed=2),
    "tokens_mask": jnp.array([[True, True, False], [True, True, True]]),
}


@pytest.fixture(scope="module")
def conditional():
    unet = UNet(
        **SMALL,
        num_classes=4,
        attributes=(("colour", 3),),
        images=(("sketch", 1),),
        tokens_channels=5,
    )
    variables = {"params": random_params(unet, XT, TIME, WHOLE)}
    return jax.jit(lambda conditions: unet.apply(variables, XT, TIME, conditions))


@pytest.mark.parametrize("name", ["label", "colour", "sketch", "tokens"])
@pytest.mark.wide(4)
def test_each_condition_counts_and_is_absent_in_its_null_form(name, conditional):
    mine = [key for key in WHOLE if key.startswith(name)]
    without = {key: value for key, value in WHOLE.items() if key not in mine}
    left_out = conditional(without)
    absent = conditional(WHOLE | null({key: WHOLE[key] for key in mine}))
    np.testing.assert_allclose(left_out, absent, atol=1e-5)
    # Of both images: none of them was told by another's condition.
    assert (np.abs(left_out - conditional(WHOLE)).max(axis=(1, 2, 3)) > 1e-3).all()


def test_tokens_outside_the_mask_are_not_read(conditional):
    tokens = WHOLE["tokens"].copy()
    tokens[0, 2] = 1e3
    np.testing.assert_array_equal(conditional(WHOLE | {"tokens": tokens}), conditional(WHOLE))
    longer = {
        "tokens": np.pad(tokens, ((0, 0), (0, 4), (0, 0)), constant_values=7),
        "tokens_mask": np.pad(WHOLE["tokens_mask"], ((0, 0), (0, 4))),
    }
    np.testing.assert_allclose(conditional(WHOLE | longer), conditional(WHOLE), atol=1e-5)


def test_cross_attention_reads_a_set(conditional):
    order = np.array([2, 0, 1])
    turned = {name: WHOLE[name][:, order] for name in ("tokens", "tokens_mask")}
    np.testing.assert_allclose(conditional(WHOLE | turned), conditional(WHOLE), atol=1e-5)


@pytest.mark.wide(3)
def test_a_mask_left_out_is_of_all_tokens(conditional):
    without = {name: value for name, value in WHOLE.items() if name != "tokens_mask"}
    everything = WHOLE | {"tokens_mask": jnp.ones((2, 3), bool)}
    np.testing.assert_array_equal(conditional(without), conditional(everything))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colours": jnp.zeros(2, int)}, "not conditioned on colours; it knows label, colour, sk"),
        ({"colour": jnp.zeros(2)}, r"colours must be integers \[2\], got float32"),
        ({"sketch": normal(2, 4, 8, 1)}, r"sketch must be \(2, 8, 8, 1\), got \(2, 4, 8, 1\)"),
        ({"tokens": normal(2, 3, 4)}, r"tokens must be \[2, L, 5\], got \(2, 3, 4\)"),
        ({"tokens_mask": jnp.ones((2, 2), bool)}, r"tokens_mask must be bool \(2, 3\)"),
    ],
)
def test_a_condition_of_another_form_is_refused(changes, message, conditional):
    with pytest.raises(ValueError, match=message):
        conditional(WHOLE | changes)


def test_a_mask_without_tokens_is_refused(conditional):
    with pytest.raises(ValueError, match="tokens_mask without tokens"):
        conditional({"tokens_mask": jnp.ones((2, 3), bool)})


# Tables 11 and 12 of Dhariwal & Nichol: millions of parameters.
@pytest.mark.parametrize(
    ("channels", "multipliers", "blocks", "size", "classes", "millions"),
    [
        (192, (1, 2, 3, 4), 3, 64, 1000, 296),
        (256, (1, 1, 2, 3, 4), 2, 128, 1000, 422),
        (256, (1, 1, 2, 2, 4, 4), 2, 256, 1000, 554),
        (256, (1, 1, 2, 2, 4, 4), 2, 256, 0, 552),
    ],
)
@pytest.mark.wide(4)
def test_published_numbers_of_parameters(channels, multipliers, blocks, size, classes, millions):
    attention = tuple(k for k in range(len(multipliers)) if size // 2**k in (32, 16, 8))
    unet = UNet(
        block_channels=tuple(channels * k for k in multipliers),
        num_blocks=blocks,
        attention_levels=attention,
        out_channels=6,
        num_classes=classes,
        null_class=False,
        head_dim=64,
        scale_shift_norm=True,
        resample_blocks=True,
    )
    label = jnp.zeros(1, int) if classes else None
    xt = jnp.zeros((1, size, size, 3))
    shapes = jax.eval_shape(unet.init, jax.random.key(0), xt, jnp.zeros(1), label)
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert abs(total / 1e6 - millions) < 1


def test_a_block_resamples_itself_and_its_shortcut():
    # Where the branch adds nothing, "up" repeats pixels and "down" takes their mean, and one after
    # the other is the image again.
    x, embedding = normal(2, 4, 6, 8), normal(2, 16)

    def branchless(resample, x):
        block = ResidualBlock(8, num_groups=4, resample=resample)
        params = block.init(jax.random.key(0), x, embedding)["params"]
        params["conv_1"] = jax.tree.map(jnp.zeros_like, params["conv_1"])
        return block.apply({"params": params}, x, embedding)

    up = branchless("up", x)
    np.testing.assert_array_equal(up, np.repeat(np.repeat(x, 2, axis=1), 2, axis=2))
    np.testing.assert_allclose(branchless("down", up), x, rtol=1e-6)
    np.testing.assert_allclose(downsample_mean(x).sum() * 4, x.sum(), rtol=1e-4)


def test_rescaled_residuals_keep_the_variance():
    # Two independent summands of variance 1, rescaled, have variance 1.
    x, embedding = normal(4, 16, 16, 32), normal(4, 8)
    block = ResidualBlock(32, num_groups=8, residual_scale=0.5**0.5)
    plain = ResidualBlock(32, num_groups=8)
    variables = {"params": random_params(plain, x, embedding)}
    branch = plain.apply(variables, x, embedding) - x
    variables["params"]["conv_1"] = jax.tree.map(
        lambda w: w / branch.std(), variables["params"]["conv_1"]
    )
    assert block.apply(variables, x, embedding).std() == pytest.approx(1, abs=0.1)
    assert plain.apply(variables, x, embedding).std() == pytest.approx(2**0.5, abs=0.14)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("network", [UNet, DiT])
def test_a_larger_image_is_folded_into_channels(network, factor):
    """Each square of pixels becomes the channels of one, in reading order."""
    size, channels = (4, 6), 3
    fields = {"images": (("sketch", factor**2 * channels),), "out_channels": 2}
    fields |= (
        {"block_channels": (8,), "num_blocks": 1, "attention_levels": (), "num_groups": 4}
        if network is UNet
        else {"width": 8, "depth": 1, "num_heads": 2, "patch_size": 2}
    )
    model, xt, time = network(**fields), normal(2, *size, 2), np.zeros(2, np.float32)
    params = random_params(model, xt, time)
    image = np.asarray(normal(2, factor * size[0], factor * size[1], channels, seed=1))
    folded = np.zeros((2, *size, factor**2 * channels), np.float32)
    for i in range(size[0]):
        for j in range(size[1]):
            square = image[:, factor * i : factor * (i + 1), factor * j : factor * (j + 1)]
            folded[:, i, j] = square.reshape(2, -1)
    found = model.apply({"params": params}, xt, time, {"sketch": image})
    want = model.apply({"params": params}, xt, time, {"sketch": folded})
    np.testing.assert_array_equal(found, want)
    assert np.abs(found - model.apply({"params": params}, xt, time)).max() > 1e-3
    for wrong in ((2, size[0] * factor, size[1], channels), (2, *size, channels)):
        with pytest.raises(ValueError, match="sketch must be"):
            model.apply({"params": params}, xt, time, {"sketch": np.zeros(wrong)})
