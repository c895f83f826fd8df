"""Posterior sampling against Gaussian conditioning; its operators against Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from PIL import Image

from ddpm_jax import samplers
from ddpm_jax.diffusion import guidance, schedules
from ddpm_jax.samplers import grids

PATHS = {
    "linear": schedules.linear(),
    "zero-snr": schedules.zero_terminal_snr(schedules.linear()),
    "ve": schedules.ve(),
    "flow": schedules.flow(),
}
SHAPE = (4, 4, 3)
DATA_STD = 0.6
MEAN = np.random.default_rng(0).standard_normal(SHAPE)
DATA = oracles.Gaussian(MEAN, DATA_STD**2)
PAINT = (np.random.default_rng(1).random((1, 4, 4, 1)) < 0.5).astype(np.float32)
LUMA = np.array([0.299, 0.587, 0.114])


def pooling_matrix(channels):
    """[2, 2, C] from [4, 4, C], written out."""
    matrix = np.zeros((2, 2, channels, 4, 4, channels))
    for i, j, c in np.ndindex(4, 4, channels):
        matrix[i // 2, j // 2, c, i, j, c] = 1 / 4
    return matrix.reshape(4 * channels, -1)


GREY = np.kron(np.eye(16), LUMA)
KNOWN = 1 - np.broadcast_to(PAINT, (1, *SHAPE)).reshape(-1)
pool = guidance.average_pool(2)
MEASURES = {
    "grey": (guidance.grey, GREY),
    "pooled": (pool, pooling_matrix(3)),
    "masked": (guidance.masked(PAINT), np.diag(KNOWN)),
    "grey, then pooled": (lambda x: pool(guidance.grey(x)), pooling_matrix(1) @ GREY),
}


def conditioned(mean, rows, observed, noise):
    """Mean and covariance of x ~ N(mean, DATA_STD² I) given rows x + N(0, noise) = observed."""
    gain = DATA_STD**2 * rows.T @ np.linalg.pinv(DATA_STD**2 * rows @ rows.T + np.diag(noise))
    covariance = DATA_STD**2 * (np.eye(rows.shape[1]) - gain @ rows)
    return mean + gain @ (observed - rows @ mean), covariance


@pytest.mark.parametrize("noise_std", [0.0, 0.3])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.wide(4)
def test_on_gaussian_data_it_is_the_conditional_denoiser(name, path, noise_std):
    schedule, (measure, matrix) = PATHS[path], MEASURES[name]
    rng, times = np.random.default_rng(2), np.array([0.001, 0.1, 0.5, 1.0])
    with jax.enable_x64(True):
        xt = jnp.asarray(rng.standard_normal((4, *SHAPE)))
        y = measure(jnp.asarray(rng.standard_normal((4, *SHAPE))))
        options = {"noise_std": noise_std, "data_std": DATA_STD}
        guided = guidance.observed(DATA.denoiser(schedule), schedule, measure, y, **options)
        out = guided(xt, jnp.asarray(times))
        alpha, sigma = schedule.values(times)
        for k in range(4):
            # Two observations: x_t of everything, and y.
            noise = np.r_[np.full(48, sigma[k] ** 2), np.full(len(matrix), noise_std**2)]
            both = np.r_[np.ravel(xt[k]), np.ravel(y[k])]
            rows = np.r_[alpha[k] * np.eye(48), matrix]
            expected, _ = conditioned(MEAN.reshape(-1), rows, both, noise)
            np.testing.assert_allclose(np.ravel(out.x0[k]), expected, atol=1e-9)
            eps = (np.ravel(xt[k]) - alpha[k] * expected) / sigma[k]
            np.testing.assert_allclose(np.ravel(out.eps[k]), eps, atol=1e-8)


@pytest.mark.parametrize("noise_std", [0.0, 0.3])
@pytest.mark.wide(2)
def test_samples_are_those_of_the_conditional_law(noise_std):
    schedule, count = schedules.vp_continuous(), 3000
    measure, matrix = MEASURES["grey, then pooled"]
    y = np.array([0.5, -0.2, 0.1, 0.9])
    observed = jnp.broadcast_to(jnp.asarray(y, jnp.float32).reshape(1, 2, 2, 1), (count, 2, 2, 1))
    options = {"noise_std": noise_std, "data_std": DATA_STD}
    guided = guidance.observed(DATA.denoiser(schedule), schedule, measure, observed, **options)
    times = grids.log_snr_uniform(schedule, 30)

    @jax.jit
    def draw(key):
        x = samplers.initial_noise(key, schedule, times, (count, *SHAPE))
        return samplers.dpm_solver_pp(guided, schedule, times, key, x)

    x0 = np.asarray(draw(jax.random.key(3)), np.float64).reshape(count, -1)
    noise = np.full(4, noise_std**2)
    mean, covariance = conditioned(MEAN.reshape(-1), matrix, y, noise)
    deviation = np.sqrt(np.diag(covariance))
    assert np.abs((x0.mean(axis=0) - mean) / deviation).max() < 4.5 / count**0.5
    assert np.abs(x0.var(axis=0) / deviation**2 - 1).max() < 4.5 * (2 / count) ** 0.5
    # What was observed has a law of its own, and without noise none.
    seen, spread = x0 @ matrix.T, matrix @ covariance @ matrix.T
    largest, error = spread.max(), 4.5 / count**0.5
    np.testing.assert_allclose(seen.mean(axis=0), matrix @ mean, atol=error * largest**0.5 + 1e-5)
    np.testing.assert_allclose(np.cov(seen.T), spread, atol=error * 2**0.5 * largest + 1e-8)


def test_it_is_one_call_of_the_denoiser():
    schedule, calls = PATHS["flow"], []

    def denoise(xt, t):
        jax.debug.callback(lambda: calls.append(len(xt)))
        return DATA.denoiser(schedule)(xt, t)

    guided = guidance.observed(denoise, schedule, guidance.grey, jnp.zeros((2, 4, 4, 1)))
    jax.block_until_ready(jax.jit(guided)(jnp.zeros((2, *SHAPE)), jnp.array([0.3, 0.9])))
    jax.effects_barrier()
    assert calls == [2]


@pytest.mark.parametrize("noise_std", [0.0, 0.3])
@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.wide(4)
def test_float32_holds_at_the_ends_of_a_path(name, noise_std):
    # sigma² of 1e-30 is no float32; at sigma = 0 nothing may change, at alpha = 0 nothing divide.
    levels = jnp.array([0.0, 1e-30, 1e-12, 1e-3, 1.0])
    schedule = schedules.Schedule(lambda t: 1 - t, lambda t: t, lambda t: t)
    measure, _ = MEASURES[name]
    rng = np.random.default_rng(2)
    xt, x0 = jnp.asarray(rng.standard_normal((2, 5, *SHAPE)), jnp.float32)
    options = {"noise_std": noise_std, "data_std": DATA_STD}
    denoise = DATA.denoiser(schedule)
    out = guidance.observed(denoise, schedule, measure, measure(x0), **options)(xt, levels)
    assert np.isfinite(out.x0).all()
    assert np.isfinite(out.eps).all()
    np.testing.assert_array_equal(out.x0[0], denoise(xt, levels).x0[0])
    np.testing.assert_array_equal(out.eps[0], denoise(xt, levels).eps[0])
    # The shift of x_0 does not vanish with sigma if y is exact, and does if it is not.
    moved = np.abs(out.x0 - denoise(xt, levels).x0).max(axis=(1, 2, 3))
    assert (moved[1:] > 0.1).all() if noise_std == 0 else moved[1] < 1e-6 < 0.1 < moved[4]


def test_the_rest_of_a_denoisers_answer_is_kept():
    schedule, fraction = PATHS["flow"], jnp.full((1, *SHAPE), 0.25)

    def denoise(xt, t):
        return DATA.denoiser(schedule)(xt, t)._replace(variance_fraction=fraction)

    guided = guidance.observed(denoise, schedule, guidance.grey, jnp.zeros((1, 4, 4, 1)))
    out = guided(jnp.zeros((1, *SHAPE)), jnp.array([0.5]))
    np.testing.assert_array_equal(out.variance_fraction, fraction)


def test_operators_are_pillows():
    pixels = np.random.default_rng(3).integers(0, 256, (4, 6, 3), np.uint8)
    image, x = Image.fromarray(pixels), jnp.asarray(pixels[None], jnp.float32)
    grey = np.asarray(image.convert("L"), np.float32)
    np.testing.assert_allclose(guidance.grey(x)[0, :, :, 0], grey, atol=0.51)
    np.testing.assert_allclose(pool(x)[0], np.asarray(image.reduce(2), np.float32), atol=0.51)
    mean = guidance.grey(x, (1 / 3, 1 / 3, 1 / 3))[0, :, :, 0]
    np.testing.assert_allclose(mean, pixels.mean(axis=2), rtol=1e-6)


def blur(x):
    return 0.5 * (x + jnp.roll(x, 1, axis=1))


@pytest.mark.parametrize(
    ("measure", "shape", "words"),
    [
        (guidance.grey, (2, 4, 4, 3), r"measure\(x\), \(2, 4, 4, 1\), got \(2, 4, 4, 3\)"),
        (blur, (2, 4, 4, 3), "orthogonal rows"),
        (jnp.tanh, (2, 4, 4, 3), "must be linear"),
        (lambda x: x + 0.1, (2, 4, 4, 3), "must be linear"),
        (guidance.average_pool(3), (2, 1, 1, 3), r"factor=3 divides, got \(2, 4, 4, 3\)"),
        (guidance.masked(jnp.ones((1, 4, 4))), (2, 4, 4, 3), r"\(2, 4, 4, 3\), got \(1, 4, 4\)"),
        (lambda x: guidance.grey(x, (0.5, 0.5)), (2, 4, 4, 1), "2 for"),
    ],
)
def test_other_measures_are_refused(measure, shape, words):
    schedule = PATHS["flow"]
    guided = guidance.observed(DATA.denoiser(schedule), schedule, measure, jnp.zeros(shape))
    for call in (guided, jax.jit(guided)):
        with pytest.raises(ValueError, match=words):
            call(jnp.zeros((2, *SHAPE)), jnp.full(2, 0.5))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda d, s: guidance.observed(d, s, guidance.grey, 0, noise_std=-1.0), "noise_std=-1.0"),
        (lambda d, s: guidance.observed(d, s, guidance.grey, 0, data_std=0.0), "data_std=0.0"),
        (lambda d, s: guidance.average_pool(0), "factor=0"),
    ],
)
def test_bad_numbers_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(DATA.denoiser(PATHS["flow"]), PATHS["flow"])


def test_a_mask_may_be_traced():
    schedule, y = PATHS["flow"], jnp.full((2, *SHAPE), 0.3)

    def x0(mask):
        guided = guidance.observed(DATA.denoiser(schedule), schedule, guidance.masked(mask), y)
        return guided(jnp.zeros((2, *SHAPE)), jnp.full(2, 0.5)).x0

    np.testing.assert_allclose(jax.jit(x0)(PAINT), x0(PAINT), rtol=1e-5, atol=1e-6)
