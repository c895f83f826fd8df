"""The paths: what their papers print, their limits, and the schedules that must be refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from ddpm_jax.diffusion import schedules

ALL = {
    "linear": schedules.linear(),
    "scaled_linear": schedules.scaled_linear(),
    "cosine": schedules.cosine(),
    "sigmoid": schedules.sigmoid(),
    "zero_snr": schedules.zero_terminal_snr(schedules.scaled_linear()),
    "vp_continuous": schedules.vp_continuous(),
    "scaled_linear_continuous": schedules.scaled_linear_continuous(),
    "cosine_continuous": schedules.cosine_continuous(),
    "sigmoid_continuous": schedules.sigmoid_continuous(),
    "sub_vp": schedules.sub_vp(),
    "ve": schedules.ve(),
    "edm": schedules.edm(),
    "flow": schedules.flow(),
    "shifted_flow": schedules.flow(3.0),
    "gamma": schedules.from_gamma(lambda t: 18.3 * t - 13.3),
}
INNER = np.linspace(0.003, 0.997, 200)
every = pytest.mark.parametrize("name", ALL)


@every
def test_the_snr_falls_and_float32_says_what_float64_says(name):
    schedule = ALL[name]
    alpha, sigma = schedule.values(INNER)
    assert (np.diff(alpha / sigma) < 0).all()
    t = jnp.asarray(INNER, jnp.float32)
    # float32 cannot tell 0.997 from its neighbours by more than 6e-8 either: compare at its own t.
    alpha, sigma = schedule.values(np.asarray(t, np.float64))
    np.testing.assert_allclose(schedule.alpha(t), alpha, rtol=3e-5)
    np.testing.assert_allclose(schedule.sigma(t), sigma, rtol=3e-5)


@every
def test_the_time_of_a_log_snr_is_its_inverse(name):
    schedule = ALL[name]
    with jax.enable_x64(True):
        t = jnp.asarray(INNER, jnp.float64)
        found = schedules.time_of_log_snr(schedule, schedule.log_snr(t))
        # A discrete schedule takes what is within 1e-3 / T of a node for the node.
        tolerance = 1e-12 if schedule.betas is None else 1.1e-6
        np.testing.assert_allclose(found, t, atol=tolerance)
        ends = schedules.time_of_log_snr(schedule, jnp.array([1e3, -1e3]))
        np.testing.assert_allclose(ends, [0, 1], atol=tolerance)


@pytest.mark.parametrize(
    ("name", "beta"),
    [
        ("vp_continuous", lambda u: 0.1 + 19.9 * u),
        ("scaled_linear_continuous", lambda u: (0.85**0.5 + u * (12**0.5 - 0.85**0.5)) ** 2),
        ("sigmoid_continuous", lambda u: 0.1 + 19.9 / (1 + np.exp(6 - 12 * u))),
    ],
)
def test_vp_paths_are_integrals_of_their_rates(name, beta):
    times = np.array([0.001, 0.2, 0.5, 1.0])
    alpha, sigma = ALL[name].values(times)
    for k, t in enumerate(times):
        total, _ = integrate.quad(beta, 0, t)
        np.testing.assert_allclose(alpha[k], np.exp(-0.5 * total), rtol=1e-9)
        np.testing.assert_allclose(sigma[k], np.sqrt(-np.expm1(-total)), rtol=1e-9)


@pytest.mark.parametrize(
    ("discrete", "continuous"),
    [
        (
            lambda n: schedules.linear(n, 0.1 / n, 20 / n),
            schedules.vp_continuous(),
        ),
        (
            lambda n: schedules.scaled_linear(n, 0.85 / n, 12 / n),
            schedules.scaled_linear_continuous(),
        ),
        (lambda n: schedules.sigmoid(n, 0.1 / n, 20 / n), schedules.sigmoid_continuous()),
        (lambda n: schedules.cosine(n), schedules.cosine_continuous()),
    ],
    ids=["linear", "scaled_linear", "sigmoid", "cosine"],
)
def test_discrete_schedules_tend_to_their_continuous_forms(discrete, continuous):
    times = np.linspace(0.1, 0.9, 9)
    errors = [
        np.abs(discrete(n).values(times)[0] - continuous.values(times)[0]).max()
        for n in (100, 1000, 10_000)
    ]
    assert errors[0] < 0.1
    # Of first order in 1 / T, or (cosine) the same numbers from the start.
    for coarse, fine in itertools.pairwise(errors):
        assert fine < coarse / 8 + 1e-12


def test_cosine_reaches_alpha_0_without_cancellation():
    schedule = ALL["cosine_continuous"]
    alpha, sigma = schedule.values(np.array([0.0, 1e-9, 1.0]))
    np.testing.assert_allclose(alpha, [1, 1, 0], atol=1e-12)
    b = 0.008 / 1.008 * np.pi / 2
    # d cos² at b, the first term of Taylor's series.
    slope = np.sin(2 * b) * np.pi / 2 / 1.008 / np.cos(b) ** 2
    np.testing.assert_allclose(sigma**2, [0, 1e-9 * slope, 1], rtol=1e-6, atol=1e-15)


def test_sub_vp_and_ve_are_those_of_song_et_al():
    times = np.array([0.1, 0.5, 1.0])
    integral = 0.1 * times + 0.5 * 19.9 * times**2
    alpha, sigma = ALL["sub_vp"].values(times)
    np.testing.assert_allclose(alpha, np.exp(-0.5 * integral), rtol=1e-12)
    np.testing.assert_allclose(sigma, 1 - np.exp(-integral), rtol=1e-12)
    alpha, sigma = ALL["ve"].values(times)
    np.testing.assert_allclose(alpha, 1)
    np.testing.assert_allclose(sigma, 0.01 * 5000**times, rtol=1e-12)


def test_flow_shifts_its_time_as_stable_diffusion_3_does():
    times = np.array([0.0, 0.25, 0.5, 1.0])
    alpha, sigma = schedules.flow(3.0).values(times)
    np.testing.assert_allclose(sigma, [0, 0.5, 0.75, 1], rtol=1e-12)
    np.testing.assert_allclose(alpha, [1, 0.5, 0.25, 0], rtol=1e-12)
    # SNR at shift m is that of no shift, divided by m² (Esser et al. 2024, section 5.3.2).
    plain, shifted = (schedules.flow(m).log_snr(jnp.array([0.3])) for m in (1.0, 3.0))
    np.testing.assert_allclose(plain - shifted, 2 * np.log(3), rtol=1e-5)


@pytest.mark.parametrize("build", [schedules.linear, schedules.scaled_linear, schedules.cosine])
@pytest.mark.wide(3)
def test_zero_terminal_snr_is_that_of_lin_et_al(build):
    before, after = build(1000), schedules.zero_terminal_snr(build(1000))
    nodes = np.arange(1001) / 1000
    old, new = before.values(nodes)[0], after.values(nodes)[0]
    assert new[-1] == 0
    assert after.values(nodes)[1][-1] == 1
    np.testing.assert_allclose(new[1], old[1], rtol=1e-12)  # the first level is kept
    # An affine map of alpha: differences keep their ratios.
    stretch = np.diff(new[1:]) / np.diff(old[1:])
    np.testing.assert_allclose(stretch, stretch[0], rtol=1e-6)
    # Between the last two nodes alpha falls in a line, and everything stays finite.
    alpha, sigma = after.values(np.linspace(0.999, 1, 11))
    np.testing.assert_allclose(np.diff(alpha), np.diff(alpha)[0], rtol=1e-9)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-12)
    with pytest.raises(ValueError, match="continuous"):
        schedules.zero_terminal_snr(schedules.flow())


def test_zero_terminal_snr_is_that_of_diffusers():
    scheduling_ddim = pytest.importorskip("diffusers.schedulers.scheduling_ddim")
    torch = pytest.importorskip("torch")
    betas = np.asarray(schedules.scaled_linear().betas)
    theirs = scheduling_ddim.rescale_zero_terminal_snr(torch.tensor(betas)).numpy()
    ours = schedules.zero_terminal_snr(schedules.scaled_linear()).betas
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_gamma_is_minus_the_log_snr():
    schedule, t = ALL["gamma"], jnp.array([0.0, 0.4, 1.0])
    np.testing.assert_allclose(-schedule.log_snr(t), 18.3 * t - 13.3, rtol=1e-5)
    np.testing.assert_allclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, 1, rtol=1e-6)
    np.testing.assert_allclose(schedule.network_time(t), 999 * t, rtol=1e-5)

    def with_parameters(slope):
        traced = schedules.from_gamma(lambda t: slope * t - 13.3)
        return traced.sigma(t).sum()

    assert jnp.isfinite(jax.jit(jax.grad(with_parameters))(18.3))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: schedules.vp_continuous(0.0, 20.0), ["beta_min=0.0"]),
        (lambda: schedules.sub_vp(3.0, 2.0), ["beta_max=2.0"]),
        (lambda: schedules.ve(1.0, 1.0), ["sigma_max=1.0"]),
        (lambda: schedules.edm(sigma_min=0.0), ["sigma_min=0.0"]),
        (lambda: schedules.flow(0.0), ["shift=0.0"]),
        (lambda: schedules.cosine_continuous(-0.1), ["s=-0.1"]),
        (lambda: schedules.scaled_linear(0), ["num_steps=0"]),
        (lambda: schedules.sigmoid(10, 0.3, 0.2), ["beta_start=0.3"]),
        (lambda: schedules.zero_terminal_snr(schedules.linear(1)), ["at least 2 steps"]),
        # Time that runs from the noise to the data.
        (lambda: schedules.Schedule(lambda t: t, lambda t: 1 - t, lambda t: t), ["SNR", "t=0"]),
        (lambda: schedules.from_gamma(lambda t: -t), ["must fall"]),
        (lambda: schedules.Schedule(lambda t: 1 - 2 * t, lambda t: t, lambda t: t), [">= 0"]),
    ],
)
def test_bad_schedules_are_refused(build, words):
    with pytest.raises(ValueError, match=r"need|must") as error:
        build()
    for word in words:
        assert word in str(error.value)


NUMBERS = [
    (schedules.vp_continuous, ("beta_min", "beta_max")),
    (schedules.scaled_linear_continuous, ("beta_min", "beta_max")),
    (schedules.sigmoid_continuous, ("beta_min", "beta_max")),
    (schedules.sub_vp, ("beta_min", "beta_max")),
    (schedules.cosine_continuous, ("s",)),
    (schedules.ve, ("sigma_min", "sigma_max")),
    (schedules.edm, ("sigma_min", "sigma_max")),
    (schedules.flow, ("shift",)),
    (schedules.linear_gamma, ("gamma_0", "gamma_1")),
    (schedules.linear, ("beta_start", "beta_end")),
    (schedules.scaled_linear, ("beta_start", "beta_end")),
    (schedules.sigmoid, ("beta_start", "beta_end")),
    (schedules.cosine, ("s", "max_beta")),
]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("build", "option"), [(build, option) for build, options in NUMBERS for option in options]
)
def test_what_is_no_number_is_refused_by_name(build, option, value):
    with pytest.raises(ValueError, match=f"need .*{option}={value}"):
        build(**{option: value})


@pytest.mark.parametrize("level", [np.nan, np.inf, 0.0, -1.0])
def test_a_smallest_level_out_of_range_is_refused(level):
    with pytest.raises(ValueError, match=f"smallest_level.*{level}"):
        schedules.Schedule(lambda t: 1 - t, lambda t: t, lambda t: t, smallest_level=level)


def test_linear_gamma_is_linear_in_the_log_snr():
    t = jnp.linspace(0, 1, 11)
    log_snr = schedules.linear_gamma(-8.0, 6.0).log_snr(t)
    np.testing.assert_allclose(log_snr, np.linspace(8, -6, 11), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"gamma_0 < gamma_1.*gamma_0=6"):
        schedules.linear_gamma(6.0, -8.0)
