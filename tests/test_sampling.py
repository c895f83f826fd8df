import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import codecs
from ddpm_jax.trained import drawing


def fake_sample_fn(params, keys, conditions):
    """An image whose pixels tell its key."""
    bits = jax.vmap(lambda key: jax.random.uniform(key, (2, 2, 1), minval=-1))(keys)
    assert len(conditions["label"]) == len(keys)
    return bits * params


DECODE = codecs.pixels((2, 2, 1)).decode


def drawn(num, batch_size, seed=0, decode=DECODE, **options):
    conditions = {"label": np.zeros(num, np.int32)}
    batches = drawing.draw_images(
        fake_sample_fn,
        1.0,
        num,
        conditions,
        seed=seed,
        batch_size=batch_size,
        decode=decode,
        **options,
    )
    return np.concatenate(list(batches))


@pytest.mark.parametrize("batch_size", [1, 4, 5, 16])
def test_an_image_is_a_function_of_its_seed_and_number(batch_size):
    np.testing.assert_array_equal(drawn(10, batch_size), drawn(10, 10))
    np.testing.assert_array_equal(drawn(3, batch_size), drawn(10, 10)[:3])
    assert (drawn(10, batch_size, seed=1) != drawn(10, 10)).mean() > 0.9


def test_every_batch_has_the_same_size():
    seen = []

    def spy(params, keys, conditions):
        seen.append((keys.shape, {k: np.asarray(v).tolist() for k, v in conditions.items()}))
        return jnp.zeros((len(keys), 1, 1, 1))

    given = {"label": [3, 1, 4, 1, 5], "colour": [0, 1, 2, 3, 4]}
    images = drawing.draw_images(spy, None, 5, given, seed=0, batch_size=4, decode=DECODE)
    batches = list(images)
    assert seen == [
        ((4,), {"label": [3, 1, 4, 1], "colour": [0, 1, 2, 3]}),
        ((4,), {"label": [5] * 4, "colour": [4] * 4}),  # padded by the last
    ]
    assert [len(batch) for batch in batches] == [4, 1]


def test_a_codec_decodes_what_was_sampled():
    images = drawn(4, 4, decode=lambda x0: DECODE(2 * x0))
    plain = drawn(4, 4).astype(float) / 127.5 - 1
    np.testing.assert_allclose(images / 127.5 - 1, np.clip(2 * plain, -1, 1), atol=0.02)


@pytest.mark.parametrize(
    ("num", "num_classes", "given", "labels"),
    [
        (5, 3, (), [0, 1, 2, 0, 1]),
        (5, 3, (2, 0), [2, 0, 2, 0, 2]),
        (1, 3, (2, 0), [2]),
        (3, 0, (), [-1, -1, -1]),
    ],
)
def test_labels_cycle(num, num_classes, given, labels):
    ours = drawing.default_labels(num, num_classes, given)
    assert ours.dtype == np.int32
    assert ours.tolist() == labels
