"""Resizes against Pillow, torch and torch-fidelity."""

import jax
import numpy as np
import pytest
from fidelity_peer import torch_fidelity
from PIL import Image

from ddpm_jax.evaluation.resize import RESIZES, resize, weights

SIZES = [((8, 8), (29, 29)), ((37, 20), (29, 29)), ((40, 9), (7, 31)), ((1, 3), (4, 2))]


def images(size, channels=3):
    return np.random.default_rng(0).integers(0, 256, (2, *size, channels), np.uint8)


def by_pillow(image, size, method):
    """Each channel as a float image, which is how clean-fid avoids rounding in between."""
    height, width = size
    channels = [
        Image.fromarray(image[..., c].astype(np.float32)).resize((width, height), method)
        for c in range(image.shape[-1])
    ]
    return np.stack([np.asarray(c) for c in channels], axis=-1).clip(0, 255)


@pytest.mark.parametrize("name", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("given", "size"), SIZES)
def test_antialiased_resizes_are_pillows(name, given, size):
    x = images(given)
    method = getattr(Image.Resampling, name.upper())
    expected = np.stack([by_pillow(image, size, method) for image in x])
    found = resize(x, size, name)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    rounded = np.asarray(resize(x, size, name, rounding=True))
    assert np.abs(rounded - expected).max() < 0.5001
    assert np.array_equal(rounded, np.rint(rounded))


@pytest.mark.parametrize(("given", "size"), SIZES)
def test_the_torch_resize_is_torchs(given, size):
    torch = pytest.importorskip("torch")
    x = images(given)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32)),
        size=size,
        mode="bilinear",
        align_corners=False,
    )
    found = resize(x, size, "bilinear_torch")
    np.testing.assert_allclose(found, expected.numpy().transpose(0, 2, 3, 1), atol=1e-4)


@pytest.mark.parametrize(("given", "size"), SIZES)
def test_the_tensorflow_resize_is_torch_fidelitys(given, size):
    torch_fidelity()
    import torch
    from torch_fidelity.interpolate_compat_tensorflow import (
        interpolate_bilinear_2d_like_tensorflow1x as theirs,
    )

    x = images(given)
    expected = theirs(
        torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32)),
        size=size,
        align_corners=False,
    )
    found = resize(x, size, "bilinear_tensorflow")
    np.testing.assert_allclose(found, expected.numpy().transpose(0, 2, 3, 1), atol=1e-4)


@pytest.mark.parametrize("name", RESIZES)
def test_an_even_image_stays_even_and_one_size_stays_as_it_is(name):
    for inputs, outputs in ((7, 19), (19, 7), (5, 5)):
        np.testing.assert_allclose(weights(name, inputs, outputs).sum(axis=1), 1)
    np.testing.assert_allclose(weights(name, 6, 6), np.eye(6), atol=1e-15)


def test_what_overshoots_is_clipped():
    x = np.zeros((1, 8, 8, 1), np.uint8)
    x[:, :, 4:] = 255
    wide = weights("bicubic", 8, 30) @ x[0, 0, :, 0]
    assert wide.min() < -5
    assert wide.max() > 260
    found = np.asarray(resize(x, (30, 30), "bicubic"))
    assert found.min() == 0
    assert found.max() == 255


def test_unknown_names_and_sizes_are_refused():
    with pytest.raises(ValueError, match="resize='lanczos' is unknown: choose one of none, bicub"):
        resize(images((4, 4)), (8, 8), "lanczos")
    x = images((4, 4))
    np.testing.assert_array_equal(resize(x, (4, 4), "none"), x)
    with pytest.raises(ValueError, match="images are 4x4 and resize=none needs 8x4"):
        jax.eval_shape(lambda x: resize(x, (8, 4), "none"), x)
