"""The cross-entropy of tokens given those before: torch's, in parts and on several devices."""

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
    return next_token(MODEL.apply, whole, **{"label_dropout": 0.5} | options)


def params():
    return MODEL.init(jax.random.key(0), BATCH["x0"])["params"]


def test_the_loss_is_torchs_cross_entropy():
    torch = pytest.importorskip("torch")
    counts = np.arange(LENGTH)[None, :] < RNG.integers(1, LENGTH + 1, (SIZE, 1))
    masked = next_token(MODEL.apply, lambda batch: (batch["x0"], counts), label_dropout=0.0)
    found = masked(params(), BATCH, jax.random.key(1), False, {}).loss
    logits = MODEL.apply({"params": params()}, BATCH["x0"], {"label": BATCH["label"]})
    of_torch = torch.nn.functional.cross_entropy(
        torch.tensor(np.asarray(logits)).transpose(1, 2),
        torch.tensor(BATCH["x0"]).long(),
        reduction="none",
    ).numpy()
    np.testing.assert_allclose(found, (of_torch * counts).sum(axis=1) / LENGTH, rtol=1e-5)


def test_labels_are_hidden_in_training_alone():
    one = objective()
    seen = [one.draws((), BATCH, jax.random.key(k), True, {})["label"] for k in range(200)]
    share = np.mean(np.stack(seen) == -1)
    assert abs(share - 0.5) < 5 * np.sqrt(0.25 / (200 * SIZE))
    assert (np.where(np.stack(seen) == -1, BATCH["label"], seen) == BATCH["label"]).all()
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


@pytest.mark.parametrize(("count", "shape"), [(4, (1, 1)), (1, (8, 1)), (2, (2, 4))])
def test_in_parts_and_on_devices_the_gradient_is_that_of_the_whole_batch(count, shape):
    mesh = sharding.make_mesh(*shape)
    found, expected = seen(Parts(count, mesh), mesh), seen(Parts())
    distance = optax.tree.norm(jax.tree.map(np.subtract, found.gradient, expected.gradient))
    assert distance < 1e-6 * optax.tree.norm(expected.gradient)
    np.testing.assert_allclose(found.weighted, expected.weighted, rtol=1e-5)
    assert jnp.isfinite(found.weighted).all()
