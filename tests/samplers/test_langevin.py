"""Annealed Langevin dynamics against its closed-form stationary law, and on every kind of path."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion import schedules
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.samplers.langevin import langevin

KEY = jax.random.key(1)
MIXTURE = oracles.Mixture([0.2, 0.8], [[-2.0, 0.0], [2.0, 0.0]], [0.1, 0.1])


@pytest.mark.wide(5)
@pytest.mark.parametrize("step_size", [0.1, 1.0, 2.5])
@pytest.mark.parametrize("t", [0.2, 0.6])
def test_at_one_level_a_gaussian_ends_in_the_known_variance(step_size, t):
    # x <- (1 - a / 2v) x + sqrt(a) z is an autoregression of variance v / (1 - a / 4v).
    schedule, n = schedules.flow(), 200_000
    v = (1 - t) ** 2 * 0.3 + t**2
    a = step_size * t**2
    steps = int(np.ceil(np.log(1e-4) / np.log(abs(1 - a / (2 * v)) + 1e-9)))
    x = jnp.zeros((n, 1))
    # The last level is the one at t: what came before is forgotten.
    out = langevin(
        oracles.Gaussian(0.7, 0.3).denoiser(schedule),
        schedule,
        [t + 0.1, t],
        KEY,
        x,
        steps_per_level=steps,
        step_size=step_size,
    )
    expected = v / (1 - a / (4 * v))
    assert abs(out.mean() - (1 - t) * 0.7) < 4 * np.sqrt(expected / n)
    assert abs(out.var() / expected - 1) < 4 * np.sqrt(2 / n)


def first_mode(x):
    return float((np.asarray(x)[:, 0] < 0).mean())


@pytest.mark.wide(3)
def test_annealing_finds_the_weights_of_the_modes():
    n, ve = 20_000, schedules.ve(0.1, 10.0)
    denoise = MIXTURE.denoiser(ve)
    z = jax.random.normal(jax.random.key(0), (n, 2))
    # Uniform times are geometric levels.
    times = np.linspace(1, 0, 31)

    def cooled(steps, step_size):
        run = jax.jit(
            lambda x: langevin(
                denoise, ve, times, KEY, x, steps_per_level=steps, step_size=step_size
            )
        )
        return first_mode(run(10 * z))

    bound = 4 * np.sqrt(0.2 * 0.8 / n)
    assert abs(cooled(60, 0.4) - 0.2) < bound
    # Cooled too fast, too many are left where they were.
    assert cooled(5, 0.1) > 0.2 + 2 * bound
    # Without annealing, each draw stays with the mode that it begins near.
    cold = langevin(denoise, ve, times[-2:], KEY, z, steps_per_level=300, step_size=0.1)
    assert first_mode(cold) > 0.2 + 10 * bound


@pytest.mark.wide(3)
def test_it_is_one_algorithm_in_the_coordinates_x_over_alpha():
    # Song & Ermon's path has alpha = 1. The same levels sigma / alpha, the same draws.
    vp = schedules.vp_continuous()
    plain = Schedule(jnp.ones_like, lambda t: vp.sigma(t) / vp.alpha(t), lambda t: t)
    times = np.array([0.5, 0.3, 0.1, 0.0])
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (4, 2), jnp.float64)
        for end in (3, 4):
            one, other = (
                langevin(MIXTURE.denoiser(path), path, times[:end], KEY, y, steps_per_level=5)
                for path, y in ((vp, x), (plain, x / vp.alpha(jnp.array(0.5))))
            )
            np.testing.assert_allclose(one, vp.alpha(jnp.array(times[end - 1])) * other, rtol=1e-9)


PATHS = {
    "flow": schedules.flow(),
    "zero terminal SNR": schedules.zero_terminal_snr(schedules.linear(100)),
    "linear": schedules.linear(100),
    "edm": schedules.edm(),
    "ve": schedules.ve(),
}


@pytest.mark.wide(8)
@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("end", [0.0, 0.1])
def test_it_makes_the_stated_calls_at_levels_above_0_and_stays_finite(name, end):
    schedule, calls = PATHS[name], []

    def counted(xt, t):
        jax.debug.callback(lambda t: calls.append(np.asarray(t)), t)
        return MIXTURE.denoiser(schedule)(xt, t)

    x = jax.random.normal(jax.random.key(0), (3, 2)) * schedule.sigma(jnp.ones(()))
    times = [1.0, 0.6, 0.3, end]
    last, path = langevin(
        counted, schedule, times, KEY, x, steps_per_level=3, return_trajectory=True
    )
    jax.effects_barrier()
    assert np.isfinite(path).all()
    np.testing.assert_array_equal(path[0], x)
    np.testing.assert_array_equal(path[-1], last)
    alphas, sigmas = (
        np.asarray(level(jnp.array(times))) for level in (schedule.alpha, schedule.sigma)
    )
    assert len(calls) == 3 * (sigmas > 0).sum() + (alphas[0] == 0) + (sigmas[-1] == 0)
    assert schedule.sigma(jnp.asarray(np.concatenate(calls))).min() > 0


def test_a_grid_down_to_0_ends_in_the_estimate_of_x0():
    schedule = schedules.flow()
    denoise = oracles.point_mass(jnp.array([0.3, -0.8])).denoiser(schedule)
    x = jax.random.normal(jax.random.key(0), (4, 2))
    out = langevin(denoise, schedule, [1.0, 0.5, 0.0], KEY, x, steps_per_level=2)
    np.testing.assert_allclose(out, np.tile([0.3, -0.8], (4, 1)), rtol=1e-5)


def test_an_image_depends_on_its_own_key_alone():
    schedule = schedules.flow()
    keys, x = jax.random.split(KEY, 4), jax.random.normal(jax.random.key(0), (4, 2))

    def run(keys, x):
        times = [0.9, 0.5, 0.1]
        return langevin(MIXTURE.denoiser(schedule), schedule, times, keys, x, steps_per_level=3)

    together = run(keys, x)
    np.testing.assert_allclose(together[2:3], run(keys[2:3], x[2:3]), rtol=1e-5)
    np.testing.assert_allclose(together, jax.jit(run)(keys, x), rtol=1e-5)
    others = run(jax.random.split(jax.random.key(9), 4).at[2].set(keys[2]), x.at[0].set(7.0))
    np.testing.assert_array_equal(together[2], others[2])
    assert np.abs(together[3] - others[3]).min() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps_per_level": 0}, "steps_per_level=0"),
        ({"step_size": 0.0}, "step_size=0.0"),
        ({"step_size": 4.0}, "step_size=4.0.*sigma²"),
        ({"step_size": np.nan}, "step_size=nan"),
        ({"step_size": np.inf}, "step_size=inf"),
        ({"times": [0.0, 1.0]}, "descend"),
    ],
)
def test_bad_input_is_refused(options, message):
    schedule = schedules.flow()
    options = {"times": [1.0, 0.0]} | options
    with pytest.raises(ValueError, match=message):
        langevin(MIXTURE.denoiser(schedule), schedule, key=KEY, x=jnp.ones((2, 2)), **options)
