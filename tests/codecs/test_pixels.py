import numpy as np

from ddpm_jax import codecs


def test_every_grey_level_comes_back():
    codec = codecs.pixels((16, 16, 1))
    image = np.arange(256, dtype=np.uint8).reshape(codec.shape)
    x0 = codec.encode(image)
    assert (x0.dtype, x0.min(), x0.max()) == (np.float32, -1, 1)
    np.testing.assert_allclose(x0, np.linspace(-1, 1, 256).reshape(codec.shape), atol=1e-7)
    np.testing.assert_array_equal(codec.decode(x0), image)


def test_what_lies_outside_is_clipped():
    images = codecs.pixels((1, 1, 4)).decode(np.array([[[-7.0, -1.0, 1.0, 7.0]]]))
    assert images.tolist() == [[[0, 0, 255, 255]]]
    assert images.dtype == np.uint8
