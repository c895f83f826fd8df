"""The cross-entropy of tokens given those before: torch's, in parts and on several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.models import LanguageModel
from ddpm_jax.runtime import sharding
from ddpm_jax.training import gradients
from ddpm_jax.training.objectives.next_token import next_token
from ddpm_jax.training.parts import Parts

SIZE, LENGTH, VOCABULARY = 16, 5, 7
MODEL = LanguageModel(VOCABULARY, LENGTH, width=16, depth=1, num_heads=2, num_classes=4)
RNG = np.random.default_rng(0)
BATCH = {
    "x0": RNG.integers(0, VOCABULARY, (SIZE, LENGTH)).astype(np.int32),
    "label": np.arange(SIZE, dtype=np.int32) % 4,
}


def whole(batch):
    return batch["x0"], None


def objective(**options):
    return next_token(MODEL.apply, whole, **{"dropout": {"label": 0.5}} | options)


@functools.cache
def params():
    return MODEL.init(jax.random.key(0), BATCH["x0"])["params"]


def test_the_loss_is_torchs_cross_entropy():
    torch = pytest.importorskip("torch")
    counts = np.arange(LENGTH)[None, :] < RNG.integers(1, LENGTH + 1, (SIZE, 1))
    masked = next_token(MODEL.apply, lambda batch: (batch["x0"], counts), dropout={"label": 0.0})
    loss_of = jax.jit(lambda params: masked(params, BATCH, jax.random.key(1), False, {}).loss)
    found = loss_of(params())
    variables, labels = {"params": params()}, {"label": BATCH["label"]}
    logits = jax.jit(MODEL.apply)(variables, BATCH["x0"], labels)
    of_torch = torch.nn.functional.cross_entropy(
        torch.tensor(np.asarray(logits)).transpose(1, 2),
        torch.tensor(BATCH["x0"]).long(),
        reduction="none",
    ).numpy()
    np.testing.assert_allclose(found, (of_torch * counts).sum(axis=1) / LENGTH, rtol=1e-5)


def test_labels_are_hidden_in_training_alone():
    one = objective()
    keys = jax.random.split(jax.random.key(0), 200)
    seen = jax.jit(jax.vmap(lambda key: one.draws((), BATCH, key, True, {})["label"]))(keys)
    share = np.mean(seen == -1)
    assert abs(share - 0.5) < 5 * np.sqrt(0.25 / (200 * SIZE))
    assert (np.where(seen == -1, BATCH["label"][None], seen) == BATCH["label"][None]).all()
    np.testing.assert_array_equal(
        one.draws((), BATCH, jax.random.key(0), False, {})["label"], BATCH["label"]
    )
    assert next_token(MODEL.apply, whole).draws((), BATCH, jax.random.key(0), True, {}) == {}


def seen(parts, mesh=None):
    batch = BATCH
    if mesh is not None:
        batch = sharding.put_batch(batch, sharding.batch_sharding(mesh))

    def see(params, batch):
        inputs = gradients.Inputs(objective(), params, jax.random.key(1), {})
        return gradients.see_in_parts(inputs, batch, parts)

    return jax.device_get(jax.jit(see)(params(), batch))


@functools.cache
def whole_batch():
    return seen(Parts())


@pytest.mark.parametrize(("count", "shape"), [(4, (1, 1)), (1, (8, 1)), (2, (2, 4))])
def test_in_parts_and_on_devices_the_gradient_is_that_of_the_whole_batch(count, shape):
    mesh = sharding.make_mesh(*shape)
    found, expected = seen(Parts(count, mesh), mesh), whole_batch()
    distance = optax.tree.norm(jax.tree.map(np.subtract, found.gradient, expected.gradient))
    assert distance < 1e-6 * optax.tree.norm(expected.gradient)
    np.testing.assert_allclose(found.weighted, expected.weighted, rtol=1e-5)
    assert jnp.isfinite(found.weighted).all()
