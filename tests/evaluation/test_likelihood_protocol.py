"""The likelihood protocol on pixels whose bits are known, and its pass over a split."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.scipy import stats

from ddpm_jax.build import paths
from ddpm_jax.diffusion import likelihood, schedules
from ddpm_jax.diffusion.prediction import Denoised
from ddpm_jax.evaluation import likelihood_pass
from ddpm_jax.samplers import ode

LEVELS = 5
WEIGHTS = np.array([0.5, 0.0625, 0.125, 0.0625, 0.25])
SCHEDULE = schedules.from_gamma(lambda t: 22 * t - 12)
TIMES = np.linspace(1, 0, 401)


@pytest.fixture
def _float64():
    with jax.enable_x64(True):
        yield


def score_of(denoiser, **options):
    options = {"levels": LEVELS, "times": TIMES, "integrate": ode.integrator()} | options
    return likelihood_pass.make_score(lambda params: denoiser, SCHEDULE, **options)


def lattice(size):
    pixels = np.random.default_rng(0).choice(LEVELS, size, p=WEIGHTS)
    return pixels * (2 / (LEVELS - 1)) - 1


def uniform_denoiser(xt, t):
    """The exact denoiser of x_0 uniform on [-1, 1): the mean of a truncated normal."""
    alpha, sigma = SCHEDULE.alpha(t)[:, None], SCHEDULE.sigma(t)[:, None]
    centre, width = xt / alpha, sigma / alpha
    # Mirrored, so that the interval lies in the lower tail where the log cdf keeps its digits.
    sign, centre = jnp.where(centre < 0, -1, 1), jnp.abs(centre)
    low, high = (-1 - centre) / width, (1 - centre) / width
    upper = stats.norm.logcdf(high)
    log_mass = upper + jnp.log1p(-jnp.exp(stats.norm.logcdf(low) - upper))
    slope = jnp.exp(stats.norm.logpdf(low) - log_mass) - jnp.exp(stats.norm.logpdf(high) - log_mass)
    x0 = sign * jnp.clip(centre + width * slope, -1, 1)
    return Denoised(x0, (xt - alpha * x0) / sigma)


@pytest.mark.usefixtures("_float64")
@pytest.mark.wide(3)
def test_a_lattice_has_its_entropy_and_no_density():
    # Point masses: a density model of them would reach any figure, a probability cannot.
    levels = np.linspace(-1, 1, LEVELS)[:, None]
    data = oracles.Mixture(WEIGHTS, levels, np.zeros(LEVELS))
    times = np.linspace(1, 0, 2001)
    score = score_of(data.denoiser(SCHEDULE), dequantised=False, times=times)
    figures = likelihood_pass.full_pass(score, None, lattice((1000, 1)), batch_size=1000)
    assert set(figures) == {f"discrete_{name}" for name in ("vlb", "prior", "denoising", "decoder")}
    mean, error = figures["discrete_vlb"]
    assert error < 0.05
    entropy = -np.sum(WEIGHTS * np.log2(WEIGHTS))
    # Where the pixel is known, beta is the wrong variance by a factor exp(22 / 2000) a step.
    assert -3 * error < mean - entropy < 0.05 + 3 * error
    parts = sum(figures[f"discrete_{name}"].mean for name in ("prior", "denoising", "decoder"))
    assert mean == pytest.approx(parts)


@pytest.mark.parametrize("name", paths.CONTINUOUS)
def test_a_chain_runs_from_noise_to_data(name):
    schedule = paths.CONTINUOUS[name]()
    times = likelihood_pass.chain_times(schedule, 10)
    assert (len(times), times[0], times[-1]) == (11, 1, 0)
    assert np.all(np.diff(times) < 0)
    # The decoder's step is no sliver: the one before it is where the data are all but clean.
    alpha, sigma = schedule.values(times[[-2]])
    log_snr = 2 * np.log(alpha / sigma)[0]
    start = schedule.values(np.zeros(1))
    clean = 13.3 if start[1] == 0 else min(13.3, 2 * np.log(start[0] / start[1])[0])
    assert log_snr == pytest.approx(clean, abs=1e-6) or log_snr < clean - 1


@pytest.mark.wide(12)
@pytest.mark.parametrize("offset", [*np.linspace(-2, 2, 41), 1e-7, -1e-7, 1e-12, -1e-12])
@pytest.mark.usefixtures("_float64")
def test_a_learned_beginning_scores_wherever_it_lies(offset):
    # A trained end point is any number, at or beside what stands for the data.
    schedule = schedules.linear_gamma(-13.3 + offset)
    times = likelihood_pass.chain_times(schedule, 5)
    assert np.all(np.diff(times) < -1e-9)
    data = oracles.Gaussian(0.0, 0.3)
    x0 = jax.random.normal(jax.random.key(0), (3, 2)) * np.sqrt(0.3)
    bound = likelihood.discrete_vlb(
        data.denoiser(schedule),
        schedule,
        x0,
        jax.random.key(1),
        times=times,
        variance="fixed_small",
    )
    assert np.isfinite(bound.total).all()


@pytest.mark.usefixtures("_float64")
@pytest.mark.wide(3)
def test_three_ways_agree_on_dequantised_pixels():
    # Pixels uniform on their levels, spread over their cells: uniform on [-1, 1), log2(levels).
    pixels = np.random.default_rng(1).integers(0, LEVELS, (192, 32))
    score = score_of(uniform_denoiser, dequantised=True, num_draws=64)
    figures = likelihood_pass.full_pass(
        score, None, pixels * (2 / (LEVELS - 1)) - 1, batch_size=192
    )
    for name in ("discrete_vlb", "continuous_vlb", "ode"):
        mean, error = figures[name]
        assert 0 < error < 0.04
        assert abs(mean - np.log2(LEVELS)) < 0.02 + 3 * error, name
    # Each example's ODE is exact but for Hutchinson's noise and the edges' blur.
    assert figures["ode"].standard_error < 0.02
    for kind in ("discrete", "continuous"):
        parts = sum(figures[f"{kind}_{name}"].mean for name in ("prior", "denoising", "decoder"))
        assert figures[f"{kind}_vlb"].mean == pytest.approx(parts)


def test_a_pass_counts_every_example_once_whatever_the_batch():
    images = np.linspace(-1, 1, 21, dtype=np.float32).reshape(7, 3)
    seen = []

    def score(params, x0, keys):
        draws = jax.vmap(jax.random.uniform)(keys)
        jax.debug.callback(lambda x: seen.append(len(x)), x0)
        return {"value": params * x0.mean(axis=1), "draw": draws}

    passes = [
        likelihood_pass.full_pass(score, 2.0, images, seed=3, batch_size=size)
        for size in (7, 3, 50)
    ]
    jax.effects_barrier()
    assert set(seen) == {7, 3, 50}
    for figures in passes:
        values = 2.0 * images.mean(axis=1)
        assert figures["value"].mean == pytest.approx(values.mean(), abs=1e-6)
        # The textbook's s / sqrt(n).
        expected = np.sqrt(np.sum((values - values.mean()) ** 2) / 6 / 7)
        assert figures["value"].standard_error == pytest.approx(expected, rel=1e-5)
        assert figures["draw"] == passes[0]["draw"]
    other = likelihood_pass.full_pass(score, 2.0, images, seed=4, batch_size=7)
    assert other["draw"] != passes[0]["draw"]


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"levels=None: state the number.*256"):
        score_of(uniform_denoiser, levels=None, dequantised=True)
    with pytest.raises(ValueError, match=r"levels >= 2.*levels=1"):
        score_of(uniform_denoiser, levels=1, dequantised=False)

    def score(params, x0, keys):
        return {"value": x0.mean(axis=1)}

    for images, size in [(np.zeros((1, 2)), 1), (np.zeros((3, 2)), 0)]:
        with pytest.raises(ValueError, match="at least 2 images and batch_size >= 1"):
            likelihood_pass.full_pass(score, None, images, batch_size=size)
