"""The small image as a condition: Pillow's bilinear enlargement, and moments of the noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ddpm_jax.diffusion import cascade

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(8, 12), (10, 9)], ids=["twice", "by no whole factor"])
def test_without_noise_it_is_enlarged_as_pillow_does(shape):
    small = RNG.standard_normal((2, 4, 6, 3)).astype(np.float32)
    got = cascade.low_resolution(small, jnp.zeros(2), jnp.ones_like(small), shape)
    assert got.shape == (2, *shape, 4)
    for k, channel in np.ndindex(2, 3):
        image = Image.fromarray(small[k, ..., channel])
        expected = image.resize(shape[::-1], Image.Resampling.BILINEAR)
        np.testing.assert_allclose(got[k, ..., channel], np.asarray(expected), atol=1e-6)


def test_noise_keeps_the_variance_and_takes_the_place_of_the_image():
    num = 40_000
    small = RNG.standard_normal((4, num, 1, 1)).astype(np.float32)
    eps = RNG.standard_normal((4, num, 1, 1)).astype(np.float32)
    level = np.array([0.0, 0.2, 0.6, 0.99], np.float32)
    got = np.asarray(cascade.low_resolution(small, level, eps, (num, 1)))[..., 0, 0]
    assert np.abs(got.var(axis=1) - 1).max() < 5 * np.sqrt(2 / num)
    for k in range(4):
        of_image = np.corrcoef(got[k], small[k].ravel())[0, 1]
        of_noise = np.corrcoef(got[k], eps[k].ravel())[0, 1]
        assert abs(of_noise - level[k]) < 5 / np.sqrt(num)
        assert abs(of_image**2 + of_noise**2 - 1) < 10 / np.sqrt(num)


def test_the_last_channel_tells_the_level_and_is_never_that_of_nothing():
    level = np.array([0.0, 0.25, 0.5], np.float32)
    small = np.zeros((3, 2, 2, 1), np.float32)
    got = np.asarray(cascade.low_resolution(small, level, small, (4, 4)))
    told = got[..., -1]
    assert (told == told[:, :1, :1]).all()
    assert (told[:, 0, 0] == [1.0, 0.75, 0.5]).all()


def test_each_image_has_the_noise_of_its_own_key():
    small, level = jnp.zeros((3, 2, 2, 1)), jnp.full(3, 0.5)
    keys = jax.random.split(jax.random.key(0), 3)
    whole = cascade.noised(keys, small, level, (4, 4))
    part = cascade.noised(keys[1:2], small[1:2], level[1:2], (4, 4))
    np.testing.assert_array_equal(part[0], whole[1])
    assert (whole[0] != whole[1])[..., 0].all()


@pytest.mark.parametrize(
    ("small", "level", "eps", "shape", "words"),
    [
        ((2, 4, 4, 1), (2,), (2, 4, 4, 2), (8, 8), r"need small and eps.*\(2, 4, 4, 2\)"),
        ((2, 4, 4, 1), (1,), (2, 4, 4, 1), (8, 8), r"level \[B\], got.*\(1,\)"),
        ((2, 4, 4, 1), (2,), (2, 4, 4, 1), (8, 2), r"at least \(4, 4\), got \(8, 2\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(small, level, eps, shape, words):
    with pytest.raises(ValueError, match=words):
        cascade.low_resolution(jnp.zeros(small), jnp.zeros(level), jnp.zeros(eps), shape)


@pytest.mark.parametrize("level", [-0.1, 1.0, float("nan")])
def test_a_level_is_below_1(level):
    with pytest.raises(ValueError, match="augmentation"):
        cascade.check_level(level)
