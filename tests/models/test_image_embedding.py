"""Networks that are told the embedding of an image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_networks import random_params

from ddpm_jax.models import ComponentModel, DiT, PriorTransformer, UNet
from ddpm_jax.models.text import Captions

SIZE = 6
CAPTIONS = Captions(vocab_size=12, context_length=5, width=8, depth=1, num_heads=2)
UNETS = {"block_channels": (8, 8), "num_blocks": 1, "num_groups": 4, "attention_levels": (1,)}
DITS = {"patch_size": 2, "width": 8, "depth": 1, "num_heads": 2, "out_channels": 3}
NETWORKS = {
    "unet": UNet(**UNETS, image_embedding=SIZE),
    "dit": DiT(**DITS, image_embedding=SIZE),
    "unet with text": UNet(**UNETS, image_embedding=SIZE, captions=CAPTIONS),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_an_embedding_is_told_by_the_time_and_by_four_tokens(name):
    network = NETWORKS[name]
    xt, time = jax.random.normal(jax.random.key(0), (2, 8, 8, 3)), jnp.ones(2)
    params = random_params(network, xt, time)
    told = jax.random.normal(jax.random.key(1), (2, SIZE))
    width = CAPTIONS.width if network.captions else SIZE
    assert params["image_embedding_tokens"]["kernel"].shape == (SIZE, 4 * width)

    @jax.jit
    def output(params, told):
        conditions = {"image_embedding": told}
        return network.apply({"params": params}, xt, time, conditions)

    def without(layer):
        return params | {layer: jax.tree.map(jnp.zeros_like, params[layer])}

    # Zeros are none, and each row is told its own.
    absent = network.apply({"params": params}, xt, time)
    np.testing.assert_allclose(output(params, jnp.zeros((2, SIZE))), absent, atol=1e-5)
    out = output(params, told)
    assert np.abs(out - absent).max() > 1e-3
    np.testing.assert_allclose(output(params, told[jnp.array([0, 0])])[0], out[0], atol=1e-5)
    # Both ways tell something.
    for layer in ("image_embedding_projection", "image_embedding_tokens"):
        one = output(without(layer), told) - output(without(layer), -told)
        assert np.abs(one).max() > 1e-4, layer
    with pytest.raises(ValueError, match=r"image_embedding must be \[2, 6\], got \(2, 5\)"):
        network.apply({"params": params}, xt, time, {"image_embedding": told[:, :5]})


def test_a_network_without_it_takes_none():
    network = DiT(**DITS)
    xt, time = jnp.zeros((1, 8, 8, 3)), jnp.ones(1)
    params = random_params(network, xt, time)
    with pytest.raises(ValueError, match="not conditioned on image_embedding"):
        network.apply({"params": params}, xt, time, {"image_embedding": jnp.zeros((1, SIZE))})


def test_a_priors_answer_sees_no_token_outside_of_the_mask():
    prior = PriorTransformer(embed_dim=SIZE, context=4, width=8, depth=2, num_heads=2)
    told = {
        "text_embedding": jax.random.normal(jax.random.key(0), (1, SIZE)),
        "tokens": jax.random.normal(jax.random.key(1), (1, 4, 5)),
        "tokens_mask": jnp.array([[True, True, False, False]]),
    }
    xt, time = jax.random.normal(jax.random.key(2), (1, SIZE)), jnp.ones(1)
    params = random_params(prior, xt, time, told)

    def answer(**changes):
        return prior.apply({"params": params}, xt, time, told | changes)

    hidden = told["tokens"].at[:, 2:].add(1.0)
    np.testing.assert_allclose(answer(tokens=hidden), answer(), atol=1e-6)
    assert np.abs(answer(tokens=told["tokens"].at[:, 1].add(1.0)) - answer()).max() > 1e-3
    assert np.abs(answer(text_embedding=-told["text_embedding"]) - answer()).max() > 1e-3
    for wrong in ({"tokens": told["tokens"][:, :3]}, {"text_embedding": jnp.zeros((1, 2, 3))}):
        with pytest.raises(ValueError, match=r"^need "):
            answer(**wrong)


def test_a_component_model_steps_as_it_sees_and_is_told_its_text():
    model = ComponentModel(vocab_size=7, length=3, width=8, depth=1, num_heads=2, text_dim=SIZE)
    tokens = jnp.array([[1, 6, 0], [2, 2, 2]])
    params = random_params(model, tokens)
    told = {"text_embedding": jax.random.normal(jax.random.key(0), (2, SIZE))}
    logits = model.apply({"params": params}, tokens, told)
    assert np.abs(logits - model.apply({"params": params}, tokens)).max() > 1e-3
    carry = model.apply({"params": params}, 2, told, method="begin")
    for place in range(3):
        before = tokens[:, place - 1]
        one, carry = model.apply({"params": params}, carry, jnp.int32(place), before, method="step")
        np.testing.assert_allclose(one, logits[:, place], atol=1e-5)
