"""Classifier guidance, composition, intervals and rescaling on data whose classes are known."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy import stats

from ddpm_jax import samplers
from ddpm_jax.diffusion import guidance, prediction, process, schedules
from ddpm_jax.samplers import grids

DATA = oracles.Mixture([0.2, 0.5, 0.3], [[-1.0, 0.5], [1.0, 0.0], [0.2, -1.0]], [0.3, 0.1, 0.2])
PATHS = {
    "linear": schedules.linear(),
    "zero-snr": schedules.zero_terminal_snr(schedules.linear()),
    "vp": schedules.vp_continuous(),
    "ve": schedules.ve(),
    "flow": schedules.flow(),
}
TIMES = jnp.array([0.001, 0.05, 0.3, 0.7, 0.95])


@pytest.fixture
def _float64():
    with jax.enable_x64(True):
        yield


def noised(dtype=jnp.float64):
    return jax.random.normal(jax.random.key(0), (len(TIMES), 2), dtype)


def gradient_of(schedule, k):
    """That of log p(class k | x_t), of the exact classifier."""
    return guidance.gradient(lambda xt, t: DATA.log_posterior(schedule, xt, t)[:, k])


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("k", [0, 2])
@pytest.mark.wide(4)
def test_guidance_by_the_exact_classifier_is_the_conditional_denoiser(path, k):
    # Bayes: grad log q(x_t) + grad log p(k | x_t) = grad log q(x_t | k).
    schedule, xt, t = PATHS[path], noised(), TIMES.astype(jnp.float64)
    guided = guidance.classifier(DATA.denoiser(schedule), schedule, gradient_of(schedule, k))
    out, expected = guided(xt, t), DATA.component(k).denoiser(schedule)(xt, t)
    np.testing.assert_allclose(out.eps, expected.eps, atol=1e-9)
    np.testing.assert_allclose(out.x0, expected.x0, atol=1e-8)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scale", [-1.0, 0.5, 3.0])
@pytest.mark.wide(4)
def test_at_other_scales_it_is_the_score_of_the_tilted_noised_density(path, scale):
    schedule, xt, t = PATHS[path], noised(), TIMES.astype(jnp.float64)

    def log_tilted(xt):
        log_class = DATA.log_posterior(schedule, xt, t)[:, 1]
        return (DATA.log_density(schedule, xt, t) + scale * log_class).sum()

    guided = guidance.classifier(DATA.denoiser(schedule), schedule, gradient_of(schedule, 1), scale)
    out = guided(xt, t)
    alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
    np.testing.assert_allclose(out.eps, -sigma * jax.grad(log_tilted)(xt), atol=1e-9)
    np.testing.assert_allclose(alpha * out.x0 + sigma * out.eps, xt, atol=1e-9)


def test_scale_0_asks_no_classifier_and_alpha_0_changes_nothing():
    schedule = PATHS["zero-snr"]
    denoise = DATA.denoiser(schedule)
    assert guidance.classifier(denoise, schedule, gradient_of(schedule, 0), 0.0) is denoise
    # A trained classifier's gradient is no exact 0 there, and x_0 must not become infinite.
    wild = guidance.classifier(denoise, schedule, lambda xt, t: jnp.full_like(xt, 1e3))
    xt, end = noised(jnp.float32), jnp.ones(len(TIMES))
    np.testing.assert_array_equal(wild(xt, end).x0, denoise(xt, end).x0)
    np.testing.assert_array_equal(wild(xt, end).eps, denoise(xt, end).eps)


def test_guided_samples_are_those_of_the_class():
    schedule = PATHS["flow"]
    guided = guidance.classifier(DATA.denoiser(schedule), schedule, gradient_of(schedule, 2))
    times = grids.log_snr_uniform(schedule, 40)

    @jax.jit
    def draw(key):
        x = samplers.initial_noise(key, schedule, times, (4000, 2))
        return samplers.dpm_solver_pp(guided, schedule, times, key, x, order=3)

    x0 = np.asarray(draw(jax.random.key(3)), np.float64)
    for values, mean in zip(x0.T, DATA.means[2], strict=True):
        # Solver and start are exact to about 0.01 of the deviation: the rest is sampling.
        statistic = stats.kstest(values, stats.norm(mean, np.sqrt(DATA.variances[2])).cdf)
        assert statistic.pvalue > 1e-3, mean


def test_a_classifiers_logits_are_read_at_the_networks_time():
    schedule = PATHS["linear"]
    weights = jax.random.normal(jax.random.key(1), (2, 5))

    def apply_fn(variables, xt, time):
        return (xt @ variables["params"] + time[:, None] * jnp.arange(5.0)[None] / 1000).astype(
            jnp.bfloat16
        )

    labels = jnp.array([0, 4, 2, 1, 3])
    xt = noised(jnp.float32)
    log_prob = guidance.class_log_prob(apply_fn, weights, schedule, labels)(xt, TIMES)
    time = np.rint(np.asarray(TIMES) * 1000) - 1  # the network counts from 0
    logits = np.asarray(apply_fn({"params": weights}, xt, jnp.asarray(time)), np.float64)
    expected = np.log(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    assert log_prob.dtype == jnp.float32
    np.testing.assert_allclose(log_prob, expected[np.arange(5), labels], atol=0.1, rtol=1e-3)


@pytest.mark.usefixtures("_float64")
def test_composition_adds_the_log_likelihoods_of_conditions():
    # Two independent attributes of a 2 x 2 mixture: x is left or right, y is low or high.
    means = np.array([[x, y] for x in (-1.0, 1.0) for y in (-1.0, 1.0)])
    grid = oracles.Mixture(np.full(4, 0.25), means, np.full(4, 0.1))
    right = oracles.Mixture([0.5, 0.5], means[2:], [0.1, 0.1])
    high = oracles.Mixture([0.5, 0.5], means[1::2], [0.1, 0.1])
    schedule, xt, t = PATHS["linear"], noised(), TIMES.astype(jnp.float64)
    parts = [one.denoiser(schedule) for one in (right, high)]
    both = guidance.composed(grid.denoiser(schedule), parts, [1.0, 1.0])(xt, t)
    expected = grid.component(3).denoiser(schedule)(xt, t)
    np.testing.assert_allclose(both.eps, expected.eps, atol=1e-9)
    # Away from "right", with as much weight, is towards the left in the noised log-likelihoods.
    away = guidance.composed(grid.denoiser(schedule), parts, [-2.0, 1.0])(xt, t)
    scores = [
        jax.grad(lambda x, one=one: one.log_density(schedule, x, t).sum())(xt)
        for one in (grid, right, high)
    ]
    sigma = schedule.sigma(t)[:, None]
    mixed = scores[0] - 2 * (scores[1] - scores[0]) + (scores[2] - scores[0])
    np.testing.assert_allclose(away.eps, -sigma * mixed, atol=1e-9)


def network(variables, xt, time, conditions):
    return jnp.sin(xt + variables["params"][conditions["label"]]) + time[:, None] / 100


def test_composed_branches_share_one_call():
    schedule, params = PATHS["linear"], jnp.array([[0.0, 0.1], [1.0, -1.0], [2.0, 0.5]])
    labels = [{"label": jnp.full(5, k)} for k in (1, 2)]
    null, sizes = {"label": jnp.zeros(5, jnp.int32)}, []

    def counted(variables, xt, time, conditions):
        sizes.append(len(xt))
        return network(variables, xt, time, conditions)

    xt = noised(jnp.float32)
    for scales, calls in (([2.0, -0.5], 15), ([0.0, 1.0], 5), ([0.0, 0.0], 5)):
        sizes.clear()
        once = guidance.composed_network(counted, params, schedule, labels, null, scales)
        found = once(xt, TIMES)
        assert sizes == [calls]
        parts = [
            prediction.denoiser(network, params, schedule, conditions=c) for c in (null, *labels)
        ]
        expected = guidance.composed(parts[0], parts[1:], scales)(xt, TIMES)
        np.testing.assert_allclose(found.eps, expected.eps, rtol=1e-5, atol=1e-5)


def test_scales_of_images_lead_from_one_label_to_another():
    """Image k is that of the scales (w (1 - share_k), w share_k) alone."""
    schedule, params = PATHS["linear"], jnp.array([[0.0, 0.1], [1.0, -1.0], [2.0, 0.5]])
    labels = [{"label": jnp.full(5, k)} for k in (1, 2)]
    null, share = {"label": jnp.zeros(5, jnp.int32)}, jnp.linspace(0, 1, 5)
    xt = noised(jnp.float32)

    def guided(scales):
        return guidance.composed_network(network, params, schedule, labels, null, scales)(xt, TIMES)

    along = guided([3 * (1 - share), 3 * share])
    for k in range(5):
        alone = guided([3 * (1 - float(share[k])), 3 * float(share[k])])
        np.testing.assert_allclose(along.eps[k], alone.eps[k], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(along.x0[k], alone.x0[k], rtol=1e-5, atol=1e-4)
    # Traced, as a sampler's caller may: the same program for all shares.
    jitted = jax.jit(lambda share: guided([3 * (1 - share), 3 * share]).eps)
    np.testing.assert_allclose(jitted(share), along.eps, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"one for each of 5, got \(4,\)"):
        guided([share[:4], share])


def test_an_interval_guides_within_and_leaves_the_rest_conditional():
    schedule = PATHS["flow"]
    given, none = DATA.component(0).denoiser(schedule), DATA.denoiser(schedule)
    levels = np.array([0.1, 0.5, 2.0, 9.0])
    t = jnp.asarray(levels / (1 + levels))  # of flow, sigma / alpha = t / (1 - t)
    xt = jax.random.normal(jax.random.key(0), (4, 2))
    scale = guidance.within(schedule, 4.0, 0.4, 3.0)
    out = guidance.classifier_free(given, none, scale)(xt, t)
    guided = guidance.classifier_free(given, none, 4.0)(xt, t)
    np.testing.assert_allclose(out.eps[1:3], guided.eps[1:3], rtol=1e-6)
    np.testing.assert_allclose(out.eps[::3], given(xt, t).eps[::3], atol=1e-6)
    endless = guidance.within(schedule, 4.0, 0.0, np.inf)
    np.testing.assert_array_equal(endless(jnp.array([0.0, 0.5, 1.0])), 4.0)


def test_rescaling_restores_the_deviation_of_the_conditional_image():
    schedule = PATHS["zero-snr"]
    given, none = DATA.component(0).denoiser(schedule), DATA.denoiser(schedule)
    xt = jax.random.normal(jax.random.key(0), (4, 2))
    t = jnp.array([0.0, 0.2, 0.6, 1.0])
    plain = guidance.classifier_free(given, none, 6.0)(xt, t)
    for share in (0.7, 1.0):
        out = guidance.classifier_free(given, none, 6.0, rescale=share, schedule=schedule)(xt, t)
        wanted, found = (np.std(one.x0, axis=1) for one in (given(xt, t), plain))
        np.testing.assert_allclose(
            np.std(out.x0, axis=1), share * wanted + (1 - share) * found, rtol=1e-4
        )
        alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
        inside = np.asarray(t) > 0  # at t = 0 x_t is x_0, whatever the estimate
        np.testing.assert_allclose(
            (alpha * out.x0 + sigma * out.eps)[inside], xt[inside], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda d: guidance.composed(d, [d, d], [1.0]), "one scale for each.*2 and 1"),
        (lambda d: guidance.classifier_free(d, d, 2.0, rescale=0.5), "rescale=0.5.*schedule"),
        (
            lambda d: guidance.classifier_free(d, d, 2.0, rescale=2.0, schedule=PATHS["vp"]),
            "rescale=2.0",
        ),
        (lambda d: guidance.within(PATHS["vp"], 2.0, 3.0, 1.0), "low=3.0, high=1.0"),
    ],
)
def test_bad_options_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(DATA.denoiser(PATHS["vp"]))


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.wide(2)
def test_the_shifted_mean_falls_short_by_the_factor_that_the_docs_give(variance):
    """One step of ancestral: Sigma w gradient against (alpha_s / alpha_t) beta w gradient."""
    schedule = PATHS["linear"]
    times = np.array([0.8, 0.6])
    x, key = noised(), jax.random.key(5)
    options = {"variance": variance}
    denoise, gradient = DATA.denoiser(schedule), gradient_of(schedule, 0)
    plain = samplers.ancestral(denoise, schedule, times, key, x, **options)
    by_denoiser = samplers.ancestral(
        guidance.classifier(denoise, schedule, gradient, 2.0), schedule, times, key, x, **options
    )
    by_mean = samplers.ancestral(
        denoise, schedule, times, key, x, mean_gradient=lambda x, t: 2 * gradient(x, t), **options
    )
    (alpha_t, alpha_s), (sigma_t, sigma_s) = schedule.values(times)
    factor = alpha_t / alpha_s * (1 if variance == "fixed_large" else sigma_s**2 / sigma_t**2)
    np.testing.assert_allclose(by_mean - plain, factor * (by_denoiser - plain), rtol=1e-6)
    # And the shift itself is Sigma times the gradient.
    t = jnp.full(len(x), 0.8)
    beta = process.transition_variance(schedule, jnp.full(len(x), 0.6), t)
    sigma2 = beta[0] * (1 if variance == "fixed_large" else (sigma_s / sigma_t) ** 2)
    np.testing.assert_allclose(by_mean - plain, 2 * sigma2 * gradient(x, t), rtol=1e-4)
