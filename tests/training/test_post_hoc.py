"""Reconstruction against quadrature, and against averages that were accumulated directly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from ddpm_jax.training import ema, post_hoc


def profile(std, time, tau):
    """Of an average at a time: the density of a power of a uniform variable, by its two moments."""
    gamma = post_hoc.exponent(std)
    return np.where(tau <= time, (gamma + 1) / time * (tau / time) ** gamma, 0.0)


@pytest.mark.parametrize("std", [0.01, 0.05, 0.1, 0.2, 0.28])
def test_the_exponent_has_the_width_by_quadrature(std):
    moments = [
        integrate.quad(lambda tau, k=k: tau**k * profile(std, 1.0, tau), 0, 1, points=[0.9])[0]
        for k in range(3)
    ]
    assert moments[0] == pytest.approx(1, rel=1e-8)
    assert np.sqrt(moments[2] - moments[1] ** 2) == pytest.approx(std, rel=1e-6)


def test_the_exponents_are_the_published_ones():
    # Karras et al. 2024, section 3.1: 16.97 and 6.94 for the widths 0.05 and 0.10.
    found = [post_hoc.exponent(std) for std in (0.05, 0.1)]
    np.testing.assert_allclose(found, [16.97, 6.94], atol=5e-3)


def test_inner_products_are_those_of_quadrature():
    times, stds = np.array([0.5, 1.0, 2.0]), np.array([0.05, 0.1, 0.25])
    gammas = np.array([post_hoc.exponent(std) for std in stds])
    found = post_hoc.inner_products(times, gammas, times, gammas)
    for i, j in np.ndindex(3, 3):
        end = min(times[i], times[j])
        expected, _ = integrate.quad(
            lambda tau, i=i, j=j: profile(stds[i], times[i], tau) * profile(stds[j], times[j], tau),
            0,
            end,
        )
        assert found[i, j] == pytest.approx(expected, rel=1e-6)


@functools.partial(jax.jit, static_argnames="std")
def directly(walk, std):
    """The power average of a walk [N] after each of its steps."""
    share = ema.power(std)

    def one(average, at):
        average = ema.update(average, walk[at], share(at))
        return average, average

    return jax.lax.scan(one, jnp.float32(0), jnp.arange(len(walk)))[1]


@pytest.mark.parametrize("seed", range(2))
def test_32_snapshots_of_two_widths_make_the_average_of_a_random_walk(seed):
    num, kept = 4096, (0.05, 0.1)
    walk = np.cumsum(np.random.default_rng(seed).normal(size=num)).astype(np.float32)
    times = np.arange(1, 33) * (num // 32)
    stored = np.concatenate([np.asarray(directly(walk, std))[times - 1] for std in kept])
    for std in (0.04, 0.06, 0.08, 0.12, 0.15):
        made = post_hoc.combine([*times, *times], np.repeat(kept, 32), num, std)
        error = made.coefficients @ stored.astype(np.float64) - directly(walk, std)[-1]
        assert abs(error) < 1e-3 * walk.std(), std
        assert made.residual < 5e-3
    # The two are no other average: what is made is not what was stored.
    assert abs(directly(walk, 0.08)[-1] - stored[[31, 63]]).min() > 1e-2 * walk.std()


def test_16_snapshots_of_each_width_are_enough_between_them():
    num, kept = 4096, (0.05, 0.1)
    walk = np.cumsum(np.random.default_rng(7).normal(size=num)).astype(np.float32)
    times = np.arange(1, 17) * (num // 16)
    stored = np.concatenate([np.asarray(directly(walk, std))[times - 1] for std in kept])
    made = post_hoc.combine([*times, *times], np.repeat(kept, 16), num, 0.08)
    error = made.coefficients @ stored.astype(np.float64) - directly(walk, 0.08)[-1]
    assert abs(error) < 1e-3 * walk.std()


@pytest.mark.parametrize("std", [0.01, 0.07, 0.2, 0.28])
def test_the_residual_is_that_of_the_profiles(std):
    times, kept = [40, 70, 100], [0.05, 0.1, 0.2]
    made = post_hoc.combine(times, kept, 100, std)
    assert made.coefficients.sum() == pytest.approx(1, abs=1e-9)
    tau = (np.arange(400_000) + 0.5) / 400_000 * 100
    wanted = profile(std, 100, tau)
    others = [profile(one, time, tau) for one, time in zip(kept, times, strict=True)]
    missing = wanted - made.coefficients @ others
    expected = np.sqrt((missing**2).mean() / (wanted**2).mean())
    assert made.residual == pytest.approx(expected, rel=1e-3)
    # The smallest: any other combination of the same sum is farther away.
    rng = np.random.default_rng(0)
    for _ in range(20):
        step = rng.normal(size=3)
        other = made.coefficients + 1e-2 * (step - step.mean())
        farther = np.sqrt(((wanted - other @ others) ** 2).mean() / (wanted**2).mean())
        assert farther >= expected * (1 - 1e-6)


def test_what_was_stored_comes_back_as_it_is():
    times = [100, 200, 300, 300]
    made = post_hoc.combine(times, [0.05, 0.05, 0.05, 0.1], 300, 0.05)
    np.testing.assert_allclose(made.coefficients, [0, 0, 1, 0], atol=1e-7)
    assert made.residual < 1e-6


def test_snapshots_that_nearly_coincide_get_no_huge_coefficients():
    times = [*range(3200, 102_401, 3200), 102_401]
    made = post_hoc.combine(np.repeat(times, 2), [0.05, 0.1] * len(times), 102_401, 0.08)
    assert np.abs(made.coefficients).sum() < 3
    assert made.residual < 1e-3
    repeated = post_hoc.combine([5, 5, 9, 9], [0.1, 0.1, 0.1, 0.1], 9, 0.1)
    np.testing.assert_allclose(repeated.coefficients, [0, 0, 0.5, 0.5], atol=1e-6)


@pytest.mark.parametrize(("times", "std"), [([], 0.1), ([0, 3], 0.1), ([4], 0.1), ([3], 0.3)])
def test_what_cannot_be_combined_is_refused(times, std):
    with pytest.raises(ValueError, match="need"):
        post_hoc.combine(times, [0.1] * len(times), 3, std)
