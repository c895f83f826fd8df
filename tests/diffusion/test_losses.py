"""Training objectives against the identities between them, KL divergences and expected values."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy import integrate, stats

from ddpm_jax.diffusion import losses, prediction, process, schedules

STEPS = 100
SCHEDULE = schedules.linear(STEPS)
INDEX = np.array([1, 2, 10, 60, 100])
T = INDEX / STEPS
BARS = oracles.exact_alphas_cumprod(SCHEDULE.betas).astype(np.float64)
SNR = (BARS / (1 - np.where(BARS == 1, 0, BARS)))[INDEX]


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def batch():
    x0, eps = jax.random.normal(jax.random.key(0), (2, len(INDEX), 4, 3), jnp.float64)
    return x0, jnp.asarray(T), eps


def network_of(denoise, form):
    """The network that predicts `form` and, decoded, is `denoise`."""

    def network(xt, time):
        t = (time + 1) / STEPS
        return prediction.encode(form, SCHEDULE, xt, t, denoise(xt, t))

    return network


DATA = oracles.Gaussian(0.3, 0.5)
FORMS = tuple(prediction.PARAMETERISATIONS)


@pytest.mark.parametrize("form", FORMS)
def test_a_network_that_knows_x0_has_no_loss(form):
    x0, t, eps = batch()
    knows = network_of(lambda xt, t: prediction.from_x0(SCHEDULE, xt, t, x0), form)
    loss = losses.simple(knows, SCHEDULE, x0, t, eps, prediction=form)
    assert loss.shape == (len(INDEX),)
    np.testing.assert_allclose(loss, 0, atol=1e-20)


def test_a_network_of_zeros_pays_the_size_of_its_target():
    x0, t, eps = batch()

    def zeros(xt, time):
        return jnp.zeros_like(xt)

    loss = losses.simple(zeros, SCHEDULE, x0, t, eps)
    np.testing.assert_allclose(loss, [np.mean(np.square(e)) for e in eps], rtol=1e-12)
    loss = losses.simple(zeros, SCHEDULE, x0, t, eps, prediction="x0")
    np.testing.assert_allclose(loss, [np.mean(np.square(x)) for x in x0], rtol=1e-12)


@pytest.mark.parametrize(
    ("form", "weight"),
    # Salimans & Ho 2022, section 4: eps weighs x_0's error by the SNR, v by SNR + 1.
    [("eps", SNR), ("v", SNR + 1), ("score", SNR / (1 - BARS[INDEX]))],
)
def test_each_objective_is_a_weighting_of_that_of_x0(form, weight):
    x0, t, eps = batch()
    denoise = DATA.denoiser(SCHEDULE)
    loss, of_x0 = (
        losses.simple(network_of(denoise, name), SCHEDULE, x0, t, eps, prediction=name)
        for name in (form, "x0")
    )
    np.testing.assert_allclose(loss, weight * of_x0, rtol=1e-9)


def test_a_weight_multiplies_each_example():
    x0, t, eps = batch()
    network = network_of(DATA.denoiser(SCHEDULE), "x0")
    plain = losses.simple(network, SCHEDULE, x0, t, eps, prediction="x0")
    weighted = losses.simple(
        network, SCHEDULE, x0, t, eps, prediction="x0", weight=lambda t: jnp.arange(5) + t
    )
    np.testing.assert_allclose(weighted, (np.arange(5) + T) * plain, rtol=1e-12)


@pytest.mark.parametrize("variance", ["fixed_large", "fixed_small"])
def test_version_1_weighted_is_a_kl_divergence(variance):
    # L_{i-1} of Ho et al. 2020, equation 8, between N(mu-tilde, sigma²) and N(mu, sigma²).
    betas = SCHEDULE.betas[INDEX - 1]
    small = (1 - BARS[INDEX - 1]) / (1 - BARS[INDEX]) * betas
    small[0] = (1 - BARS[1]) / (1 - BARS[2]) * SCHEDULE.betas[1]  # clipped at i = 2
    std = np.sqrt(betas if variance == "fixed_large" else small)
    x0, t, eps = batch()
    network = network_of(DATA.denoiser(SCHEDULE), "posterior_mean")
    xt = process.add_noise(SCHEDULE, x0, t, eps)
    truth = process.posterior_mean(SCHEDULE, xt, x0, t - 1 / STEPS, t)
    guess = network(xt, jnp.asarray(INDEX - 1.0))
    expected = [
        np.mean([_kl_by_quadrature(m, g, s) for m, g in zip(ms.ravel(), gs.ravel(), strict=True)])
        for ms, gs, s in zip(np.asarray(truth), np.asarray(guess), std, strict=True)
    ]
    loss = losses.simple(
        network,
        SCHEDULE,
        x0,
        t,
        eps,
        prediction="posterior_mean",
        weight=losses.inverse_variance(SCHEDULE, variance),
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-7)


def _kl_by_quadrature(mean_q, mean_p, std):
    """KL(N(mean_q, std²) || N(mean_p, std²)) by its definition."""
    x = mean_q + np.linspace(-10, 10, 2001) * std
    log_q, log_p = (stats.norm.logpdf(x, mean, std) for mean in (mean_q, mean_p))
    return integrate.simpson(np.exp(log_q) * (log_q - log_p), x=x)


def test_version_1_with_beta_is_version_2_with_the_papers_weight():
    # Ho et al. 2020, equation 12: beta² / (2 sigma² alpha (1 - alpha_bar)) on the error of eps.
    x0, t, eps = batch()
    denoise = DATA.denoiser(SCHEDULE)
    weight = losses.inverse_variance(SCHEDULE)
    version_1 = losses.simple(
        network_of(denoise, "posterior_mean"),
        SCHEDULE,
        x0,
        t,
        eps,
        prediction="posterior_mean",
        weight=weight,
    )
    version_2 = losses.simple(network_of(denoise, "eps"), SCHEDULE, x0, t, eps)
    betas = SCHEDULE.betas[INDEX - 1]
    factor = betas**2 / (2 * betas * (1 - betas) * (1 - BARS[INDEX]))
    np.testing.assert_allclose(version_1, factor * version_2, rtol=1e-8)


def test_the_infinite_weight_of_the_first_step_is_that_of_the_second():
    t = jnp.asarray([1, 2, 3], jnp.float32) / STEPS
    weight = losses.inverse_variance(SCHEDULE, "fixed_small")(t)
    assert np.isfinite(weight).all()
    assert weight[0] == weight[1] > weight[2]


@pytest.mark.parametrize("variance", ["fixed_large", "fixed_small"])
def test_weights_are_precise_enough_in_float32(variance):
    schedule = schedules.linear(1000)
    weight = losses.inverse_variance(schedule, variance)
    t = np.arange(1, 1001) / 1000
    # beta is a difference of numbers below 1: 6e-8 / 2e-3 where it is worst.
    np.testing.assert_allclose(
        weight(jnp.asarray(t, jnp.float32)), weight(jnp.asarray(t)), rtol=1e-4
    )


def test_the_exact_denoiser_pays_the_posterior_variance_of_eps():
    # On N(m, v): Var[eps | x_t] = alpha² v / (alpha² v + sigma²), and nothing can pay less.
    n, i = 20_000, 40
    key_x, key_eps = jax.random.split(jax.random.key(1))
    x0 = DATA.sample(key_x, (n, 1), jnp.float64)
    eps = jax.random.normal(key_eps, (n, 1), jnp.float64)
    network = network_of(DATA.denoiser(SCHEDULE), "eps")
    loss = losses.simple(network, SCHEDULE, x0, jnp.full(n, i / STEPS), eps)
    least = BARS[i] * 0.5 / (BARS[i] * 0.5 + 1 - BARS[i])
    assert abs(loss.mean() / least - 1) < 4 * np.sqrt(2 / n)


def test_half_precision_networks_get_a_float32_loss():
    x0, t, eps = (x.astype(jnp.float32) for x in batch())

    def network(xt, time):
        return jnp.ones_like(xt, jnp.bfloat16)

    loss = losses.simple(network, SCHEDULE, x0, t, eps)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, ((eps - 1) ** 2).mean((1, 2)), rtol=1e-6)
    assert losses.simple(network, SCHEDULE, *batch()).dtype == jnp.float64


def test_the_mean_is_over_everything_but_the_batch():
    x = jnp.arange(24.0).reshape(2, 3, 4)
    zero = jnp.zeros_like(x)
    # 0² + ... + 11² = 506 and 12² + ... + 23² = 3818.
    np.testing.assert_allclose(losses.mean_squared_error(x, zero), [506 / 12, 3818 / 12])
    np.testing.assert_array_equal(losses.mean_squared_error(jnp.array([2.0]), jnp.array([5.0])), 9)


@pytest.mark.parametrize("jit", [False, True])
def test_the_steps_are_uniform_on_1_to_t(jit):
    schedule, keys = schedules.linear(10), jax.random.split(jax.random.key(2), 20_000)
    with jax.enable_x64(False):
        draw = jax.vmap(lambda key: losses.uniform_steps(key, 10))
        t = (jax.jit(draw) if jit else draw)(keys)
        time = np.asarray(schedule.network_time(t))
    assert t.dtype == jnp.float32
    assert 0 < t.min() < t.max() <= 1
    index, counts = np.unique(time, return_counts=True)
    np.testing.assert_array_equal(index, np.arange(10))  # whole numbers: every t is on a node
    assert stats.chisquare(counts).pvalue > 1e-4


def test_a_drawn_step_is_on_its_node_however_the_division_was_compiled():
    # XLA multiplies by 1 / T when it compiles the division: the last bit of t differs from i / T.
    size = 4000
    with jax.enable_x64(False):
        keys = jax.random.split(jax.random.key(3), 50_000)
        t = jax.jit(jax.vmap(lambda key: losses.uniform_steps(key, size)))(keys)
        time = np.asarray(schedules.cosine(size).network_time(t))
    np.testing.assert_array_equal(time, np.rint(np.asarray(t, np.float64) * size) - 1)


def test_bad_input_is_refused():
    x0, t, eps = batch()
    network = network_of(DATA.denoiser(SCHEDULE), "eps")
    with pytest.raises(ValueError, match="differ in shape"):
        losses.simple(lambda xt, time: xt[..., :1], SCHEDULE, x0, t, eps)
    with pytest.raises(ValueError, match="one shape"):
        losses.simple(network, SCHEDULE, x0, t, eps[:, :1])
    with pytest.raises(ValueError, match="'noise'"):
        losses.simple(network, SCHEDULE, x0, t, eps, prediction="noise")
    with pytest.raises(ValueError, match="'learned'"):
        losses.inverse_variance(SCHEDULE, "learned")
    with pytest.raises(ValueError, match="at least 2 steps"):
        losses.inverse_variance(schedules.linear(1), "fixed_small")
    with pytest.raises(ValueError, match="continuous"):
        losses.inverse_variance(schedules.Schedule(jnp.cos, jnp.sin, jnp.abs))
