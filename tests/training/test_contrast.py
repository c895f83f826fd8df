"""A batch whose rows are compared: in parts, and on several devices, the whole batch's gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.diffusion import losses
from ddpm_jax.runtime import sharding
from ddpm_jax.training import freezing, gradients, plans, players, state, step
from ddpm_jax.training.dispatched import Dispatched
from ddpm_jax.training.objectives.augmented import augmented, flip
from ddpm_jax.training.objectives.contrast import contrast, triplets
from ddpm_jax.training.parts import Parts

SIZE, WORDS, WIDTH = 16, 11, 6
MESHES = {"1": (1, 1), "8": (8, 1), "2x4": (2, 4)}


def rows(params, batch, key, train):
    """A linear map of pixels, and the mean of words, both to unit length."""
    pixels = batch["x0"].reshape(len(batch["x0"]), -1)
    both = {
        "image": jnp.tanh(pixels @ params["image"]),
        "text": params["text"][batch["tokens"]].mean(1),
    }
    return {name: x / jnp.linalg.norm(x, axis=1, keepdims=True) for name, x in both.items()}


OBJECTIVE = contrast(rows, lambda params: jnp.exp(params["log_scale"]))


def init(key):
    one, two = jax.random.split(key)
    return {
        "image": jax.random.normal(one, (12, WIDTH)),
        "text": jax.random.normal(two, (WORDS, WIDTH)),
        "log_scale": jnp.log(1 / 0.07),
    }


def batch_of(seed=0):
    rng = np.random.default_rng(seed)
    x0 = rng.standard_normal((SIZE, 2, 6, 1)).astype(np.float32)
    return {"x0": x0, "tokens": rng.integers(0, WORDS, (SIZE, 3))}


def seen(objective, parts, mesh=None):
    """What the batch says, jitted, its rows where the mesh has them."""
    batch = batch_of()
    if mesh is not None:
        batch = sharding.put_batch(batch, sharding.batch_sharding(mesh))
    params = init(jax.random.key(0))

    def see(params, batch):
        inputs = gradients.Inputs(objective, params, jax.random.key(1), {})
        return gradients.see_in_parts(inputs, batch, parts)

    return jax.device_get(jax.jit(see)(params, batch))


def assert_same(one, other, rtol=1e-6):
    distance = optax.tree.norm(jax.tree.map(np.subtract, one.gradient, other.gradient))
    assert distance < rtol * optax.tree.norm(other.gradient)
    np.testing.assert_allclose(one.weighted, other.weighted, rtol=1e-5, atol=1e-6)


@functools.cache
def whole():
    return seen(OBJECTIVE, Parts())


@pytest.mark.parametrize(("count", "mesh"), [(1, "8"), (4, "1"), (2, "8"), (2, "2x4")])
def test_in_parts_and_on_devices_the_gradient_is_that_of_the_whole_batch(count, mesh):
    mesh = sharding.make_mesh(*MESHES[mesh])
    found = seen(OBJECTIVE, Parts(count, mesh), mesh)
    assert_same(found, whole())
    # The scale's gradient comes of the comparison alone, the towers' of their rows.
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(whole().gradient))


def test_parts_that_were_compared_by_themselves_would_not_do():
    params = init(jax.random.key(0))
    batch = batch_of()

    halves = []
    for part in (slice(0, 8), slice(8, 16)):
        own = {name: rows[part] for name, rows in batch.items()}
        halves.append(OBJECTIVE(params, own, jax.random.key(1), True, {}).loss.mean())
    assert abs(np.mean(halves) / whole().weighted.mean() - 1) > 0.02


def test_wrapped_objectives_wrap_both_halves():
    parts = Parts(4)
    moved = augmented(OBJECTIVE, {"flip": flip})
    assert_same(seen(moved, parts), seen(moved, Parts()))
    assert not np.allclose(seen(moved, Parts()).weighted, whole().weighted)
    held = freezing.objective(OBJECTIVE, ("text",))
    assert_same(seen(held, parts), seen(held, Parts()))
    assert not seen(held, parts).gradient["text"].any()


def test_triplets_of_a_batch_in_parts():
    objective = triplets(rows, margin=1.0)
    found, expected = seen(objective, Parts(4)), seen(objective, Parts())
    assert_same(found, expected)
    params, batch = init(jax.random.key(0)), batch_of()
    both = rows(params, batch, None, True)
    squares = ((both["image"][:, None] - both["text"][None]) ** 2).sum(-1)
    others = jnp.where(jnp.eye(SIZE, dtype=bool), jnp.inf, squares).min(axis=1)
    by_hand = jnp.maximum(jnp.diagonal(squares) - others + 1, 0)
    np.testing.assert_allclose(expected.weighted, by_hand, rtol=1e-4, atol=1e-5)


def test_a_player_is_shown_parts_too():
    sides = {
        "towers": players.Player(OBJECTIVE, optax.sgd(0.1), ("image", "text")),
        "scale": players.Player(OBJECTIVE, optax.sgd(0.1), ("log_scale",)),
    }
    first = players.init_state(init, sides, 0)
    plan = players.make_plan(sides, ema_decay=0.9, ema_warmup=False)
    one, other = (
        jax.device_get(jax.jit(plans.in_one_program(plan, parts))(first, batch_of())[0].params)
        for parts in (Parts(), Parts(2))
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), one, other)


def test_the_host_cannot_show_them():
    plan = step.make_plan(OBJECTIVE, optax.sgd(0.1), ema_decay=None)
    mesh = sharding.make_mesh(1, 1)
    first = state.init_state(init, optax.sgd(0.1), 0, average=False)
    dispatched = Dispatched(plan, Parts(2, mesh), sharding.state_sharding(mesh, first))
    with pytest.raises(ValueError, match="go by twice within one program"):
        dispatched(first, batch_of())


def test_the_scale_stays_at_its_bound():
    """Pairs that are told apart ask for ever more of it."""
    params = {"image": jnp.eye(12), "text": jnp.eye(12), "log_scale": jnp.log(120.0)}
    objective = contrast(rows, lambda params: jnp.exp(params["log_scale"]))
    x0 = jnp.eye(12)[:, :, None, None].reshape(12, 2, 6, 1)
    batch = {"x0": x0, "tokens": jnp.arange(12)[:, None]}

    def loss(params):
        return objective(params, batch, jax.random.key(0), True, {}).loss.mean()

    assert jax.grad(loss)(params)["log_scale"] == 0
    expected = losses.clip_loss(jnp.eye(12), jnp.eye(12), 100.0).mean()
    np.testing.assert_allclose(loss(params), expected, atol=1e-6)
