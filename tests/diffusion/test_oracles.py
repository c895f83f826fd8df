"""The closed forms that other tests lean on, checked against calculus and simulation."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy import integrate, stats

from ddpm_jax.diffusion import schedules
from ddpm_jax.diffusion.schedules import Schedule

STRAIGHT = Schedule(alpha=lambda t: 1 - t, sigma=lambda t: t, network_time=lambda t: t)
EXPLODING = Schedule(alpha=jnp.ones_like, sigma=lambda t: 80 * t, network_time=lambda t: t)
PATHS = {"linear": schedules.linear(), "straight": STRAIGHT, "exploding": EXPLODING}

DATA = {
    "gaussian": oracles.Gaussian([0.5, -1.0], [0.3, 2.0]),
    "point": oracles.point_mass([0.5, -1.0]),
    "mixture": oracles.Mixture([0.2, 0.5, 0.3], [[1, 0], [-1, 2], [0, -1]], [0.1, 0.3, 0.0]),
}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", DATA)
@pytest.mark.wide(4)
def test_the_score_is_the_gradient_and_the_denoiser_obeys_tweedie(kind, path):
    data, schedule = DATA[kind], PATHS[path]
    t = np.array([0.05, 0.3, 0.7, 1.0])
    xt = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2)))
    gradient = jax.grad(lambda x: data.log_density(schedule, x, t).sum())(xt)
    np.testing.assert_allclose(data.score(schedule, xt, t), gradient, rtol=1e-9)
    out = data.denoiser(schedule)(xt, jnp.asarray(t))
    alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
    # Tweedie's formula: alpha E[x_0 | x_t] = x_t + sigma² score.
    np.testing.assert_allclose(alpha * out.x0, xt + sigma**2 * gradient, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(alpha * out.x0 + sigma * out.eps, xt, rtol=1e-9)


def test_the_denoiser_of_a_mixture_is_the_posterior_mean_by_quadrature():
    weights, means, variances = [0.3, 0.7], [[-1.0], [0.8]], [0.2, 0.05]
    data, schedule, t, xt = oracles.Mixture(weights, means, variances), PATHS["linear"], 0.3, 0.1
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))

    def joint(x0):
        prior = sum(
            w * stats.norm.pdf(x0, m[0], np.sqrt(v))
            for w, m, v in zip(weights, means, variances, strict=True)
        )
        return prior * stats.norm.pdf(xt, alpha * x0, sigma)

    evidence = integrate.quad(joint, -4, 4, epsabs=1e-13)[0]
    expected = integrate.quad(lambda x0: x0 * joint(x0), -4, 4, epsabs=1e-13)[0] / evidence
    x = jnp.full((1, 1), xt)
    np.testing.assert_allclose(data.denoiser(schedule)(x, jnp.array([t])).x0, [[expected]], 1e-9)
    np.testing.assert_allclose(data.log_density(schedule, x, t), [np.log(evidence)], rtol=1e-9)


def test_the_samples_of_a_mixture_have_its_moments():
    data, n = oracles.Mixture([0.25, 0.75], [[2.0], [-1.0]], [0.5, 0.1]), 40_000
    x = np.asarray(data.sample(jax.random.key(0), n))
    mean = 0.25 * 2 - 0.75
    variance = 0.25 * (0.5 + (2 - mean) ** 2) + 0.75 * (0.1 + (-1 - mean) ** 2)
    assert abs(x.mean() - mean) < 4 * np.sqrt(variance / n)
    assert x.var() == pytest.approx(variance, rel=0.03)


@pytest.mark.parametrize("path", PATHS)
def test_the_flow_map_solves_the_probability_flow_ode(path):
    data, schedule = DATA["gaussian"], PATHS[path]
    alpha_rate, sigma_rate = jax.grad(schedule.alpha), jax.grad(schedule.sigma)

    @jax.jit
    def drift(t, x):
        out = data.denoiser(schedule)(x[None], t[None])
        return alpha_rate(t) * out.x0[0] + sigma_rate(t) * out.eps[0]

    start = np.array([0.7, -0.4])
    # Between nodes, and within one interval: the linear table has kinks at its nodes.
    t, s = (0.8009, 0.8001) if path == "linear" else (0.8, 0.2)
    solution = integrate.solve_ivp(
        lambda time, x: np.asarray(drift(jnp.asarray(time), jnp.asarray(x))),
        (t, s),
        start,
        rtol=1e-9,
        atol=1e-9,
    )
    flowed = data.flow_map(schedule, jnp.asarray(start)[None], t, s)[0]
    np.testing.assert_allclose(solution.y[:, -1], flowed, rtol=1e-6)
    assert abs(flowed - start).max() > 1e-4
