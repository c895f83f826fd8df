"""An objective that shows each image in small: what it draws, and what it leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from ddpm_jax.diffusion import schedules
from ddpm_jax.runtime import sharding
from ddpm_jax.training.objectives import cascaded, denoise, dequantised

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def pixels(num):
    """[num, 4, 6, 1], of 256 levels."""
    return (RNG.integers(0, 256, (num, 4, 6, 1)) / 127.5 - 1).astype(np.float32)


def plain(dropout=0.0):
    """An objective whose loss [B, 4, 6, 4] shows the condition, x_0 and eps."""

    def loss(network, schedule, x0, t, eps):
        return jnp.concatenate([network(x0, t), x0, eps], axis=-1)

    def network(variables, xt, time, conditions, *, train, rngs):
        return conditions["low_resolution"]

    return denoise.denoising(
        network, lambda params: schedules.linear(8), loss=loss, dropout={"low_resolution": dropout}
    )


def shown(objective, images, key=KEY, train=True):
    """The condition [B, 4, 6, 2], x_0 and eps [B, 4, 6]."""
    loss = np.asarray(objective({}, {"x0": images}, key, train, {}).loss)
    return loss[..., :2], loss[..., 2], loss[..., 3]


def test_without_noise_it_is_the_enlarged_mean_of_blocks():
    images = pixels(3)
    seen, x0, _ = shown(cascaded.cascaded(plain(), 2, 0.0), images)
    np.testing.assert_array_equal(x0, images[..., 0])
    assert (seen[..., 1] == 1).all()
    for image, got in zip(images[..., 0], seen[..., 0], strict=True):
        small = Image.fromarray(image).resize((3, 2), Image.Resampling.BOX)
        expected = np.asarray(small.resize((6, 4), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_levels_are_uniform_and_the_noise_is_of_that_level():
    num, largest = 4000, 0.6
    seen, _, _ = shown(cascaded.cascaded(plain(), 2, largest), np.zeros((num, 4, 6, 1), np.float32))
    levels = 1 - seen[:, 0, 0, 1]
    assert stats.kstest(levels / largest, "uniform").pvalue > 1e-3
    # In its corners an enlarged image is the small one.
    corners = seen[:, [0, 0, -1, -1], [0, -1, 0, -1], 0] / levels[:, None]
    assert stats.kstest(corners.ravel(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(corners[:, 0], levels)[0, 1]) < 5 / np.sqrt(num)


@pytest.mark.wide(6)
def test_draws_follow_from_key_and_place_alone():
    images, objective = pixels(16), cascaded.cascaded(plain(), 2, 0.5)
    seen, _, eps = shown(objective, images)
    np.testing.assert_array_equal(shown(objective, images)[0], seen)
    np.testing.assert_array_equal(shown(objective, images, train=False)[0], seen)
    np.testing.assert_allclose(shown(objective, images[:7])[0], seen[:7], atol=1e-6)
    other = shown(objective, images, key=jax.random.key(1))[0]
    assert (other[..., 1] != seen[..., 1]).all()
    place = sharding.batch_sharding(sharding.make_mesh())
    compiled = jax.jit(lambda x: objective({}, {"x0": x}, KEY, True, {}).loss)
    split = np.asarray(compiled(jax.device_put(images, place)))
    np.testing.assert_allclose(split[..., :2], seen, atol=1e-6)
    # Nor do the objective's own draws change, nor do two images share any.
    np.testing.assert_array_equal(shown(cascaded.cascaded(plain(), 2, 0.0), images)[2], eps)
    assert len(np.unique(seen[:, 0, 0, 1])) == 16


def test_what_is_dropped_is_null_with_its_level():
    num, rate = 4000, 0.3
    objective = cascaded.cascaded(plain(rate), 2, 0.5)
    seen, _, _ = shown(objective, pixels(num))
    absent = (seen == 0).all(axis=(1, 2, 3))
    assert abs(absent.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / num)
    assert (seen[~absent, ..., 1] >= 0.5).all()
    assert (shown(objective, pixels(num), train=False)[0][..., 1] >= 0.5).all()


def test_dequantising_does_not_reach_the_small_image():
    images = pixels(8)
    seen, x0, _ = shown(cascaded.cascaded(dequantised.dequantised(plain(), 256), 2, 0.0), images)
    np.testing.assert_array_equal(seen, shown(cascaded.cascaded(plain(), 2, 0.0), images)[0])
    assert (x0 != images[..., 0]).mean() > 0.9
    assert np.abs(x0 - images[..., 0]).max() < 2 / 255


@pytest.mark.parametrize(
    ("factor", "augmentation", "words"), [(1, 0.5, "factor=1"), (2, 1.0, "augmentation=1.0")]
)
def test_what_it_is_built_from_is_checked(factor, augmentation, words):
    with pytest.raises(ValueError, match=words):
        cascaded.cascaded(plain(), factor, augmentation)
