"""Weightings against the weights that their papers give for other errors, and at the ends."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy import integrate, special

from ddpm_jax.diffusion import schedules, weightings

WEIGHTINGS = {
    "constant": weightings.constant(),
    "snr": weightings.snr(),
    "min_snr": weightings.min_snr(),
    "p2": weightings.p2(),
    "sigmoid": weightings.sigmoid(-2.0),
    "edm": weightings.edm(),
    "truncated_snr": weightings.truncated_snr(),
    "likelihood": weightings.likelihood(),
}
PATHS = {
    "linear": schedules.linear(),
    "zero_terminal_snr": schedules.zero_terminal_snr(schedules.linear()),
    "vp": schedules.vp_continuous(),
    "cosine_continuous": schedules.cosine_continuous(),
    "flow": schedules.flow(),
    "edm": schedules.edm(),
    "ve": schedules.ve(),
}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def flow_at(snr):
    """The rectified flow and the times where it has these SNRs, ((1 - t) / t)²."""
    return schedules.flow(), jnp.asarray(1 / (1 + np.sqrt(snr)))


SNR = np.array([1e-8, 1e-3, 0.2, 1.0, 4.9, 5.1, 70.0, 1e6])


@pytest.mark.parametrize(
    ("name", "weight_of_x0"),
    # What each paper multiplies the error of x_0 with.
    [
        ("constant", SNR),  # Ho et al.: L_simple
        ("min_snr", np.minimum(SNR, 5)),  # Hang et al.
        ("truncated_snr", np.maximum(SNR, 1)),  # Salimans & Ho
        ("sigmoid", math.e**-2 * special.expit(np.log(SNR) + 2)),  # SiD2: e^b sigmoid(log_snr - b)
        ("edm", (1 / SNR + 0.25) / (0.25 / SNR)),  # Karras et al., with rho² = 1 / SNR
        ("p2", SNR / (1 + SNR)),  # Choi et al.: L_simple over (1 + SNR)
        ("snr", SNR**2),
    ],
)
def test_the_error_of_x0_gets_the_papers_weight(name, weight_of_x0):
    # x_0's error is eps's over the SNR.
    schedule, t = flow_at(SNR)
    np.testing.assert_allclose(WEIGHTINGS[name](schedule, t) * SNR, weight_of_x0, rtol=1e-9)


def test_parameters_are_where_the_papers_have_them():
    at = functools.partial(lambda weighting, snr: float(weighting(*flow_at(np.array([snr])))[0]))
    assert at(weightings.min_snr(2.0), 8.0) == pytest.approx(0.25)
    assert at(weightings.p2(k=3.0, gamma=0.5), 6.0) == pytest.approx(1 / 3)
    assert at(weightings.p2(gamma=0.0), 6.0) == 1
    assert at(weightings.sigmoid(math.log(7.0)), 7.0) == pytest.approx(0.5)
    assert at(weightings.edm(2.0), 0.25) == pytest.approx(2.0)


def test_min_snr_is_exactly_one_below_gamma():
    schedule, t = flow_at(np.array([1e-8, 0.1, 4.99]))
    np.testing.assert_array_equal(weightings.min_snr()(schedule, t), 1)


def test_likelihood_on_a_continuous_path_is_half_the_slope_of_the_log_snr():
    # The variance-preserving SDE: d log_snr / dt = -beta(t) / sigma² (Kingma et al. 2021).
    t = np.array([0.01, 0.3, 0.7, 1.0])
    beta = 0.1 + t * (20 - 0.1)
    sigma2 = -np.expm1(-(0.1 * t + 0.5 * (20 - 0.1) * t**2))
    weight = weightings.likelihood()(schedules.vp_continuous(), jnp.asarray(t))
    np.testing.assert_allclose(weight, 0.5 * beta / sigma2, rtol=1e-10)
    # Flow: log_snr = 2 log((1 - t) / t).
    weight = weightings.likelihood()(schedules.flow(), jnp.asarray(t[:3]))
    np.testing.assert_allclose(weight, 1 / (t * (1 - t))[:3], rtol=1e-10)


def test_likelihood_on_a_discrete_path_is_a_difference_of_snrs():
    # Kingma et al. 2021, equation 13: T/2 (SNR(s) - SNR(t)) on the error of x_0.
    schedule = schedules.linear()
    bars = oracles.exact_alphas_cumprod(schedule.betas)
    snr = bars[1:] / (1 - bars[1:])  # of i = 1..T
    i = np.array([2, 3, 50, 999, 1000])
    weight = weightings.likelihood()(schedule, jnp.asarray(i / 1000))
    expected = (500 * (snr[i - 2] - snr[i - 1]) / snr[i - 1]).astype(float)
    np.testing.assert_allclose(weight, expected, rtol=1e-9)
    first = weightings.likelihood()(schedule, jnp.asarray([1 / 1000]))
    np.testing.assert_allclose(first, weight[:1], rtol=1e-12)


def test_the_two_forms_of_likelihood_meet_as_t_grows():
    t = jnp.asarray([0.1, 0.5, 1.0])
    limit = weightings.likelihood()(schedules.vp_continuous(), t)
    gaps = []
    for steps in (1000, 4000):
        schedule = schedules.linear(steps, 0.1 / steps, 20 / steps)
        gaps.append(np.abs(weightings.likelihood()(schedule, t) / limit - 1).max())
    # An error of first order in 1 / T, which is gone in the limit.
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.03)


def test_under_likelihood_the_whole_weight_is_the_range_of_log_snr():
    # Whatever the path, the weights integrate to half of it: the bound is invariant to the path.
    for schedule in (schedules.vp_continuous(), schedules.cosine_continuous(), schedules.ve()):
        weight = jax.jit(functools.partial(weightings.likelihood(), schedule))
        low, high = jnp.asarray([0.02]), jnp.asarray([0.98])
        total, _ = integrate.quad(lambda t, w=weight: float(w(jnp.asarray([t]))[0]), 0.02, 0.98)
        fall = float((schedule.log_snr(low) - schedule.log_snr(high))[0])
        assert total == pytest.approx(0.5 * fall, rel=1e-6)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", WEIGHTINGS)
@pytest.mark.wide(4)
def test_weights_are_finite_at_both_ends_in_float32(name, path):
    with jax.enable_x64(False):
        t = jnp.asarray([0.0, 1e-7, 1e-3, 0.5, 0.999, 0.9999999, 1.0], jnp.float32)
        weight = jax.jit(functools.partial(WEIGHTINGS[name], PATHS[path]))(t)
    assert weight.dtype == jnp.float32
    assert weight.shape == t.shape
    assert np.isfinite(weight).all()
    assert (np.asarray(weight) >= 0).all()


def test_a_bounded_path_is_the_path_itself_but_at_its_ends():
    schedule = schedules.flow()
    t = jnp.asarray([0.0, 1e-6, 0.3, 1 - 1e-6, 1.0])
    inside = weightings.bounded(schedule)
    np.testing.assert_array_equal(inside.alpha(t)[:4], schedule.alpha(t)[:4])
    np.testing.assert_array_equal(inside.sigma(t)[1:], schedule.sigma(t)[1:])
    np.testing.assert_allclose(inside.log_snr(t)[jnp.array([0, 4])], [30, -30], rtol=1e-12)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: weightings.min_snr(0), "gamma > 0, got gamma=0"),
        (lambda: weightings.p2(k=0), "k > 0, got k=0"),
        (lambda: weightings.p2(gamma=-1), "gamma >= 0, got gamma=-1"),
        (lambda: weightings.edm(math.inf), "sigma_data > 0, got sigma_data=inf"),
        (lambda: weightings.sigmoid(math.nan), "bias, got bias=nan"),
    ],
)
def test_bad_parameters_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
