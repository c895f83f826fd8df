"""Training objectives against the identities between them, KL divergences and expected values."""

import jax
import jax.numpy as jnp
import jax.scipy.stats as jstats
import numpy as np
import oracles
import pytest
from scipy import integrate, stats

from ddpm_jax.diffusion import losses, prediction, process, schedules, weightings

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


def network_of(denoise, form, schedule=SCHEDULE, t=T):
    """The network that predicts `form` and, decoded, is `denoise`; only at these times."""
    t = jnp.asarray(t)

    def network(shown, time):
        np.testing.assert_allclose(time, schedule.network_time(t))
        # What it is shown is x_t times a number of t alone.
        ones = jnp.ones_like(shown)
        xt = shown / prediction.parameterisation(form).scale_input(schedule, ones, t)
        return prediction.encode(form, schedule, xt, t, denoise(xt, t))

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
@pytest.mark.wide(2)
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
    t = jnp.full(n, i / STEPS)
    network = network_of(DATA.denoiser(SCHEDULE), "eps", t=t)
    loss = losses.simple(network, SCHEDULE, x0, t, eps)
    least = BARS[i] * 0.5 / (BARS[i] * 0.5 + 1 - BARS[i])
    assert abs(loss.mean() / least - 1) < 4 * np.sqrt(2 / n)


PATHS = {
    "linear": SCHEDULE,
    "zero_terminal_snr": schedules.zero_terminal_snr(SCHEDULE),
    "vp": schedules.vp_continuous(),
    "sub_vp": schedules.sub_vp(),
    "ve": schedules.ve(),
    "edm": schedules.edm(),
    "flow": schedules.flow(),
}
ANY_PATH = [form for form in FORMS if form != "posterior_mean"]
WEIGHTINGS = {
    "constant": weightings.constant(),
    "snr": weightings.snr(),
    "min_snr": weightings.min_snr(),
    "p2": weightings.p2(),
    "sigmoid": weightings.sigmoid(-1.0),
    "edm": weightings.edm(),
    "truncated_snr": weightings.truncated_snr(),
    "likelihood": weightings.likelihood(),
}


@pytest.mark.parametrize(
    ("path", "form"),
    [(path, form) for path in ("linear", "sub_vp", "ve", "edm", "flow") for form in ANY_PATH]
    + [("linear", "posterior_mean")],
)
def test_a_weighting_multiplies_the_error_of_eps_whatever_is_predicted(path, form):
    schedule = PATHS[path]
    x0, t, eps = batch()
    t = t if path == "linear" else jnp.asarray([0.02, 0.1, 0.3, 0.6, 0.9])
    denoise = DATA.denoiser(schedule)
    xt = process.add_noise(schedule, x0, t, eps)
    error = np.square(denoise(xt, t).eps - eps).mean(axis=(1, 2))
    loss = losses.weighted(
        network_of(denoise, form, schedule, t),
        schedule,
        x0,
        t,
        eps,
        prediction=form,
        weighting=lambda schedule, t: jnp.arange(1.0, 6.0) / t,
    )
    np.testing.assert_allclose(loss, np.arange(1, 6) / t * error, rtol=1e-6)
    plain = losses.weighted(
        network_of(denoise, form, schedule, t), schedule, x0, t, eps, prediction=form
    )
    np.testing.assert_allclose(plain, error, rtol=1e-6)


def both(path, form, t, weighting):
    """The loss in a prediction's own units, and the weighted loss of an eps-network."""
    schedule = PATHS[path]
    x0, eps = batch()[::2]
    t, denoise = jnp.asarray(t), DATA.denoiser(PATHS[path])
    own = losses.simple(
        network_of(denoise, form, schedule, t), schedule, x0, t, eps, prediction=form
    )
    network = network_of(denoise, "eps", schedule, t)
    return own, losses.weighted(network, schedule, x0, t, eps, weighting=weighting)


TIMES = np.array([0.01, 0.1, 0.3, 0.7, 0.95])


def test_the_networks_own_loss_of_edm_is_eps_loss_under_edm_weighting():
    # Karras et al. 2022, equation 8: lambda c_out² = 1.
    for path in ("edm", "vp", "flow"):
        own, weighted = both(path, "edm", TIMES, weightings.edm())
        np.testing.assert_allclose(own, weighted, rtol=1e-9)


def test_flow_matching_is_a_weighted_eps_loss():
    # On its path eps - x_0 - F has error (1 + 1 / sqrt SNR)² times that of eps: Kingma & Gao 2023.
    own, weighted = both(
        "flow",
        "flow",
        TIMES,
        weightings.of_log_snr(lambda log_snr: (1 + jnp.exp(-0.5 * log_snr)) ** 2),
    )
    np.testing.assert_allclose(own, weighted, rtol=1e-9)


