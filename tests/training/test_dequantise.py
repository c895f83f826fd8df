import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ddpm_jax.diffusion import schedules
from ddpm_jax.training.objectives import denoise, dequantised

LEVELS = 17


def seen_by_the_loss():
    """An objective whose loss [B] shows the image's own pixels, one at a time."""

    def loss(network, schedule, x0, t, eps):
        return x0.reshape(len(x0), -1)[:, 0]

    return denoise.denoising(lambda *a, **k: None, lambda params: schedules.linear(10), loss=loss)


def pixels(shape):
    return np.random.default_rng(0).integers(0, LEVELS, shape)


def images(values):
    return jnp.asarray(values / 8.0 - 1, jnp.float32)


def test_each_pixel_is_uniform_on_its_own_cell():
    values = pixels((4000, 1, 1, 1))
    objective = dequantised.dequantised(seen_by_the_loss(), LEVELS)
    batch = {"x0": images(values)}
    x0 = np.asarray(objective({}, batch, jax.random.key(0), True, {}).loss)
    place = (x0 + 1) / 2 * LEVELS
    assert np.array_equal(np.floor(place), values.ravel())
    assert stats.kstest(place % 1, "uniform").pvalue > 1e-3
    again = np.asarray(objective({}, batch, jax.random.key(0), True, {}).loss)
    other = np.asarray(objective({}, batch, jax.random.key(1), True, {}).loss)
    assert np.array_equal(x0, again)
    assert not np.array_equal(x0, other)
    # The noise belongs to the place in the batch, not to the batch's size.
    part = {"x0": batch["x0"][:7]}
    np.testing.assert_array_equal(objective({}, part, jax.random.key(0), True, {}).loss, x0[:7])


def test_times_and_noise_are_those_of_the_objective_itself():
    def loss(network, schedule, x0, t, eps):
        return t + eps.reshape(len(eps), -1).sum(axis=1)

    plain = denoise.denoising(lambda *a, **k: None, lambda params: schedules.linear(10), loss=loss)
    batch, key = {"x0": images(pixels((5, 2, 2, 1)))}, jax.random.key(3)
    with_noise = dequantised.dequantised(plain, LEVELS)
    for train in (True, False):
        expected = plain({}, batch, key, train, {})
        got = with_noise({}, batch, key, train, {})
        np.testing.assert_array_equal(got.loss, expected.loss)
        np.testing.assert_array_equal(got.t, expected.t)
    assert with_noise.init_extra({}) == {}


def test_the_levels_are_checked():
    with pytest.raises(ValueError, match="levels=1"):
        dequantised.dequantised(seen_by_the_loss(), 1)
