"""The U-Net: published sizes, symmetries, conditions, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_networks import random_params

from ddpm_jax.models import UNet
from ddpm_jax.models.attention import Attention
from ddpm_jax.models.layers import ResidualBlock, sinusoidal_embedding, upsample_nearest

SMALL = {
    "block_channels": (16, 32),
    "num_blocks": 1,
    "attention_levels": (1,),
    "num_groups": 8,
}
TIME = np.array([0.0, 1.0, 500.0, 999.0], np.float32)
LABEL = np.array([0, 2, 1, -1], np.int32)


def images(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def shapes(unet, xt_shape, label=None):
    xt, time = jnp.zeros(xt_shape), jnp.zeros(xt_shape[:1])
    return jax.eval_shape(lambda: unet.init(jax.random.key(0), xt, time, label))["params"]


def number_of(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.fixture(scope="module")
def conditional():
    unet = UNet(**SMALL, num_classes=3)
    params = random_params(unet, jnp.zeros((1, 8, 8, 3)), jnp.zeros(1), jnp.zeros(1, jnp.int32))
    apply = jax.jit(unet.apply)
    return lambda xt, time, conditions=None: np.asarray(
        apply({"params": params}, xt, time, conditions)
    )


@pytest.mark.parametrize(
    ("fields", "size", "count"),
    [
        ({}, 32, 35_746_307),  # Ho et al. 2020, CIFAR-10: "35.7 million parameters"
        (
            {"block_channels": (128, 128, 256, 256, 512, 512), "attention_levels": (4,)},
            256,
            113_673_219,  # CelebA-HQ and LSUN 256: "114 million parameters"
        ),
    ],
)
def test_published_numbers_of_parameters(fields, size, count):
    assert number_of(shapes(UNet(**fields), (1, size, size, 3))) == count


def test_label_table_is_the_only_difference_of_conditioning():
    def count(**fields):
        unet = UNet(**SMALL, **fields)
        return number_of(shapes(unet, (1, 8, 8, 3), jnp.zeros(1, jnp.int32) if fields else None))

    assert count(num_classes=10) - count() == 11 * 64
    assert count(num_classes=10, null_class=False) - count() == 10 * 64


@pytest.mark.wide(6)
def test_output_starts_near_zero_and_keeps_the_shape():
    unet = UNet(**SMALL, out_channels=6)
    xt = images(2, 8, 12, 3)
    key = jax.random.key(0, impl="rbg")  # compiles in a third of the default's time
    y, variables = jax.jit(unet.init_with_output)(key, xt, TIME[:2])
    assert y.shape == (2, 8, 12, 6)
    assert np.abs(y).max() < 1e-3
    # Ho et al. scale these by 1e-10 in variance; a uniform draw's bound is sqrt(3 variance).
    last = variables["params"]["conv_out"]["kernel"]
    assert 0 < np.abs(last).max() <= np.sqrt(3e-10 / (9 * (16 + 6) / 2)) * 1.001


@pytest.mark.wide(3)
def test_null_class(conditional):
    xt = images(4, 8, 8, 3)
    given = conditional(xt, TIME, np.full(4, -1, np.int32))
    np.testing.assert_array_equal(given, conditional(xt, TIME))
    np.testing.assert_array_equal(given, conditional(xt, TIME, np.full(4, 3, np.int32)))
    assert np.abs(given - conditional(xt, TIME, np.zeros(4, np.int32))).max() > 1e-2


def test_a_bare_array_is_the_label(conditional):
    xt = images(4, 8, 8, 3)
    np.testing.assert_array_equal(
        conditional(xt, TIME, LABEL), conditional(xt, TIME, {"label": LABEL})
    )


def test_batch_of_4_equals_4_of_1(conditional):
    xt = images(4, 8, 8, 3)
    batch = conditional(xt, TIME, LABEL)
    alone = [conditional(xt[i : i + 1], TIME[i : i + 1], LABEL[i : i + 1]) for i in range(4)]
    np.testing.assert_allclose(batch, np.concatenate(alone), atol=1e-5)


def test_scalar_time_is_every_example_s(conditional):
    xt = images(4, 8, 8, 3)
    np.testing.assert_array_equal(
        conditional(xt, np.float32(500), LABEL),
        conditional(xt, np.full(4, 500, np.float32), LABEL),
    )


@pytest.mark.wide(3)
def test_dropout_only_in_training():
    plain, dropping = UNet(**SMALL), UNet(**SMALL, dropout=0.5)
    xt, time = images(2, 8, 8, 3), TIME[:2]
    variables = {"params": random_params(plain, xt, time)}
    apply = jax.jit(dropping.apply, static_argnames="train")
    expected = jax.jit(plain.apply)(variables, xt, time)
    np.testing.assert_allclose(apply(variables, xt, time), expected, atol=1e-6)
    one, same, other = (
        apply(variables, xt, time, train=True, rngs={"dropout": jax.random.key(seed)})
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-2
    assert np.abs(one - expected).max() > 1e-2


@pytest.mark.wide(6)
def test_bfloat16_stays_near_float32():
    xt, time = images(4, 8, 8, 3), TIME
    full, half = UNet(**SMALL), UNet(**SMALL, dtype=jnp.bfloat16)
    variables = {"params": random_params(full, xt, time)}
    expected = jax.jit(full.apply)(variables, xt, time)
    y = jax.jit(half.apply)(variables, xt, time)
    assert y.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(half, xt.shape))} == {jnp.float32.dtype}
    # bfloat16 has 8 bits: 0.4% a rounding, over a dozen layers.
    error = np.abs(y - expected).max() / np.abs(expected).max()
    assert 1e-5 < error < 0.05


@pytest.mark.parametrize(
    ("fields", "xt_shape", "conditions", "message"),
    [
        ({}, (2, 8, 9, 3), None, "image size 8x9 is not divisible by 2"),
        ({}, (8, 8, 3), None, r"need images \[B, H, W, C\]"),
        ({}, (2, 8, 8, 3), np.zeros(2, np.int32), "not conditioned on label; .* no conditions"),
        ({"num_classes": 3}, (2, 8, 8, 3), {"text": np.zeros(2)}, "on text; it knows label"),
        ({"num_classes": 3}, (2, 8, 8, 3), np.zeros(2), r"must be integers \[2\], got float"),
        ({"num_classes": 3}, (2, 8, 8, 3), np.zeros((2, 1), int), r"must be integers \[2\]"),
        ({"num_classes": 3, "null_class": False}, (2, 8, 8, 3), None, "no null class: give it"),
        ({"num_groups": 5}, (2, 8, 8, 3), None, "16 channels do not divide into 5 groups"),
        ({"head_dim": 12}, (2, 8, 8, 3), None, "32 channels do not divide into heads of 12"),
    ],
)
def test_bad_input_is_refused(fields, xt_shape, conditions, message):
    unet = UNet(**{**SMALL, **fields})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(unet.init, jax.random.key(0), jnp.zeros(xt_shape), jnp.zeros(2), conditions)


@pytest.mark.parametrize("fields", [{}, {"head_dim": 4}, {"num_groups": 0}], ids=str)
def test_attention_does_not_see_the_order_of_pixels(fields):
    attention = Attention(**{"num_groups": 8, **fields})
    x = images(2, 3, 5, 16)
    variables = {"params": random_params(attention, x)}
    apply = jax.jit(attention.apply)
    order = np.random.default_rng(1).permutation(15)

    def permute(images):
        return np.asarray(images).reshape(2, 15, 16)[:, order].reshape(2, 3, 5, 16)

    np.testing.assert_allclose(
        apply(variables, permute(x)), permute(apply(variables, x)), atol=1e-5
    )
    assert ("norm" in variables["params"]) == (fields.get("num_groups") != 0)


def test_heads_do_not_mix():
    attention = Attention(head_dim=4, num_groups=0)
    x = images(1, 2, 3, 8)
    eye = {"kernel": np.eye(8, dtype=np.float32), "bias": np.zeros(8, np.float32)}
    variables = {"params": dict.fromkeys(("query", "key", "value", "out"), eye)}
    y = attention.apply(variables, x)
    single = Attention(num_groups=0)
    eye = {"kernel": np.eye(4, dtype=np.float32), "bias": np.zeros(4, np.float32)}
    variables = {"params": dict.fromkeys(("query", "key", "value", "out"), eye)}
    for head in (slice(0, 4), slice(4, 8)):
        alone = single.apply(variables, x[..., head])
        np.testing.assert_allclose(y[..., head], alone, atol=1e-6)


def test_network_moves_with_the_image():
    """One level, no attention: away from the border a shifted image gives a shifted output."""
    unet = UNet(
        block_channels=(8,), num_blocks=1, attention_levels=(), mid_attention=False, num_groups=4
    )
    size, reach = 48, 12  # twelve 3x3 convolutions in the longest way through
    xt = np.zeros((1, size, size, 3), np.float32)
    xt[:, 20:28, 20:28] = images(1, 8, 8, 3)
    variables = {"params": random_params(unet, xt, TIME[:1])}
    apply = jax.jit(unet.apply)
    y = np.asarray(apply(variables, xt, TIME[:1]))
    shifted = np.asarray(apply(variables, np.roll(xt, 3, axis=2), TIME[:1]))
    inner = slice(reach + 3, size - reach - 3)
    # Not to the last bit: the group norms' means see the zero padding at the border.
    np.testing.assert_allclose(
        shifted[:, inner, inner], np.roll(y, 3, axis=2)[:, inner, inner], atol=1e-3
    )


def test_scale_shift_of_zero_leaves_the_norm_alone():
    block = ResidualBlock(width=16, num_groups=4, scale_shift_norm=True)
    x, embedding = images(2, 4, 4, 16), images(2, 8)
    params = random_params(block, x, embedding)
    zero = jax.tree.map(np.zeros_like, params["embedding"])
    added = ResidualBlock(width=16, num_groups=4)
    halved = jax.tree.map(lambda p: p[..., :16], zero)
    np.testing.assert_allclose(
        block.apply({"params": {**params, "embedding": zero}}, x, embedding),
        added.apply({"params": {**params, "embedding": halved}}, x, embedding),
        atol=1e-6,
    )


@pytest.mark.parametrize(("freq_shift", "flip"), [(1.0, False), (0.0, True)])
@pytest.mark.parametrize("width", [32, 33])
def test_embedding_agrees_with_diffusers(width, freq_shift, flip):
    torch = pytest.importorskip("torch")
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    expected = embeddings.get_timestep_embedding(
        torch.from_numpy(TIME), width, flip_sin_to_cos=flip, downscale_freq_shift=freq_shift
    )
    ours = sinusoidal_embedding(
        jnp.asarray(TIME), width, freq_shift=freq_shift, flip_sin_to_cos=flip
    )
    # At t = 999 a float32 angle is known to 6e-5.
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_embedding_of_closed_form():
    time = np.array([0.0, 1.0, 37.5])
    frequencies = 10000.0 ** -(np.arange(8) / 7)  # from 1 down to exactly 1e-4
    assert frequencies[-1] == pytest.approx(1e-4)
    angles = time[:, None] * frequencies[None, :]
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    ours = sinusoidal_embedding(jnp.asarray(time, jnp.float32), 16)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_upsampling_repeats_every_pixel():
    x = images(2, 3, 5, 4)
    expected = x.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(upsample_nearest(jnp.asarray(x)), expected)


@pytest.mark.wide(3)
def test_downsampling_pads_as_named():
    """A one in the corner reaches the corner's output with either padding, the far edge with 1."""
    for padding, kernel_row in ((0, 0), (1, 1)):
        unet = UNet(**SMALL, downsample_padding=padding)
        xt = images(1, 8, 8, 3)
        variables = {"params": random_params(unet, xt, TIME[:1])}
        _, state = unet.apply(variables, xt, TIME[:1], capture_intermediates=True)
        inner = state["intermediates"]
        h, y = inner["down_0_block_0"]["__call__"][0], inner["down_0_downsample"]["__call__"][0]
        layer = variables["params"]["down_0_downsample"]
        # The first output pixel by hand: the kernel's rows and columns from kernel_row on.
        part = layer["kernel"][kernel_row:, kernel_row:]
        rows = part.shape[0]
        by_hand = np.einsum("hwc,hwcd->d", h[0, :rows, :rows], part) + layer["bias"]
        np.testing.assert_allclose(y[0, 0, 0], by_hand, atol=1e-5)


