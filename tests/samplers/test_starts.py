"""Starting from an image, or between two, on data whose flow and law are known."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy import stats

from ddpm_jax import samplers
from ddpm_jax.diffusion import schedules
from ddpm_jax.samplers import base, grids

SCHEDULE = schedules.vp_continuous()
GRID = grids.log_snr_uniform(SCHEDULE, 40)
KEY = jax.random.key(3)


def sample(data, times, x):
    """By the ODE, to about 1e-4 of the exact flow."""
    run = jax.jit(
        lambda x: samplers.dpm_solver_pp(
            data.denoiser(SCHEDULE), SCHEDULE, times, KEY, x, order=3, method="singlestep"
        )
    )
    return run(x)


@pytest.mark.parametrize("tenths", range(1, 11))
@pytest.mark.wide(4)
def test_a_strength_is_a_share_of_the_steps_and_of_a_uniform_grids_time(tenths):
    schedule = schedules.linear()
    found = grids.truncated(grids.uniform(schedule, 10), tenths / 10)
    np.testing.assert_allclose(found, np.arange(tenths, -1, -1) / 10, atol=1e-12)
    levels = grids.karras(schedule, 10)
    np.testing.assert_array_equal(grids.truncated(levels, tenths / 10), levels[10 - tenths :])


@pytest.mark.parametrize(("num_steps", "strength", "left"), [(50, 0.58, 29), (10, 0.59, 5)])
def test_a_rounding_costs_no_step_and_less_than_a_step_is_none(num_steps, strength, left):
    times = grids.truncated(grids.uniform(SCHEDULE, num_steps), strength)
    assert len(times) - 1 == left


@pytest.mark.parametrize(
    ("strength", "words"),
    [
        (0.0, "strength=0.0"),
        (1.01, "strength <= 1, got strength=1.01"),
        (-0.5, "strength=-0.5"),
        (float("nan"), "strength=nan"),
        (0.05, r"strength=0.05 of 10 steps leaves none: need at least 0\.1"),
    ],
)
def test_a_strength_out_of_range_is_refused(strength, words):
    with pytest.raises(ValueError, match=words):
        grids.truncated(grids.uniform(SCHEDULE, 10), strength)


@pytest.mark.parametrize("strength", [0.2, 0.6, 1.0])
@pytest.mark.wide(3)
def test_an_image_comes_back_as_the_closed_form_says(strength):
    # Of Gaussian data the ODE is x_0 = m + sqrt(v / (alpha² v + sigma²)) (x_t - alpha m).
    m, v = 0.4, 0.3
    times = grids.truncated(GRID, strength)
    image = jnp.linspace(-1, 1, 4000)[:, None] * jnp.ones((1, 5))
    (alpha,), (sigma,) = SCHEDULE.values(times[:1])
    x = samplers.noised_start(KEY, SCHEDULE, times, image)
    noise = (np.asarray(x) - alpha * np.asarray(image)) / sigma
    assert abs(noise.mean()) < 4 / noise.size**0.5
    assert abs(noise.var() - 1) < 4 * (2 / noise.size) ** 0.5
    found = sample(oracles.Gaussian(m, v), times, x)
    kept = np.sqrt(v / (alpha**2 * v + sigma**2))
    expected = m + kept * (alpha * (np.asarray(image) - m) + sigma * noise)
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.wide(6)
def test_data_stay_data_at_any_strength():
    data = oracles.Mixture([0.3, 0.7], [[-0.8], [0.5]], [0.04, 0.1])
    image = data.sample(jax.random.key(0), 4000)

    def cdf(x):
        parts = zip(data.weights, data.means, data.variances, strict=True)
        return sum(w * stats.norm.cdf(x, m[0], v**0.5) for w, m, v in parts)

    for strength in (0.25, 0.7):
        times = grids.truncated(GRID, strength)
        found = sample(data, times, samplers.noised_start(KEY, SCHEDULE, times, image))
        assert stats.kstest(np.asarray(found)[:, 0], cdf).pvalue > 1e-3
        assert np.abs(found - image).mean() > 0.01  # and not by standing still


def test_between_two_images_the_flow_of_gaussian_data_is_a_straight_line():
    # It is affine, and with one noise for both so is the start.
    times = grids.truncated(GRID, 0.5)
    one, other = jax.random.normal(jax.random.key(1), (2, 6, 3))

    def at(share):
        x = samplers.interpolated_start(KEY, SCHEDULE, times, one, other, share)
        return sample(oracles.Gaussian(0.2, 0.5), times, x)

    ends = [sample_of(image, times) for image in (one, other)]
    np.testing.assert_array_equal(at(0.0), ends[0])
    np.testing.assert_array_equal(at(jnp.ones(6)), ends[1])
    shares = np.linspace(-0.2, 1, 6)[:, None].astype("float32")
    line = (1 - shares) * ends[0] + shares * ends[1]
    np.testing.assert_allclose(at(jnp.asarray(shares[:, 0])), line, atol=1e-5)


def sample_of(image, times):
    x = samplers.noised_start(KEY, SCHEDULE, times, image)
    return sample(oracles.Gaussian(0.2, 0.5), times, x)


@pytest.mark.parametrize(("shared", "variance"), [(True, 1.0), (False, 0.25**2 + 0.75**2)])
def test_a_noise_each_is_less_noise_in_between(shared, variance):
    image = jnp.zeros((9000, 2))
    options = {"shared_noise": shared}
    x = samplers.interpolated_start(KEY, SCHEDULE, [0.6, 0.0], image, image, 0.25, **options)
    (sigma,) = SCHEDULE.values(np.array([0.6]))[1]
    found = np.asarray(x).var() / sigma**2
    assert found == pytest.approx(variance, abs=4 * variance * (2 / x.size) ** 0.5)


@pytest.mark.parametrize("shared", [True, False])
def test_an_image_starts_with_its_own_key(shared):
    keys, (one, other) = jax.random.split(KEY, 4), jax.random.normal(KEY, (2, 4, 3))

    def start(keys, one, other):
        return samplers.interpolated_start(
            keys, SCHEDULE, GRID, one, other, 0.4, shared_noise=shared
        )

    together = start(keys, one, other)
    alone = start(keys[2:3], one[2:3], other[2:3])
    np.testing.assert_allclose(together[2:3], alone, rtol=1e-6)
    assert len(np.unique(start(keys, 0 * one, 0 * other))) == 12


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: samplers.noised_start(KEY, SCHEDULE, GRID, x.astype(int)), "float32 or float64"),
        (
            lambda x: samplers.interpolated_start(KEY, SCHEDULE, GRID, x, x[:1], 0.5),
            r"one shape, got \(3, 2\) and \(1, 2\)",
        ),
        (
            lambda x: samplers.interpolated_start(KEY, SCHEDULE, GRID, x, x, jnp.ones(2)),
            r"one for each of 3, got \(2,\)",
        ),
    ],
)
def test_bad_images_and_shares_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(jnp.zeros((3, 2)))


IN_USE = {
    "leading, 50": (schedules.linear(), lambda s: grids.leading(s, 50)),
    "leading, 50, offset 1": (schedules.scaled_linear(), lambda s: grids.leading(s, 50, 1)),
    "leading, 10, cosine": (schedules.cosine(), lambda s: grids.leading(s, 10)),
    "leading, 4, cosine": (schedules.cosine(), lambda s: grids.leading(s, 4)),
    "leading, 4, scaled": (schedules.scaled_linear(), lambda s: grids.leading(s, 4, 1)),
    "linspace, 2": (schedules.cosine(), lambda s: grids.linspace(s, 2)),
    "uniform, 1": (schedules.linear(), lambda s: grids.uniform(s, 1)),
    "a schedule that keeps much": (schedules.linear(10), lambda s: grids.uniform(s, 1)),
    "log-SNR": (schedules.cosine_continuous(), lambda s: grids.log_snr_uniform(s, 5)),
    "karras": (schedules.edm(), lambda s: grids.karras(s, 5, sigma_max=1.5)),
}
NOT_NOISE = {
    **{
        f"{grid}, 1, {name}": (schedule, lambda s, grid=grid: getattr(grids, grid)(s, 1))
        for grid in ("leading", "linspace")
        for name, schedule in {
            "linear": schedules.linear(),
            "cosine": schedules.cosine(),
            "sigmoid": schedules.sigmoid(),
            "zero terminal SNR": schedules.zero_terminal_snr(schedules.linear(100)),
        }.items()
    },
    "log-SNR": (schedules.vp_continuous(), lambda s: grids.log_snr_uniform(s, 5, log_snr_min=2.0)),
    "karras": (schedules.edm(), lambda s: grids.karras(s, 5, sigma_max=0.5)),
    "flow": (schedules.flow(), lambda s: [0.3, 0.0]),
}


@pytest.mark.parametrize("case", IN_USE)
def test_noise_is_a_start_for_grids_in_use(case):
    schedule, grid = IN_USE[case]
    base.check_noise(schedule, grid(schedule))


@pytest.mark.parametrize("case", NOT_NOISE)
def test_noise_is_no_start_where_an_image_is_still_there(case):
    schedule, grid = NOT_NOISE[case]
    times = grid(schedule)
    with pytest.raises(ValueError, match=rf"begins at t = {times[0]:.4g}.*uniform") as error:
        base.check_noise(schedule, times)
    assert "\n" not in str(error.value)
    # From an image it is one.
    assert np.isfinite(samplers.noised_start(KEY, schedule, times, jnp.ones((2, 3)))).all()
