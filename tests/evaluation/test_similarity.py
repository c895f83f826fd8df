"""How alike images are, beside scikit-image."""

import numpy as np
import pytest

from ddpm_jax.evaluation import similarity

metrics = pytest.importorskip("skimage.metrics")


@pytest.fixture(params=[(7, 7, 1), (8, 8, 1), (32, 20, 3), (9, 31, 3)], ids=str)
def pairs(request):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, *request.param), dtype=np.uint8)
    noise = rng.normal(0, 30, images.shape)
    return images, np.clip(images + noise, 0, 255).astype(np.uint8)


def test_both_measures_are_scikit_images(pairs):
    images, others = pairs
    for ours, theirs, options in (
        (similarity.psnr, metrics.peak_signal_noise_ratio, {}),
        (similarity.ssim, metrics.structural_similarity, {"channel_axis": -1}),
    ):
        want = [theirs(a, b, data_range=255, **options) for a, b in zip(*pairs, strict=True)]
        np.testing.assert_allclose(ours(images, others), want, rtol=1e-10)


def test_an_image_is_itself(pairs):
    images, _ = pairs
    np.testing.assert_allclose(similarity.ssim(images, images), 1, atol=1e-12)
    assert np.isinf(similarity.psnr(images, images)).all()


def test_what_cannot_be_compared_is_refused():
    small = np.zeros((1, 6, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="at least 7x7 pixels"):
        similarity.ssim(small, small)
    with pytest.raises(ValueError, match="uint8 images of one shape"):
        similarity.psnr(small, small.astype(np.float32))
    with pytest.raises(ValueError, match="uint8 images of one shape"):
        similarity.ssim(small, small[:, :5])
