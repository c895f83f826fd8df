"""The classifier of noised images: published sizes, what moves its logits, what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_networks import random_params

from ddpm_jax.models import Classifier
from ddpm_jax.models.perceptual import ClassifierFeatures, distance

SMALL = Classifier(
    block_channels=(8, 16), num_blocks=1, attention_levels=(1,), num_classes=3, head_dim=8,
    num_groups=4,
)  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "size", "millions"),
    [
        # Dhariwal & Nichol 2021, appendix I: the classifiers of ImageNet at 64, 128 and 256.
        (
            {
                "block_channels": (128, 256, 384, 512),
                "num_blocks": 4,
                "attention_levels": (1, 2, 3),
            },
            64,
            65,
        ),
        ({}, 128, 43),
        (
            {"block_channels": (128, 128, 256, 256, 512, 512), "attention_levels": (3, 4, 5)},
            256,
            54,
        ),
    ],
)
def test_published_numbers_of_parameters(fields, size, millions):
    module = Classifier(**fields)
    images = jnp.zeros((1, size, size, 3))
    shapes = jax.eval_shape(module.init, jax.random.key(0), images, jnp.zeros(1))
    assert round(sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6) == millions


def test_pixels_and_time_move_the_logits_of_their_own_image_alone():
    rng = np.random.default_rng(0)
    xt, time = rng.standard_normal((2, 8, 8, 1)).astype(np.float32), np.array([3.0, 400.0])
    params = random_params(SMALL, xt, time)
    apply = jax.jit(lambda xt, time: SMALL.apply({"params": params}, xt, time))
    logits = apply(xt, time)
    assert logits.shape == (2, 3)
    brighter = xt + np.array([1.0, 0.0], np.float32)[:, None, None, None]
    for moved in (apply(brighter, time), apply(xt, time + np.array([50.0, 0.0]))):
        assert np.abs(moved[0] - logits[0]).max() > 1e-3
        np.testing.assert_allclose(moved[1], logits[1], atol=1e-5)
    # Each pixel has its place: the mirrored image is another.
    assert np.abs(apply(xt[:, :, ::-1], time) - logits).max() > 1e-3


@pytest.mark.parametrize(
    ("fields", "shape", "words"),
    [
        ({"num_classes": 1}, (1, 8, 8, 1), "num_classes >= 2"),
        ({}, (1, 9, 9, 1), "not divisible by 2"),
        ({"num_groups": 3}, (1, 8, 8, 1), "3 groups"),
        ({"head_dim": 5}, (1, 8, 8, 1), "heads of 5"),
        ({}, (8, 8, 1), r"need images \[B, H, W, C\]"),
    ],
)
def test_what_does_not_divide_is_refused(fields, shape, words):
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(SMALL.clone(**fields).init, jax.random.key(0), jnp.zeros(shape), jnp.ones(1))


@pytest.mark.parametrize("fields", [{}, {"num_blocks": 2, "block_channels": (8, 16, 16)}])
def test_features_are_what_each_level_makes_before_it_is_halved(fields):
    """By what flax itself records of the modules."""
    network = SMALL.clone(**fields)
    rng = np.random.default_rng(0)
    xt, time = rng.standard_normal((2, 8, 8, 1)).astype(np.float32), np.zeros(2, np.float32)
    params = random_params(network, xt, time)
    found = network.apply({"params": params}, xt, time, method="features")
    _, recorded = network.apply(
        {"params": params}, xt, time, capture_intermediates=True, mutable=["intermediates"]
    )
    for level, own in enumerate(found):
        kind = "attention" if level in network.attention_levels else "block"
        name = f"down_{level}_{kind}_{network.num_blocks - 1}"
        np.testing.assert_allclose(own, recorded["intermediates"][name]["__call__"][0], atol=1e-6)
    assert len(found) == len(network.block_channels)
    looks = ClassifierFeatures(params, network, 0.0)
    other = xt + 0.1 * rng.standard_normal(xt.shape).astype(np.float32)
    apart = distance(looks, jnp.asarray(xt), jnp.asarray(other))
    assert (apart > 0).all()
    np.testing.assert_allclose(distance(looks, xt, xt), 0, atol=1e-7)
    # Features of unit length, so a factor of all of them changes nothing.
    lengths = [(one / jnp.linalg.norm(one, axis=-1, keepdims=True)) for one in looks.stages(xt)]
    theirs = [(one / jnp.linalg.norm(one, axis=-1, keepdims=True)) for one in looks.stages(other)]
    want = sum(2 - 2 * (a * b).sum(-1).mean((1, 2)) for a, b in zip(lengths, theirs, strict=True))
    np.testing.assert_allclose(apart, want, rtol=1e-4)
