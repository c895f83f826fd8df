"""Attention: what it computes, which implementation it asks for, and what that takes."""

import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as fused
from tiny_runs import brief_config

from ddpm_jax import experiment
from ddpm_jax.build import reverse_mode
from ddpm_jax.models import Classifier, DiT, UNet, WithSchedule
from ddpm_jax.models.attention import attend, cudnn_takes

HALF = jnp.bfloat16
WIDE = {"block_channels": (16,), "num_blocks": 1, "attention_levels": (0,), "num_groups": 4}


@pytest.fixture
def cudnn(monkeypatch):
    """jax with cuDNN and a GPU of capability 8.0, as far as tracing goes."""
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91300)
    monkeypatch.setattr(fused, "check_compute_capability", lambda least: least == "8.0")
    monkeypatch.setattr(fused, "is_cuda_compute_capability_equal", lambda one: False)


@pytest.fixture
def asked(monkeypatch):
    """The implementations that jax.nn.dot_product_attention is asked for, each with its tokens."""
    calls = []
    real = jax.nn.dot_product_attention

    def record(query, key, value, *, implementation=None, **options):
        calls.append((implementation or "xla", query.shape[1], key.shape[1]))
        return real(query, key, value, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", record)
    return calls


def test_attention_is_the_one_on_paper():
    rng = np.random.default_rng(0)
    query, key, value = rng.standard_normal((3, 2, 5, 3, 4))
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / 2
    weights = np.exp(scores)
    weights /= weights.sum(axis=-1, keepdims=True)
    expected = np.einsum("bhqk,bkhd->bqhd", weights, value)
    arrays = (jnp.asarray(x, jnp.float32) for x in (query, key, value))
    np.testing.assert_allclose(attend(*arrays), expected, atol=1e-6)


def shape(tokens=64, channels=64, dtype=HALF):
    return jax.ShapeDtypeStruct((2, tokens, 2, channels), dtype)


TAKEN = [shape(), shape(channels=8), shape(channels=128), shape(tokens=1024), shape(tokens=4096)]
NOT_TAKEN = [
    shape(dtype=jnp.float32),
    shape(channels=4),
    shape(channels=12),
    shape(channels=136),
    shape(tokens=16),
    shape(tokens=65),
]


@pytest.mark.parametrize("query", TAKEN, ids=str)
def test_what_cudnn_takes_is_what_jax_says(query, cudnn):
    """By the checks that jax makes before it calls cuDNN, of the forward and the backward pass."""
    assert cudnn_takes(query)

    def gradient(x):
        return jax.grad(lambda x: attend(x, x, x, "cudnn").astype(jnp.float32).sum())(x)

    lowered = jax.jit(gradient).trace(query).lower(lowering_platforms=("cuda",))
    calls = set(re.findall(r"__cudnn\$\w+", lowered.as_text()))
    assert calls == {"__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"}


@pytest.mark.parametrize("query", NOT_TAKEN, ids=str)
def test_what_cudnn_does_not_take_is_computed_plainly(query, asked):
    assert not cudnn_takes(query)
    jax.eval_shape(lambda x: attend(x, x, x, "cudnn"), query)
    assert asked == [("xla", query.shape[1], query.shape[1])]


def test_cudnn_has_no_forward_derivative(cudnn):
    """Why likelihoods keep the plain form."""
    ones = jnp.ones((2, 64, 2, 8), HALF)

    def lower(implementation):
        def tangent(x):
            return jax.jvp(lambda x: attend(x, x, x, implementation), (x,), (x,))

        return jax.jit(tangent).trace(ones).lower(lowering_platforms=("cuda",))

    lower("xla")
    with pytest.raises(TypeError, match="forward-mode"):
        lower("cudnn")


XT = jnp.zeros((2, 8, 8, 3))
NETWORKS = {
    "unet": UNet(**WIDE, dtype=HALF),
    "unet_of_tokens": UNet(**WIDE, tokens_channels=5, dtype=HALF),
    "dit": DiT(patch_size=1, width=16, depth=2, num_heads=2, dtype=HALF),
    "classifier": Classifier(**WIDE, num_classes=3, head_dim=8, dtype=HALF),
    "learned_schedule": WithSchedule(DiT(patch_size=1, width=16, depth=2, num_heads=2, dtype=HALF)),
}
SELF, CROSS, POOL = (64, 64), (64, 2), (1, 65)
# What they attend to, as (queries, keys): three times on one level of a U-Net and at its bottom.
ATTENDED = {
    "unet": [SELF] * 4,
    "unet_of_tokens": [SELF, CROSS] * 4,
    "dit": [SELF] * 2,
    "classifier": [SELF] * 2 + [POOL],
    "learned_schedule": [SELF] * 2,
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.wide(2)
def test_a_network_asks_for_what_it_was_told(name, asked):
    module = NETWORKS[name]
    for network, own in ((module, "xla"), (module.with_attention("cudnn"), "cudnn")):
        jax.eval_shape(network.init, jax.random.key(0), XT, jnp.zeros(2))
        # Tokens and pools are few: plain everywhere.
        expected = [(own if pair == SELF else "xla", *pair) for pair in ATTENDED[name]]
        assert asked == expected
        asked.clear()


def test_an_unknown_implementation_is_named():
    with pytest.raises(ValueError, match="attention of xla or cudnn, got 'flash'"):
        attend(jnp.zeros((1, 2, 1, 4)), *[jnp.zeros((1, 2, 1, 4))] * 2, "flash")


@pytest.mark.parametrize(
    ("platform", "capability", "has"),
    [
        ("gpu", "9.0", True),
        ("gpu", "8.0", True),
        ("gpu", "7.0", False),
        ("gpu", "gfx90a", False),
        ("tpu", None, False),
        ("cpu", None, False),
    ],
)
def test_only_gpus_that_have_it_use_it(platform, capability, has, cudnn):
    device = types.SimpleNamespace(platform=platform)
    if capability:
        device.compute_capability = capability
    assert reverse_mode.has_cudnn_attention(device) == has


def test_a_gpu_without_cudnn_does_without():
    device = types.SimpleNamespace(platform="gpu", compute_capability="9.0")
    assert not reverse_mode.has_cudnn_attention(device)


def own_loss(network, schedule, x0, t, eps):
    """One of the user's own, which may differentiate forwards."""
    return ((network(x0, t) - eps) ** 2).mean(axis=(1, 2, 3))


@pytest.mark.parametrize(
    "own", [{}, {"test_attention:own_loss": own_loss}], ids=["built_in", "own"]
)
@pytest.mark.wide(2)
def test_a_step_uses_it_and_nothing_else_does(own, asked, monkeypatch):
    monkeypatch.setattr(reverse_mode, "has_cudnn_attention", lambda device: True)
    model = {"channels": 16, "num_heads": 2, "patch_size": 1, "dtype": "bfloat16"}
    diffusion = {"loss": next(iter(own), "simple")}
    built = experiment.build(brief_config(model=model, diffusion=diffusion), own=own)
    shapes, train_step = (built.state_shapes(), built.batch_shapes()), built.train_step()
    asked.clear()
    train_step.lower(*shapes)
    assert {name for name, *_ in asked} == {"xla" if own else "cudnn"}
    asked.clear()
    params = shapes[0].params
    jax.eval_shape(built.model.apply, {"params": params}, jnp.zeros((2, 8, 8, 1)), jnp.zeros(2))
    assert {name for name, *_ in asked} == {"xla"}
