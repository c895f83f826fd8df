"""Networks that read captions: GLIDE's text transformer, in the U-Net and in the DiT."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_networks import random_params
from small_networks import CAPTIONS, NETWORKS, TIME, XT

from ddpm_jax.models import UNet
from ddpm_jax.models.attention import Attention
from ddpm_jax.models.text import CaptionEncoder, Captions, TextTransformer, captions
from ddpm_jax.models.text.captions import is_text

OF_TEXT = ["unet_of_text", "unet_of_clip", "dit_of_text"]
BOS, EOS = 7, 8
ROWS = jnp.array([[BOS, 3, 2, EOS], [BOS, 5, EOS, 6]])
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module", params=OF_TEXT)
def network(request):
    module = NETWORKS[request.param]
    variables = {"params": random_params(module, XT, TIME)}
    return jax.jit(lambda conditions: module.apply(variables, XT, TIME, conditions))


def test_glide_has_as_many_parameters():
    """Their public base model, with its vocabulary of 50,257 and its 128 tokens."""
    captions = Captions(50_257, 128, width=512, depth=16, num_heads=8)
    unet = UNet(
        block_channels=(192, 384, 576, 768),
        num_blocks=3,
        attention_levels=(1, 2, 3),
        out_channels=6,
        head_dim=64,
        scale_shift_norm=True,
        resample_blocks=True,
        captions=captions,
    )
    images = np.zeros((1, 64, 64, 3))
    shapes = jax.eval_shape(unet.init, jax.random.key(0), images, np.zeros(1))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 385_030_726


def test_pixels_attend_to_themselves_and_to_a_text_as_torch_has_it():
    torch = pytest.importorskip("torch")
    pixels = RNG.standard_normal((2, 3, 4, 8)).astype(np.float32)
    text = RNG.standard_normal((2, 5, 6)).astype(np.float32)
    module = Attention(head_dim=4, num_groups=0)
    params = random_params(module, pixels, text)
    found = module.apply({"params": params}, pixels, text) - pixels

    def linear(name, x):
        weights = (torch.tensor(np.array(params[name][part])) for part in ("kernel", "bias"))
        kernel, bias = weights
        return (torch.tensor(x) @ kernel + bias).unflatten(-1, (2, 4)).transpose(1, 2)

    flat = pixels.reshape(2, 12, 8)
    key, value = (
        torch.cat([linear(f"text_{name}", text), linear(name, flat)], dim=2)
        for name in ("key", "value")
    )
    sdpa = torch.nn.functional.scaled_dot_product_attention(linear("query", flat), key, value)
    mixed = sdpa.transpose(1, 2).flatten(-2).numpy()
    expected = (mixed @ params["out"]["kernel"] + params["out"]["bias"]).reshape(pixels.shape)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_text_is_between_its_beginning_and_its_end():
    rows = jnp.array([[7, 1, 2, 8, 3, 8], [7, 8, 8, 8, 8, 8], [7, 0, 2, 3, 4, 8], [-1] * 6])
    expected = [[0, 1, 1, 0, 0, 0], [0] * 6, [0, 1, 1, 1, 1, 0], [0] * 6]
    np.testing.assert_array_equal(is_text(rows), np.array(expected, bool))


def test_what_pads_a_text_has_no_part_in_it(network):
    padded = {"text": jnp.array([[BOS, EOS, 2, 6], [BOS, 5, EOS, EOS]])}
    otherwise = {"text": jnp.array([[BOS, EOS, EOS, EOS], [BOS, 5, EOS, 0]])}
    np.testing.assert_array_equal(network(padded), network(otherwise))


def test_the_empty_text_is_no_text_at_all(network):
    empty = network({"text": jnp.array([[BOS, EOS, EOS, EOS], [BOS, EOS, 0, 0]])})
    np.testing.assert_array_equal(network({"text": jnp.full((2, 4), -1)}), empty)
    np.testing.assert_allclose(network({}), empty, atol=1e-5)


def test_each_image_reads_its_own_text_in_its_order(network):
    drawn = network({"text": ROWS})
    other = network({"text": ROWS.at[0, 1:3].set(ROWS[0, 2:0:-1])})
    assert np.abs(other[0] - drawn[0]).max() > 1e-3
    np.testing.assert_allclose(other[1], drawn[1], atol=1e-5)
    swapped = network({"text": ROWS[::-1]})
    assert (np.abs(swapped - drawn).max(axis=(1, 2, 3)) > 1e-3).all()


def test_padding_has_an_embedding_of_its_place():
    """Changed at one place, it changes what reads rows that have no token there, and no other."""
    encoder = CaptionEncoder(CAPTIONS)
    params = random_params(encoder, ROWS)
    moved = np.zeros(params["padding"].shape, np.float32)
    moved[2] = RNG.standard_normal(moved.shape[1])
    changed = params | {"padding": params["padding"] + moved}
    before, after = (encoder.apply({"params": p}, ROWS).tokens for p in (params, changed))
    np.testing.assert_array_equal(after[0], before[0])
    assert np.abs(after[1] - before[1]).max() > 1e-2


def test_clips_transformer_is_read_up_to_the_end_of_a_text():
    """As `TextTransformer` has it, under the names of a CLIP; then what the network learned."""

    class Reader(nn.Module):
        captions: Captions
        attention: str = "xla"
        remat: str = "none"
        dtype: type = jnp.float32

        @nn.compact
        def __call__(self, rows):
            return captions.read(self, rows)

    reader = Reader(CAPTIONS._replace(tower="clip"))
    params = random_params(reader, ROWS)
    rows = jnp.concatenate([ROWS, jnp.full((1, 4), -1)])
    found = reader.apply({"params": params}, rows)
    tower = TextTransformer(
        vocab_size=9, context_length=4, width=8, depth=1, num_heads=2, pooling="largest"
    )
    expected = tower.apply({"params": params["text"]}, ROWS)
    np.testing.assert_allclose(found.tokens[0], expected.last[0], atol=1e-6)
    np.testing.assert_allclose(found.tokens[1, :3], expected.last[1, :3], atol=1e-6)
    np.testing.assert_allclose(found.pooled[:2], expected.pooled, atol=1e-6)
    np.testing.assert_array_equal(found.tokens[1, 3], params["text_padding"][3])
    np.testing.assert_array_equal(found.tokens[2], params["text_padding"])


@pytest.mark.parametrize("text", [jnp.zeros((2, 3), int), jnp.zeros((2, 4)), jnp.zeros(2, int)])
def test_rows_of_another_form_are_refused(text):
    module = NETWORKS["unet_of_text"]
    with pytest.raises(ValueError, match=r"text must be integers \[2, 4\]"):
        jax.eval_shape(module.init, jax.random.key(0), XT, TIME, {"text": text})


def test_a_network_without_captions_refuses_a_text():
    with pytest.raises(ValueError, match="not conditioned on text"):
        jax.eval_shape(NETWORKS["dit"].init, jax.random.key(0), XT, TIME, {"text": ROWS})
