"""Autoencoders as networks: what a decoder makes of a class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.models.autoencoder import Autoencoder

SMALL = {"block_channels": (8, 16), "num_blocks": 1, "num_groups": 4, "channels": 1}


def initial(network, label):
    params = network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), label)["params"]
    return jax.tree.map(
        lambda leaf: leaf + 0.1 * jnp.sin(jnp.arange(leaf.size)).reshape(leaf.shape), params
    )


def test_a_class_is_a_shift_of_the_decoders_first_features():
    """So the decoder of a class is one without classes, with another bias."""
    told, untold = Autoencoder(num_classes=3, **SMALL), Autoencoder(**SMALL)
    params = initial(told, jnp.zeros(1, jnp.int32))
    z = jax.random.normal(jax.random.key(1), (3, 4, 4, 4))
    found = told.apply({"params": params}, z, jnp.array([0, 1, 2]), method="decode").mean
    decoder = {**params["decoder"]}
    table = decoder.pop("label_embedding")["embedding"]
    assert table.shape == (3, 16)
    for k in range(3):
        first = decoder["conv_in"]
        shifted = {**decoder, "conv_in": {**first, "bias": first["bias"] + table[k]}}
        plain = {"params": {**params, "decoder": shifted}}
        want = untold.apply(plain, z[k : k + 1], method="decode").mean
        np.testing.assert_allclose(found[k : k + 1], want, atol=1e-5)
    assert float(jnp.abs(found[0] - found[1]).max()) > 0.01


def test_the_encoder_needs_no_class_and_one_class_moves_no_other():
    told = Autoencoder(num_classes=3, scale="each", **SMALL)
    params = initial(told, jnp.zeros(1, jnp.int32))
    x = jax.random.normal(jax.random.key(2), (2, 8, 8, 1))
    encoded = told.apply({"params": params}, x, method="encode")
    assert encoded.latents.shape == (2, 4, 4, 4)

    def loss(params):
        return told.apply({"params": params}, x, jnp.array([1, 1])).mean.sum()

    moved = jax.grad(loss)(params)["decoder"]["label_embedding"]["embedding"]
    assert (jnp.abs(moved).sum(axis=1) > 0).tolist() == [False, True, False]


@pytest.mark.parametrize(("classes", "label"), [(3, None), (0, jnp.zeros(1, jnp.int32))])
def test_a_label_belongs_to_classes(classes, label):
    network = Autoencoder(num_classes=classes, **SMALL)
    with pytest.raises(ValueError, match=f"a decoder of {classes} classes: need"):
        network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), label)
