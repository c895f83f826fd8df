"""CLIP guidance on data whose classes are known: a CLIP that is exact is the exact classifier."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy import stats

from ddpm_jax import samplers
from ddpm_jax.diffusion import guidance, process, schedules
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
SCALE = 1e4  # of the dot products of unit vectors; far above any log-posterior


@pytest.fixture
def _float64():
    with jax.enable_x64(True):
        yield


def noised(dtype=jnp.float64):
    return jax.random.normal(jax.random.key(0), (len(TIMES), 2), dtype)


def exact_clip(schedule, texts):
    """A CLIP of unit vectors whose logits are log p(class | x_t) / p(class), of each image's text.

    The first entries of f are the logits, divided by the scale; the last one fills it up to 1.
    """

    def embed(xt, t):
        logits = DATA.log_posterior(schedule, xt, t) - jnp.log(jnp.array(DATA.weights))[None]
        first = logits / SCALE
        rest = jnp.sqrt(1 - (first**2).sum(axis=1, keepdims=True))
        return jnp.concatenate([first, rest], axis=1)

    text_embeds = jnp.eye(4)[jnp.asarray(texts)]
    return guidance.clip_log_prob(embed, text_embeds, SCALE)


def exact_classifier(schedule, labels):
    def log_prob(xt, t):
        posterior = DATA.log_posterior(schedule, xt, t)
        return jnp.take_along_axis(posterior, jnp.asarray(labels)[:, None], axis=1)[:, 0]

    return log_prob


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.wide(3)
def test_an_exact_clip_guides_as_the_exact_classifier_each_image_to_its_own_text(path):
    schedule, xt, t = PATHS[path], noised(), TIMES.astype(jnp.float64)
    texts = np.array([2, 0, 1, 2, 0])
    denoise = DATA.denoiser(schedule)

    @functools.partial(jax.jit, static_argnums=2)
    def both(xt, t, scale):
        return [
            guidance.classifier(denoise, schedule, guidance.gradient(judge), scale)(xt, t)
            for judge in (exact_clip(schedule, texts), exact_classifier(schedule, texts))
        ]

    for scale in (1.0, 3.0):
        by_clip, by_classifier = both(xt, t, scale)
        np.testing.assert_allclose(by_clip.eps, by_classifier.eps, rtol=0, atol=1e-9)
        np.testing.assert_allclose(by_clip.x0, by_classifier.x0, rtol=0, atol=1e-9)
    # Bayes: at scale 1 each row is the denoiser of its own class.
    by_clip, _ = both(xt, t, 1.0)
    own = [DATA.component(text).denoiser(schedule)(xt, t).eps[k] for k, text in enumerate(texts)]
    np.testing.assert_allclose(by_clip.eps, np.stack(own), rtol=0, atol=1e-9)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.wide(2)
def test_as_a_shift_of_the_mean_it_is_the_exact_classifiers_too(variance):
    """mean + s Sigma grad(f . g), a step of Algorithm 1; the gradient is a difference of scores."""
    schedule, times, texts = PATHS["linear"], np.array([0.8, 0.6]), np.array([1, 0, 2, 1, 1])
    x, key, denoise = noised(), jax.random.key(5), DATA.denoiser(PATHS["linear"])

    @functools.partial(jax.jit, static_argnums=0)
    def step(judge=None):
        shift = None
        if judge is not None:
            gradient = guidance.gradient(judge(schedule, texts))
            shift = lambda xt, t: 2 * gradient(xt, t)  # noqa: E731
        return samplers.ancestral(
            denoise, schedule, times, key, x, variance=variance, mean_gradient=shift
        )

    plain, by_clip, by_classifier = step(), step(exact_clip), step(exact_classifier)
    np.testing.assert_allclose(by_clip, by_classifier, rtol=0, atol=1e-9)
    t = jnp.full(len(x), 0.8)
    slopes = [
        DATA.component(text).score(schedule, x, t)[k] - DATA.score(schedule, x, t)[k]
        for k, text in enumerate(texts)
    ]
    _, (sigma_t, sigma_s) = schedule.values(times)
    beta = process.transition_variance(schedule, jnp.full(len(x), 0.6), t)[0]
    sigma2 = beta * (1 if variance == "fixed_large" else (sigma_s / sigma_t) ** 2)
    np.testing.assert_allclose(by_clip - plain, 2 * sigma2 * np.stack(slopes), rtol=1e-7)


def test_samples_of_an_exact_clip_are_those_of_their_texts():
    schedule, num = PATHS["flow"], 4000
    texts = np.arange(num) % 2 * 2
    gradient = guidance.gradient(exact_clip(schedule, texts))
    guided = guidance.classifier(DATA.denoiser(schedule), schedule, gradient)
    times = grids.log_snr_uniform(schedule, 40)

    @jax.jit
    def draw(key):
        x = samplers.initial_noise(key, schedule, times, (num, 2))
        return samplers.dpm_solver_pp(guided, schedule, times, key, x, order=3)

    x0 = np.asarray(draw(jax.random.key(3)), np.float64)
    for text in (0, 2):
        for values, mean in zip(x0[texts == text].T, DATA.means[text], strict=True):
            # Solver and start are exact to about 0.01 of the deviation: the rest is sampling.
            law = stats.norm(mean, np.sqrt(DATA.variances[text]))
            assert stats.kstest(values, law.cdf).pvalue > 1e-3, (text, mean)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.wide(3)
def test_through_the_estimate_it_follows_the_denoisers_own_slope(path):
    """On Gaussian data x_0-hat is linear: its slope is alpha v / (alpha² v + sigma²), by hand."""
    schedule, xt, t = PATHS[path], noised(), TIMES.astype(jnp.float64)
    mean, variance, scale = np.array([0.3, -0.2]), 0.4, 1.7
    data, sought, calls = oracles.Gaussian(mean, variance), jnp.array([[1.0, -0.5]]), []

    def judge(x0, t):
        return -((x0 - sought) ** 2).sum(axis=1) / (2 * 0.3)

    def denoise(xt, t):
        calls.append(1)
        return data.denoiser(schedule)(xt, t)

    out = jax.jit(guidance.by_estimate(denoise, schedule, judge, scale))(xt, t)
    assert len(calls) == 1
    alpha, sigma = (np.asarray(f(t))[:, None] for f in (schedule.alpha, schedule.sigma))
    total = alpha**2 * variance + sigma**2
    residual = np.asarray(xt) - alpha * mean
    estimate = mean + alpha * variance / total * residual
    slope = alpha * variance / total * (np.asarray(sought) - estimate) / 0.3
    expected = sigma / total * residual - scale * sigma * slope
    np.testing.assert_allclose(out.eps, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(alpha * out.x0 + sigma * out.eps, xt, rtol=0, atol=1e-9)
    # The same, as what a step's mean is shifted by.
    gradient = jax.jit(guidance.gradient(guidance.of_estimate(denoise, judge)))(xt, t)
    np.testing.assert_allclose(gradient, slope, rtol=1e-9, atol=1e-12)


def test_a_text_of_zeros_and_a_scale_of_0_guide_nowhere():
    schedule, xt = PATHS["linear"], noised(jnp.float32)
    denoise = DATA.denoiser(schedule)
    texts = jnp.eye(4)[jnp.array([0, 1, 2, 0, 1])].at[1::2].set(0)

    def embed(x, t):
        return jnp.concatenate([jnp.sin(x), x], axis=1)

    judge = guidance.clip_log_prob(embed, texts, 100.0)
    plain = jax.jit(denoise)(xt, TIMES)
    for guided in (
        guidance.classifier(denoise, schedule, guidance.gradient(judge)),
        guidance.by_estimate(denoise, schedule, judge),
    ):
        out = jax.jit(guided)(xt, TIMES)
        np.testing.assert_allclose(out.eps[1::2], plain.eps[1::2], rtol=0, atol=1e-6)
        assert (np.abs(out.eps[::2] - plain.eps[::2]) > 1e-3).any(axis=1).all()
    assert guidance.by_estimate(denoise, schedule, judge, 0) is denoise


def test_at_alpha_0_the_estimate_tells_nothing():
    schedule = PATHS["zero-snr"]
    wild = guidance.by_estimate(DATA.denoiser(schedule), schedule, lambda x0, t: 1e3 * x0.sum(1))
    xt, end = noised(jnp.float32), jnp.ones(len(TIMES))
    plain = DATA.denoiser(schedule)(xt, end)
    np.testing.assert_array_equal(wild(xt, end).x0, plain.x0)
    np.testing.assert_array_equal(wild(xt, end).eps, plain.eps)
