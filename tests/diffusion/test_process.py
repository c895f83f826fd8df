"""The forward process and its posterior against composition, Bayes' rule, diffusers and draws."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy import integrate, stats

from ddpm_jax.diffusion import process, schedules

BUILDERS = {"linear": schedules.linear, "cosine": schedules.cosine}
PEER_NAMES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
STRAIGHT = schedules.Schedule(alpha=lambda t: 1 - t, sigma=lambda t: t, network_time=lambda t: t)


@pytest.fixture
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("name", BUILDERS)
def test_the_steps_compose_to_the_marginal(name):
    size = 1000
    schedule = BUILDERS[name](size)
    i = jnp.arange(1, size + 1)
    x = jnp.ones((size, 1))
    steps = process.transition(schedule, x, (i - 1) / size, i / size)
    np.testing.assert_allclose(steps.variance, schedule.betas, rtol=1e-9)
    np.testing.assert_allclose(steps.mean[:, 0] ** 2, 1 - schedule.betas, rtol=1e-9)
    # x_i = a x_{i-1} + noise: the mean is multiplied, the variance scaled by a² and added to.
    mean, variance = 1.0, 0.0
    composed = []
    for factor, noise in zip(np.asarray(steps.mean)[:, 0], np.asarray(steps.variance), strict=True):
        mean, variance = factor * mean, factor**2 * variance + noise
        composed.append((mean, variance))
    whole = process.marginal(schedule, x, i / size)
    np.testing.assert_allclose(np.array(composed)[:, 0], whole.mean[:, 0], rtol=1e-9)
    np.testing.assert_allclose(np.array(composed)[:, 1], whole.variance, rtol=1e-9)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("schedule", [schedules.linear(), schedules.cosine(50), STRAIGHT])
def test_any_two_transitions_make_one(schedule):
    x = jnp.array([[2.0, -1.0]])
    r, s, t = 0.12, 0.46, 0.84
    first = process.transition(schedule, x, r, s)
    second = process.transition(schedule, first.mean, s, t)
    factor = second.mean / first.mean
    both = process.transition(schedule, x, r, t)
    np.testing.assert_allclose(second.mean, both.mean, rtol=1e-10)
    composed = factor[0, 0] ** 2 * first.variance + second.variance
    np.testing.assert_allclose(composed, both.variance, rtol=1e-10)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("schedule", [schedules.linear(), schedules.cosine(10), STRAIGHT])
@pytest.mark.parametrize(("s", "t"), [(0.1, 0.2), (0.3, 0.9), (0.899, 0.9)])
def test_the_posterior_is_bayes_rule_on_a_grid(schedule, s, t):
    x0, xt = 0.7, -0.4
    alpha_s, sigma_s = float(schedule.alpha(s)), float(schedule.sigma(s))
    step = process.transition(schedule, jnp.ones((1, 1)), s, t)
    # q(x_s | x_t, x_0) is proportional to q(x_t | x_s) q(x_s | x_0), as densities of x_s.
    factor, std = float(step.mean[0, 0]), float(jnp.sqrt(step.variance))
    widths = np.array([sigma_s, std / factor])
    centre = np.average([alpha_s * x0, xt / factor], weights=1 / widths**2)
    grid = centre + np.linspace(-12, 12, 20_001) * widths.min()
    log_joint = stats.norm.logpdf(xt, factor * grid, std)
    log_joint += stats.norm.logpdf(grid, alpha_s * x0, sigma_s)
    density = np.exp(log_joint - log_joint.max())
    density /= integrate.simpson(density, x=grid)
    mean = integrate.simpson(density * grid, x=grid)
    variance = integrate.simpson(density * (grid - mean) ** 2, x=grid)
    posterior = process.posterior(schedule, jnp.full((1, 1), xt), jnp.full((1, 1), x0), s, t)
    np.testing.assert_allclose(posterior.mean, [[mean]], rtol=1e-7)
    np.testing.assert_allclose(posterior.variance, variance, rtol=1e-7)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("name", BUILDERS)
def test_the_posterior_is_that_of_diffusers(name, monkeypatch):
    diffusers, torch = pytest.importorskip("diffusers"), pytest.importorskip("torch")
    size = 1000
    schedule = BUILDERS[name](size)
    peer = diffusers.DDPMScheduler(
        size, beta_schedule=PEER_NAMES[name], prediction_type="sample", clip_sample=False
    )
    # Its float32 tables are 1e-3 off in 1 - alpha_bar at the first steps; its formulas are not.
    exact = oracles.exact_alphas_cumprod(schedule.betas)[1:]
    peer.alphas_cumprod = torch.tensor(exact.astype(np.float64))
    peer.one = torch.tensor(1.0).double()
    noise = iter(np.tile([1.0, -1.0], 10))
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor",
        lambda shape, dtype, **_: torch.full(shape, next(noise), dtype=dtype),
    )
    x0, xt = np.random.default_rng(0).normal(size=(2, 1, 4))
    for i in (1, 2, 50, 500, 999, 1000):
        s, t = (i - 1) / size, i / size
        ours = process.posterior(schedule, jnp.asarray(xt), jnp.asarray(x0), s, t)
        variance = peer._get_variance(i - 1, variance_type="fixed_small").numpy()
        # Theirs clamps the 0 of the first step at 1e-20.
        np.testing.assert_allclose(ours.variance, variance, rtol=1e-9, atol=1.1e-20)
        # Their step() is the mean plus noise: opposite draws average to the mean.
        steps = [peer.step(torch.tensor(x0), i - 1, torch.tensor(xt)).prev_sample for _ in range(2)]
        np.testing.assert_allclose(ours.mean, sum(steps).numpy() / 2, rtol=1e-9)


@pytest.mark.parametrize("schedule", [schedules.linear(), schedules.cosine(10), STRAIGHT])
@pytest.mark.wide(3)
def test_the_posterior_at_time_0_is_x0_itself(schedule):
    xt, x0 = jax.random.normal(jax.random.key(0), (2, 5, 3))
    posterior = process.posterior(schedule, xt, x0, 0.0, jnp.array([0.1, 0.2, 0.5, 0.9, 1.0]))
    assert np.array_equal(posterior.variance, np.zeros(5))
    np.testing.assert_allclose(posterior.mean, x0, rtol=1e-6)


def test_the_posterior_of_exact_data_is_consistent_with_the_chain():
    # Averaging the posterior over q(x_t | x_0) gives q(x_s | x_0) back: the tower property.
    schedule, s, t = schedules.linear(), 0.25, 0.5
    with jax.enable_x64(True):
        x0 = jnp.full((1, 1), 1.3)
        at_t, at_s = (process.marginal(schedule, x0, time) for time in (t, s))
        low, high = (
            process.posterior(schedule, at_t.mean + shift, x0, s, t).mean for shift in (0.0, 1.0)
        )
        spread = (high - low)[0, 0] ** 2 * at_t.variance
        np.testing.assert_allclose(low, at_s.mean, rtol=1e-10)
        variance = process.posterior_variance(schedule, s, t)
        np.testing.assert_allclose(spread + variance, at_s.variance, rtol=1e-10)


def test_add_noise_draws_the_marginal():
    schedule, n, t = schedules.linear(), 20_000, 0.4
    x0 = jnp.full((n, 1), 1.5)
    eps = jax.random.normal(jax.random.key(0), x0.shape)
    xt = np.asarray(process.add_noise(schedule, x0, t, eps))
    exact = float(oracles.exact_alphas_cumprod(schedule.betas)[400])
    assert abs(xt.mean() - 1.5 * np.sqrt(exact)) < 4 * np.sqrt((1 - exact) / n)
    assert abs(xt.var() / (1 - exact) - 1) < 4 * np.sqrt(2 / n)
    same = process.marginal(schedule, x0, t).sample(eps)
    np.testing.assert_allclose(xt, same, rtol=1e-5)


def test_add_noise_equals_diffusers():
    diffusers, torch = pytest.importorskip("diffusers"), pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    x0, eps = rng.normal(size=(2, 3, 4, 4, 2)).astype(np.float32)
    i = np.array([1, 437, 1000])
    peer = diffusers.DDPMScheduler(1000)
    theirs = peer.add_noise(torch.tensor(x0), torch.tensor(eps), torch.tensor(i - 1)).numpy()
    t = jnp.asarray(i / 1000, jnp.float32)
    ours = process.add_noise(schedules.linear(), jnp.asarray(x0), t, jnp.asarray(eps))
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_a_gaussian_is_sampled_with_its_mean_and_variance():
    n = 20_000
    mean, variance = jnp.array([[1.0], [-2.0]]), jnp.array([0.25, 4.0])
    noise = jax.random.normal(jax.random.key(1), (2, n))
    x = np.asarray(process.Gaussian(jnp.broadcast_to(mean, (2, n)), variance).sample(noise))
    assert (abs(x.mean(1) - mean[:, 0]) < 4 * np.sqrt(variance / n)).all()
    assert (abs(x.var(1) / variance - 1) < 4 * np.sqrt(2 / n)).all()
    x = process.Gaussian(jnp.zeros((2, n)), jnp.float32(9)).sample(noise)
    np.testing.assert_allclose(x, 3 * noise, rtol=1e-6)


def test_the_dtype_and_the_batch_follow_the_data():
    schedule = schedules.linear()
    with jax.enable_x64(True):
        x = jnp.zeros((3, 2), jnp.float64)
        out = process.posterior(schedule, x, x, jnp.float32(0.2), jnp.float32(0.3))
        assert out.mean.dtype == out.variance.dtype == jnp.float64
    t = jnp.array([0.1, 0.5, 0.9])
    images = jax.random.normal(jax.random.key(0), (3, 4, 2, 1))
    batch = process.transition(schedule, images, t / 2, t)
    assert batch.mean.shape == images.shape
    assert batch.variance.shape == (3,)
    for k in range(3):
        one = process.transition(schedule, images[k : k + 1], t[k : k + 1] / 2, t[k : k + 1])
        np.testing.assert_allclose(one.mean[0], batch.mean[k], rtol=1e-6)
        np.testing.assert_allclose(one.variance[0], batch.variance[k], rtol=1e-6)


@pytest.mark.parametrize("function", [process.marginal, process.transition])
def test_times_of_another_batch_are_refused(function):
    x, t = jnp.zeros((3, 2)), jnp.array([0.5])
    arguments = (x, t) if function is process.marginal else (x, t / 2, t)
    with pytest.raises(ValueError, match=r"\[B\].*\(1,\).*\(3, 2\)"):
        function(schedules.linear(), *arguments)


def test_mismatched_shapes_are_refused():
    schedule, x, narrow = schedules.linear(), jnp.zeros((3, 2)), jnp.zeros((3, 1))
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(3, 1\)"):
        process.add_noise(schedule, x, 0.5, narrow)
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(3, 1\)"):
        process.posterior_mean(schedule, x, narrow, 0.4, 0.5)
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(3, 1\)"):
        process.marginal(schedule, x, 0.5).sample(narrow)