@pytest.mark.wide(3)
def test_gradient_reaches_every_parameter():
    unet = UNet(**SMALL, num_classes=3)
    xt, time, label = images(4, 8, 8, 3), TIME, np.array([0, 1, 2, -1], np.int32)
    params = random_params(unet, xt, time, label)
    gradient = jax.jit(
        jax.grad(lambda p: jnp.mean(unet.apply({"params": p}, xt, time, label) ** 2))
    )(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        names = [entry.key for entry in path]
        if names[-2:] == ["key", "bias"]:
            continue  # the softmax does not see a constant added to every score
        assert np.abs(leaf).max() > 1e-7, names


@pytest.mark.wide(6)
def test_fourier_features_are_channels_beside_the_data():
    plain, waves = (
        UNet(**SMALL, out_channels=2),
        UNet(**SMALL, out_channels=2, fourier_features=(1, 4)),
    )
    xt = images(4, 4, 4, 2)
    by_hand = [xt, *(f(n * np.pi * xt) for n in (2, 16) for f in (np.sin, np.cos))]
    by_hand = np.concatenate(by_hand, axis=-1).astype(np.float32)
    params = random_params(plain, by_hand, TIME)
    out = waves.apply({"params": params}, xt, TIME)
    np.testing.assert_allclose(out, plain.apply({"params": params}, by_hand, TIME), atol=1e-4)
    for exponents in ((0,), (3, -1)):
        with pytest.raises(ValueError, match=r"exponents of at least 1.*fourier_features"):
            UNet(**SMALL, fourier_features=exponents).init(jax.random.key(0), xt, TIME)
