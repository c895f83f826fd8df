"""The share of images that show what was wanted, on images whose attributes are known."""

import numpy as np
import pytest

from ddpm_jax.data.shapes import COLOURS, describe, shapes
from ddpm_jax.evaluation.attributes import agreement


def test_shares_are_counted_over_images_and_attributes():
    # An image is its own description: pixel 0 is "a", pixel 1 is "b"; 9 cannot be read.
    images = np.array([[0, 1], [0, 2], [3, 2], [9, 1]], np.uint8).reshape(4, 1, 2, 1)

    def read(image):
        a, b = image.ravel().tolist()
        return None if a == 9 else {"a": a, "b": b, "c": 7}

    wanted = {"a": np.array([0, 0, 0, 9]), "b": np.array([1, 2, 2, 1])}
    assert agreement(images, wanted, read) == (0.5, {"a": 0.5, "b": 0.75})
    assert agreement(images, {"b": wanted["b"]}, read) == (0.75, {"b": 0.75})
    crossed = {"a": np.array([0, 5, 3, 0]), "b": np.array([0, 2, 0, 0])}
    assert agreement(images, crossed, read) == (0.0, {"a": 0.5, "b": 0.25})


def test_real_images_show_what_they_are_and_not_what_they_are_not():
    source = shapes("validation", 16)
    examples = [source[k] for k in range(50)]
    images = np.stack([e["image"] for e in examples])
    wanted = {name: np.array([e[name] for e in examples]) for name in ("shape", "colour", "size_2")}
    together, each = agreement(images, wanted, describe)
    assert together > 0.95
    assert min(each.values()) >= together
    others = wanted | {"colour": (wanted["colour"] + 1) % len(COLOURS)}
    together, each = agreement(images, others, describe)
    assert together == 0
    assert each["colour"] <= 0.02
    assert each["shape"] > 0.95


@pytest.mark.parametrize("wanted", [{}, {"shape": np.zeros(3, int)}, {"shape": 1}])
def test_every_image_needs_a_value(wanted):
    with pytest.raises(ValueError, match="need attributes"):
        agreement(np.zeros((2, 16, 16, 3), np.uint8), wanted, describe)
