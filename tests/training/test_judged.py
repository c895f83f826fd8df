"""What stands beside an autoencoder: a discriminator of its images, codes that are averages."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.cluster import KMeans

from ddpm_jax.diffusion.losses.adversarial import GAMES
from ddpm_jax.training import players
from ddpm_jax.training.objectives import autoencode, judged
from ddpm_jax.training.objectives.autoencode import Autoencoding, Through
from ddpm_jax.training.objectives.judged import Judging
from ddpm_jax.training.objectives.moving_codes import moving_codes
from ddpm_jax.training.players import Player

KEY = jax.random.key(5)


def linear(params, x0, eps, train, rngs):
    """A linear encoder and decoder; the bottleneck costs the latents' squares."""
    latents = x0 @ params["encoder"]["kernel"]
    mean = latents @ params["decoder"]["out"]["kernel"]
    return Through(mean, jnp.zeros(()), (latents**2).sum(axis=1))


WAY = Autoencoding(linear, (2,), autoencode.squared, weight=0.1)


def judge(params, images):
    """A discriminator that is not linear in images."""
    return jnp.tanh(images @ params["discriminator"]["kernel"])


def judging(start=0, weight=0.5):
    return Judging(judge, GAMES["hinge"], weight, start, ("decoder", "out", "kernel"))


@pytest.fixture
def params():
    a, b, c = jax.random.split(KEY, 3)
    return {
        "encoder": {"kernel": jax.random.normal(a, (4, 2))},
        "decoder": {"out": {"kernel": jax.random.normal(b, (2, 4))}},
        "discriminator": {"kernel": jax.random.normal(c, (4, 3))},
    }


@pytest.fixture
def batch():
    return {"x0": jax.random.normal(jax.random.key(9), (6, 4))}


def value(objective, params, batch, steps):
    extra = {judged.STEPS: jnp.asarray(steps, jnp.int32)}
    return objective(params, batch, KEY, True, extra).loss.mean()


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_the_adversarys_weight_is_the_ratio_of_gradients_of_a_linear_decoder(params, batch, weight):
    """In closed form: both gradients at the last kernel are latents' outer products."""
    x0 = np.asarray(batch["x0"], np.float64)
    latents = x0 @ np.asarray(params["encoder"]["kernel"], np.float64)
    mean = latents @ np.asarray(params["decoder"]["out"]["kernel"], np.float64)
    of_distance = latents.T @ (2 * (mean - x0) / 4) / 6
    kernel = np.asarray(params["discriminator"]["kernel"], np.float64)
    slope = -(1 - np.tanh(mean @ kernel) ** 2) @ kernel.T / 3
    of_adversary = latents.T @ slope / 6
    ratio = np.linalg.norm(of_distance) / (np.linalg.norm(of_adversary) + 1e-4)

    own = judged.autoencoder(WAY, judging(weight=weight))
    plain = autoencode.autoencode(WAY)(params, batch, KEY, True, {}).loss.mean()
    adversary = -judge(params, jnp.asarray(mean, jnp.float32)).mean()
    want = float(plain) + weight * ratio * float(adversary)
    assert float(value(own, params, batch, 0)) == pytest.approx(want, rel=1e-5)

    # No gradient goes through the weight.
    def fixed(params):
        made = linear(params, batch["x0"], None, True, None)
        loss = WAY.apart(batch["x0"], made, {}) + WAY.held(batch["x0"], made)
        return loss.mean() - weight * ratio * judge(params, made.mean).mean()

    found = jax.grad(lambda p: value(own, p, batch, 0))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        {name: found[name] for name in ("encoder", "decoder")},
        {name: jax.grad(fixed)(params)[name] for name in ("encoder", "decoder")},
    )


