"""Games of a discriminator and a generator, where both sides' optima are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from ddpm_jax.diffusion.losses import adversarial
from ddpm_jax.diffusion.losses.adversarial import GAMES


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def densities():
    """p of the data and g of the generator, over ten values."""
    rng = np.random.default_rng(0)
    return rng.dirichlet(np.ones(10)), rng.dirichlet(np.ones(10))


def expected_loss(game, logits, p, g):
    """The discriminator's, over all values; logits [10] of each."""
    shaped = logits[:, None]
    return (p * game.of_real(shaped)[:, 0] + g * game.of_fake(shaped)[:, 0]).sum()


@pytest.mark.parametrize("name", ["minimax", "non_saturating"])
def test_at_p_over_p_plus_g_the_gradient_vanishes_and_the_value_is_the_divergence(name, densities):
    p, g = densities
    best = jnp.asarray(np.log(p) - np.log(g))  # the logit of p / (p + g)

    def loss(logits):
        return expected_loss(GAMES[name], logits, p, g)

    np.testing.assert_allclose(jax.grad(loss)(best), 0, atol=1e-15)
    assert np.abs(jax.grad(loss)(0.9 * best)).max() > 1e-3
    value = -loss(best)
    np.testing.assert_allclose(value, 2 * jensenshannon(p, g) ** 2 - np.log(4), atol=1e-12)


def test_the_hinge_at_its_best_is_the_overlap_of_both(densities):
    p, g = densities
    best = jnp.asarray(np.sign(p - g))
    value = expected_loss(GAMES["hinge"], best, p, g)
    np.testing.assert_allclose(value, 2 * np.minimum(p, g).sum(), atol=1e-12)
    for _ in range(20):
        other = jnp.asarray(np.random.default_rng(_).uniform(-2, 2, 10))
        assert expected_loss(GAMES["hinge"], other, p, g) >= value


def test_least_squares_at_its_best_is_half_the_share(densities):
    p, g = densities
    best = jnp.asarray(p / (p + g))
    gradient = jax.grad(lambda logits: expected_loss(GAMES["least_squares"], logits, p, g))(best)
    np.testing.assert_allclose(gradient, 0, atol=1e-15)


@pytest.mark.parametrize("name", GAMES)
def test_a_generator_moves_towards_what_is_taken_for_real(name):
    """Its loss falls as the logit of its fakes rises."""
    logits = jnp.linspace(-3, 3, 13)[:, None]
    if name == "least_squares":
        logits = logits[logits[:, 0] < 1]
    slope = jax.vmap(jax.grad(lambda one: GAMES[name].of_generator(one[None])[0, 0]))(logits)
    assert (np.asarray(slope) < 0).all()


def test_where_the_discriminator_is_sure_only_the_non_saturating_generator_learns():
    """Goodfellow et al. 2014, section 3: log(1 - D) saturates."""
    sure = jnp.array([-12.0])
    slopes = {
        name: float(jax.grad(lambda one, game=GAMES[name]: game.of_generator(one)[0])(sure)[0])
        for name in ("minimax", "non_saturating")
    }
    assert abs(slopes["minimax"]) < 1e-5
    assert slopes["non_saturating"] == pytest.approx(-1, abs=1e-4)


def test_losses_are_means_over_the_patches_of_each_pair():
    rng = np.random.default_rng(1)
    real, fake = jnp.asarray(rng.standard_normal((2, 3, 4, 4, 1)))
    game = GAMES["hinge"]
    found = adversarial.of_discriminator(game, real, fake)
    alone = [
        adversarial.of_discriminator(game, real[k : k + 1, i : i + 1], fake[k : k + 1, i : i + 1])
        for k in range(3)
        for i in range(4)
    ]
    np.testing.assert_allclose(found, np.reshape(alone, (3, 4)).mean(axis=1), atol=1e-14)
    assert adversarial.of_generator(game, fake).shape == (3,)


def test_the_gradient_penalty_of_a_quadratic_is_known():
    """logit = x' A x / 2 has the gradient A x, so R1 is |A x|²."""
    rng = np.random.default_rng(2)
    root = rng.standard_normal((4, 4))
    matrix, x = root @ root.T, rng.standard_normal((5, 2, 2))

    def discriminate(x):
        flat = x.reshape(len(x), -1)
        return 0.5 * jnp.einsum("bi,ij,bj->b", flat, matrix, flat)[:, None]

    found = adversarial.gradient_penalty(discriminate, jnp.asarray(x))
    np.testing.assert_allclose(found, ((x.reshape(5, -1) @ matrix) ** 2).sum(axis=1), rtol=1e-12)


def test_the_adaptive_weight_of_a_linear_decoder_is_the_ratio_of_known_gradients():
    """x-hat = W h: for |x - W h|² / 2 and -a' W h the gradients are (W h - x) h' and -a h'."""
    rng = np.random.default_rng(3)
    weights, h, x, a = (rng.standard_normal(s) for s in ((3, 2), (2,), (3,), (3,)))
    of_likelihood = jax.grad(lambda w: 0.5 * ((x - w @ h) ** 2).sum())(jnp.asarray(weights))
    of_adversary = jax.grad(lambda w: -a @ (w @ h))(jnp.asarray(weights))
    found = adversarial.adaptive_weight({"kernel": of_likelihood}, {"kernel": of_adversary})
    norm = np.linalg.norm
    want = norm(weights @ h - x) * norm(h) / (norm(a) * norm(h) + 1e-4)
    np.testing.assert_allclose(found, want, rtol=1e-12)


def test_the_adaptive_weight_has_bounds_and_no_gradient():
    one, none = jnp.ones(2), jnp.zeros(2)
    assert adversarial.adaptive_weight(one, none) == pytest.approx(1e4)
    assert adversarial.adaptive_weight(none, one) == 0
    slope = jax.grad(lambda scale: adversarial.adaptive_weight(scale * one, one))(2.0)
    assert slope == 0
