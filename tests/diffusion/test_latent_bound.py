"""The bound of a model with latents, beside closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy import stats

from ddpm_jax.diffusion import likelihood
from ddpm_jax.diffusion.likelihood import posteriors
from ddpm_jax.training.objectives import autoencode

X, Z, NOISE = 6, 3, 0.7  # dimensions, and the noise's standard deviation


class LinearGaussian:
    """x = W z + mu + NOISE eps: probabilistic PCA (Tipping & Bishop 1999), everything known.

    The columns of W are orthogonal, so the exact posterior has a diagonal covariance.
    """

    def __init__(self, rng):
        basis, _ = np.linalg.qr(rng.standard_normal((X, Z)))
        self.weights = basis * np.array([2.0, 1.0, 0.5])
        self.mu = rng.standard_normal(X)
        self.covariance = self.weights @ self.weights.T + NOISE**2 * np.eye(X)
        self.x = rng.multivariate_normal(self.mu, self.covariance, 5)

    def log_likelihood(self):
        return stats.multivariate_normal(self.mu, self.covariance).logpdf(self.x)

    def posterior(self, shift=0.0, widen=0.0):
        """The exact one, or a wrong one."""
        precision = np.linalg.inv(self.weights.T @ self.weights + NOISE**2 * np.eye(Z))
        mean = (self.x - self.mu[None]) @ self.weights @ precision
        log_variance = np.broadcast_to(np.log(NOISE**2 * np.diag(precision)), mean.shape)
        return posteriors.Posterior(jnp.asarray(mean + shift), jnp.asarray(log_variance + widen))

    def bound(self, posterior, eps):
        z = posteriors.sample(posterior, eps)
        mean = z @ self.weights.T + self.mu[None]
        log_variance = jnp.asarray(2 * np.log(NOISE))
        return z, likelihood.negative_elbo(jnp.asarray(self.x), mean, log_variance, posterior)


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def model():
    return LinearGaussian(np.random.default_rng(0))


def cubature(draw):
    """The expectation over eps of what is quadratic in it, by 2 Z points (exact)."""
    points = np.sqrt(Z) * np.concatenate([np.eye(Z), -np.eye(Z)])
    return np.mean([draw(np.broadcast_to(p, (5, Z))) for p in points], axis=0)


def test_at_the_exact_posterior_the_bound_is_the_log_likelihood_of_pca(model):
    elbo = -cubature(lambda eps: model.bound(model.posterior(), jnp.asarray(eps))[1].total)
    np.testing.assert_allclose(elbo, model.log_likelihood(), atol=1e-10)


def test_a_wrong_posterior_loses_its_divergence_from_the_exact_one(model):
    wrong, right = model.posterior(shift=0.3, widen=0.5), model.posterior()
    elbo = -cubature(lambda eps: model.bound(wrong, jnp.asarray(eps))[1].total)

    def normal(posterior):
        mean, std = posterior.mean, np.exp(0.5 * np.asarray(posterior.log_variance))
        return torch.distributions.Normal(torch.tensor(np.asarray(mean)), torch.tensor(std))

    lost = torch.distributions.kl_divergence(normal(wrong), normal(right)).sum(1).numpy()
    np.testing.assert_allclose(model.log_likelihood() - elbo, lost, atol=1e-10)


def test_the_divergence_from_the_prior_is_torchs_and_that_of_draws():
    rng = np.random.default_rng(1)
    mean, log_variance = rng.standard_normal((2, 4, 2, 3))
    posterior = posteriors.Posterior(jnp.asarray(mean), jnp.asarray(log_variance))
    normal = torch.distributions.Normal(torch.tensor(mean), torch.tensor(np.exp(log_variance / 2)))
    standard = torch.distributions.Normal(0.0, 1.0)
    theirs = torch.distributions.kl_divergence(normal, standard)
    np.testing.assert_allclose(posteriors.kl_by_dimension(posterior), theirs, atol=1e-12)
    np.testing.assert_allclose(posteriors.kl(posterior), theirs.sum((1, 2)), atol=1e-12)

    eps = rng.standard_normal((20_000, 4, 2, 3))
    z = jax.vmap(posteriors.sample, (None, 0))(posterior, jnp.asarray(eps))
    inside = jax.vmap(posteriors.log_density, (None, 0))(posterior, z)
    draws = np.asarray(inside) - stats.norm.logpdf(np.asarray(z)).sum((2, 3))
    error = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - posteriors.kl(posterior)) < 4 * error).all()


def test_of_a_class_that_is_told_it_is_the_likelihood_given_the_class(model):
    """The objective itself, of a linear decoder whose mean the class moves."""
    shifts = np.random.default_rng(4).standard_normal((3, X))
    labels = np.array([0, 2, 1, 2, 0])
    x = model.x + shifts[labels]
    precision = np.linalg.inv(model.weights.T @ model.weights + NOISE**2 * np.eye(Z))
    log_variance = jnp.broadcast_to(jnp.log(NOISE**2 * jnp.diag(jnp.asarray(precision))), (5, Z))

    def through(params, x0, eps, train, rngs, *, label):
        centre = (model.mu[None] + shifts)[label]
        mean = (x0 - centre) @ model.weights @ precision
        posterior = posteriors.Posterior(mean, log_variance)
        decoded = posteriors.sample(posterior, eps) @ model.weights.T + centre
        return autoencode.Through(decoded, jnp.asarray(2 * np.log(NOISE)), posteriors.kl(posterior))

    way = autoencode.Autoencoding(through, (Z,), autoencode.of_likelihood(None), told_label=True)
    objective = autoencode.autoencode(way)
    batch = {"x0": jnp.asarray(x), "label": jnp.asarray(labels)}
    keys = jax.random.split(jax.random.key(0), 4_000)
    losses = jax.jit(jax.vmap(lambda key: objective({}, batch, key, False, {}).loss))(keys)
    want = -stats.multivariate_normal(model.mu, model.covariance).logpdf(model.x) / X
    draws = np.asarray(losses)
    error = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - want) < 4 * error).all()
    assert error.max() < 0.01
    other = {**batch, "label": jnp.asarray((labels + 1) % 3)}
    assert (objective({}, other, jax.random.key(0), False, {}).loss > want).mean() > 0.5


def test_near_the_prior_the_divergence_keeps_its_digits():
    posterior = posteriors.Posterior(jnp.zeros((1, 1)), jnp.full((1, 1), 1e-4, jnp.float32))
    np.testing.assert_allclose(posteriors.kl(posterior), 1e-4**2 / 4, rtol=1e-3)


def test_at_the_exact_posterior_every_weight_is_the_likelihood(model):
    eps = jnp.asarray(np.random.default_rng(2).standard_normal((7, 5, Z)))
    posterior = model.posterior()

    def weights(one):
        z, bound = model.bound(posterior, one)
        return likelihood.log_weights(bound.reconstruction, posterior, z)

    each = jax.vmap(weights)(eps)
    want = np.broadcast_to(model.log_likelihood(), each.shape)
    np.testing.assert_allclose(each, want, atol=1e-10)
    np.testing.assert_allclose(likelihood.importance_weighted(each), want[0], atol=1e-10)


def test_more_draws_tighten_the_bound_of_a_wrong_encoder(model):
    posterior = model.posterior(shift=0.5, widen=-0.4)
    eps = np.random.default_rng(3).standard_normal((4_000, 64, 5, Z))

    def weights(one):
        z, bound = model.bound(posterior, one)
        return likelihood.log_weights(bound.reconstruction, posterior, z)

    each = jax.jit(jax.vmap(jax.vmap(weights)))(jnp.asarray(eps))  # [4000, 64, 5]
    bounds = {}
    for k in (1, 4, 16, 64):
        found = jax.vmap(likelihood.importance_weighted)(each[:, :k]).mean(axis=1)
        bounds[k] = np.asarray(found)
    truth = model.log_likelihood().mean()
    for few, many in ((1, 4), (4, 16), (16, 64)):
        gain = bounds[many] - bounds[few]
        assert gain.mean() > 3 * gain.std(ddof=1) / np.sqrt(len(gain)), (few, many)
    last = bounds[64]
    assert last.mean() < truth + 3 * last.std(ddof=1) / np.sqrt(len(last))


def test_pixels_have_probabilities_that_sum_to_one():
    levels = 17
    values = jnp.linspace(-1, 1, levels)[:, None, None, None]
    posterior = posteriors.Posterior(jnp.zeros((levels, 1)), jnp.zeros((levels, 1)))
    found = likelihood.negative_elbo(
        values, jnp.full(values.shape, 0.3), jnp.asarray(-2.0), posterior, levels
    )
    np.testing.assert_allclose(np.exp(-found.reconstruction).sum(), 1, atol=1e-12)
    np.testing.assert_allclose(found.kl, 0, atol=1e-15)


def test_a_posterior_of_moments_is_kept_within_bounds():
    moments = jnp.array([[[0.5, -0.5, 100.0, -100.0]]])
    posterior = posteriors.of_moments(moments)
    np.testing.assert_array_equal(posterior.mean, [[[0.5, -0.5]]])
    np.testing.assert_array_equal(posterior.log_variance, [[[20.0, -30.0]]])
    with pytest.raises(ValueError, match="even number of channels, got 3"):
        posteriors.of_moments(jnp.zeros((1, 3)))