def test_score_matching_weighted_by_the_variance_is_l_simple():
    x0, t, eps = batch()
    for path in ("linear", "ve"):
        schedule = PATHS[path]
        network = network_of(DATA.denoiser(schedule), "score", schedule, t)
        xt = process.add_noise(schedule, x0, t, eps)
        # By its definition: the score of q(x_t | x_0) is a derivative of the normal's log density.
        std = schedule.sigma(t)[:, None, None]
        mean = schedule.alpha(t)[:, None, None] * x0
        target = jax.grad(lambda x, m=mean, s=std: jstats.norm.logpdf(x, m, s).sum())(xt)
        error = np.square(network(xt, schedule.network_time(t)) - target).mean(axis=(1, 2))
        loss = losses.score_matching(network, schedule, x0, t, eps)
        np.testing.assert_allclose(loss, schedule.sigma(t) ** 2 * error, rtol=1e-9)
        of_eps = network_of(DATA.denoiser(schedule), "eps", schedule, t)
        np.testing.assert_allclose(loss, losses.simple(of_eps, schedule, x0, t, eps), rtol=1e-9)


@pytest.mark.parametrize("path", ["vp", "sub_vp", "ve", "flow"])
def test_the_likelihood_loss_integrates_to_the_information_about_the_data(path):
    # With the exact denoiser the continuous bound is tight: its integrand is the fall of the
    # mutual information I(x_0; x_t) = 1/2 log(1 + v SNR) (Guo, Shamai & Verdu 2005, eq. 23).
    schedule, low, high = PATHS[path], 0.05, 0.97
    # The error is quadratic: four points with the first two moments give its mean exactly.
    ones = jnp.asarray([1.0, 1, -1, -1])[:, None], jnp.asarray([1.0, -1, 1, -1])[:, None]
    x0, eps = DATA.mean + np.sqrt(DATA.variance) * ones[0], ones[1]

    @jax.jit
    def integrand(t):
        t = jnp.full(4, t)
        xt = process.add_noise(schedule, x0, t, eps)
        output = DATA.denoiser(schedule)(xt, t).x0
        return losses.weighted(
            lambda *_: output,
            schedule,
            x0,
            t,
            eps,
            prediction="x0",
            weighting=weightings.likelihood(),
        ).mean()

    bound, _ = integrate.quad(lambda t: float(integrand(t)), low, high, epsrel=1e-9)
    snr = np.exp(schedule.log_snr(jnp.asarray([low, high])))
    information = 0.5 * np.log1p(DATA.variance * snr)
    assert bound == pytest.approx(information[0] - information[1], rel=1e-7)


def test_the_discrete_likelihood_loss_is_version_1_under_fixed_small():
    x0, t, eps = batch()
    denoise = DATA.denoiser(SCHEDULE)
    kl = losses.simple(
        network_of(denoise, "posterior_mean"),
        SCHEDULE,
        x0,
        t,
        eps,
        prediction="posterior_mean",
        weight=losses.inverse_variance(SCHEDULE, "fixed_small"),
    )
    for form in ("eps", "v"):
        network = network_of(denoise, form)
        loss = losses.weighted(
            network, SCHEDULE, x0, t, eps, prediction=form, weighting=weightings.likelihood()
        )
        np.testing.assert_allclose(loss[1:], STEPS * kl[1:], rtol=1e-9)  # but for the decoder's


@pytest.mark.wide(8)
@pytest.mark.parametrize("path", ["zero_terminal_snr", "flow", "edm", "vp"])
@pytest.mark.parametrize("form", ANY_PATH)
def test_losses_and_gradients_are_finite_where_a_level_vanishes(form, path):
    schedule = PATHS[path]
    first = 1e-6 if schedule.betas is None else 1 / STEPS  # the least that is drawn
    with jax.enable_x64(False):
        t = jnp.asarray([1.0, 1 - 1e-6, 0.5, first])
        x0, eps = jax.random.normal(jax.random.key(0), (2, 4, 3))

        def total(scale):
            loss = {
                name: losses.weighted(
                    lambda xt, time: scale * xt,
                    schedule,
                    x0,
                    t,
                    eps,
                    prediction=form,
                    weighting=weighting,
                )
                for name, weighting in WEIGHTINGS.items()
            }
            return {name: values.sum() for name, values in loss.items()}, loss

        gradients, loss = jax.jit(jax.jacrev(total, has_aux=True))(jnp.float32(0.5))
    for name in WEIGHTINGS:
        assert np.isfinite(loss[name]).all(), name
        assert np.isfinite(gradients[name]), name


@pytest.mark.parametrize("form", ["x0", "v", "flow", "edm"])
def test_a_weight_that_grows_as_alpha_vanishes_keeps_its_limit(form):
    # max(SNR, 1) on the error of x_0: at alpha = 0 that error itself, not 0 times infinity.
    x0, _, eps = batch()
    for path in ("zero_terminal_snr", "flow"):
        schedule, t = PATHS[path], jnp.ones(len(x0))
        network = network_of(lambda xt, t: prediction.Denoised(0.5 * x0, eps), form, schedule, t)
        loss = losses.weighted(
            network,
            schedule,
            x0,
            t,
            eps,
            prediction=form,
            weighting=weightings.truncated_snr(),
        )
        np.testing.assert_allclose(loss, 0.25 * np.square(x0).mean(axis=(1, 2)), rtol=1e-6)


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
