"""What comes before InceptionV3 and what is taken from it, with a network that is quickly told."""

import json

import numpy as np
import pytest

from ddpm_jax.evaluation import inception
from ddpm_jax.models.inception import SIZE, Activations, InceptionV3


@pytest.fixture
def means(monkeypatch):
    """The network's place is taken by means of its input: over the pixels, and of its corner."""

    def apply(self, variables, x):
        assert x.shape[1:] == (SIZE, SIZE, 3)
        mean, corner = x.mean(axis=(1, 2)), x[:, 0, 0]
        return Activations(mean * 192, mean * 768, mean, corner, mean + 9, mean + 1)

    monkeypatch.setattr(InceptionV3, "apply", apply)


def random_images(shape, levels=256):
    return np.random.default_rng(0).integers(0, levels, (3, *shape), np.uint8)


def made(**options):
    return inception.extractor({}, "abc", per_device=1, **options)


def test_an_even_image_is_read_as_its_normalised_value(means):
    images = np.full((2, 10, 20, 3), 200, np.uint8)
    found = made().apply(images)
    np.testing.assert_allclose(found.pooled, 72 / 128, rtol=1e-6)
    np.testing.assert_allclose(found.logits, 1 + 72 / 128, rtol=1e-6)  # without the bias
    np.testing.assert_allclose(found.spatial, 72 / 128, rtol=1e-6)
    theirs = made(normalisation="torch").apply(images)
    np.testing.assert_allclose(theirs.pooled, 200 / 127.5 - 1, rtol=1e-6)
    np.testing.assert_allclose(made(layer="768").apply(images).pooled, 432, rtol=1e-6)
    # 17 levels reach white, and rounding is of the 8-bit scale.
    grey = np.array([4, 16], np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8)
    assert made(levels=17, rounding=True).apply(grey).pooled[:, 0].tolist() == [-0.5, 127 / 128]
    np.testing.assert_allclose(made(levels=17).apply(grey).pooled[0], -64.25 / 128, rtol=1e-6)


def test_a_grey_image_is_three_equal_channels(means):
    images = random_images((9, 7, 1))
    found = made().apply(images)
    in_colour = made().apply(images.repeat(3, axis=-1))
    np.testing.assert_allclose(found.pooled, in_colour.pooled, atol=1e-6)
    np.testing.assert_allclose(found.spatial, in_colour.spatial, atol=1e-6)
    assert found.pooled.shape == (3, 3)


def test_an_image_of_the_networks_size_needs_no_resize(means):
    images = random_images((SIZE, SIZE, 3))
    plain = made(resize="none").apply(images)
    np.testing.assert_allclose(plain.spatial, (images[:, 0, 0] - 128.0) / 128, rtol=1e-6)
    with pytest.raises(ValueError, match="images are 8x9 and resize=none needs 299x299"):
        made(resize="none").apply(random_images((8, 9, 3)))


def test_every_choice_is_part_of_the_protocol():
    choices = [
        {},
        {"resize": "bilinear"},
        {"rounding": True},
        {"normalisation": "torch"},
        {"layer": "192"},
        {"levels": 17},
    ]
    told = [json.dumps(made(**choice).protocol, sort_keys=True) for choice in choices]
    told.append(json.dumps(inception.extractor({}, "abd").protocol, sort_keys=True))
    assert len(set(told)) == len(told)
    assert made().protocol == made().protocol


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": "lanczos"}, "resize='lanczos' is unknown: choose one of bicubic"),
        ({"normalisation": "none"}, "normalisation='none' is unknown"),
        ({"layer": "64"}, "layer='64' is unknown"),
        ({"levels": 1}, "levels=1"),
    ],
)
def test_unknown_choices_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)


def test_other_images_are_refused(means):
    with pytest.raises(ValueError, match="images have 4 channels; Inception reads 1 or 3"):
        made().apply(random_images((8, 8, 4)))
    with pytest.raises(ValueError, match="images are float64"):
        made().apply(np.zeros((1, 8, 8, 3)))