def test_how_images_look_counts_beside_their_distance(params, batch):
    """The frozen tree is given by name; its part of the loss is its weight times what it says."""

    def looks(tree, x, y):
        return tree["scale"] * jnp.abs(x - y).max(axis=1)

    seen = WAY._replace(looks=looks, looks_weight=0.3)
    tree = {"scale": jnp.asarray(2.0)}
    plain = autoencode.autoencode(WAY)(params, batch, KEY, True, {}).loss
    objective = autoencode.autoencode(seen)
    assert objective.needs == ("perceptual",)
    found = objective(params, batch, KEY, True, {}, perceptual=tree).loss
    mean = linear(params, batch["x0"], None, True, None).mean
    want = plain + 0.3 * 2 * jnp.abs(batch["x0"] - mean).max(axis=1)
    np.testing.assert_allclose(found, want, rtol=1e-5)
    # It is among what the adversary is weighed against.
    extra = {judged.STEPS: jnp.zeros((), jnp.int32)}
    both = judged.autoencoder(seen, judging())(params, batch, KEY, True, extra, perceptual=tree)
    alone = judged.autoencoder(WAY, judging())(params, batch, KEY, True, extra)
    fakes = -judge(params, mean).mean(axis=1)
    assert not np.allclose(both.loss - found, alone.loss - plain)
    np.testing.assert_allclose(np.ptp((both.loss - found) / fakes), 0, atol=1e-4)


def test_before_its_start_a_discriminator_has_no_part(params, batch):
    own, plain = judged.autoencoder(WAY, judging(start=3)), autoencode.autoencode(WAY)
    want = plain(params, batch, KEY, True, {}).loss.mean()
    assert value(own, params, batch, 2) == want
    assert value(own, params, batch, 3) != want
    other = judged.discriminator(WAY, judging(start=3))
    assert value(other, params, batch, 2) == 0
    gradient = jax.grad(lambda p: value(other, p, batch, 3))(params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient["decoder"]))
    assert np.any(gradient["discriminator"]["kernel"])


def test_the_start_is_counted_in_steps_of_the_run(params, batch):
    both = {
        "autoencoder": Player(
            judged.autoencoder(WAY, judging(2)), optax.sgd(0.1), ("encoder", "decoder")
        ),
        "discriminator": Player(
            judged.discriminator(WAY, judging(2)), optax.sgd(0.1), ("discriminator",)
        ),
    }
    state = players.init_state(lambda key: params, both, 0, average=False)
    step, moved = jax.jit(players.make_train_step(both, ema_decay=None)), []
    for _ in range(4):
        after, _ = step(state, batch)
        moved.append(
            bool(
                (
                    after.params["discriminator"]["kernel"]
                    != state.params["discriminator"]["kernel"]
                ).any()
            )
        )
        state = after
    assert moved == [False, False, True, True]


def test_without_memory_a_step_of_moving_codes_is_one_of_lloyds():
    vectors = np.random.default_rng(3).normal(size=(40, 2)).astype(np.float32)
    first = vectors[:5] + 0.01
    objective = moving_codes(lambda params, x0: x0[:, None, None, :], decay=0.0, smoothing=0.0)
    own = {"codes": Player(objective, optax.sgd(1.0), ("codebook",))}
    params = {"codebook": jnp.asarray(first), "encoder": jnp.ones(3)}
    state = players.init_state(lambda key: params, own, 0, average=False)
    state, metrics = players.make_train_step(own, ema_decay=None)(state, {"x0": vectors})
    lloyd = KMeans(5, init=first, n_init=1, max_iter=1, algorithm="lloyd").fit(vectors)
    np.testing.assert_allclose(state.params["codebook"], lloyd.cluster_centers_, atol=1e-5)
    np.testing.assert_array_equal(state.params["encoder"], params["encoder"])
    moved = np.square(np.asarray(state.params["codebook"]) - first).sum() / 2
    assert float(metrics["loss"]) == pytest.approx(moved, rel=1e-4)


def test_moving_codes_remember_with_their_decay():
    """A code that is given the same vector in every step comes to it as a geometric mean does."""
    objective = moving_codes(lambda params, x0: x0[:, None, None, :], decay=0.9, smoothing=0.0)
    own = {"codes": Player(objective, optax.sgd(1.0), ("codebook",))}
    state = players.init_state(
        lambda key: {"codebook": jnp.asarray([[1.0], [50.0]])}, own, 0, average=False
    )
    step = jax.jit(players.make_train_step(own, ema_decay=None))
    for _ in range(3):
        state, _ = step(state, {"x0": np.full((1, 1), 3.0, np.float32)})
    share = 0.9**3  # what is left of the first vector, 1
    np.testing.assert_allclose(state.params["codebook"][0], [share + 3 * (1 - share)], rtol=1e-5)
    np.testing.assert_allclose(state.params["codebook"][1], [50.0], rtol=1e-6)
