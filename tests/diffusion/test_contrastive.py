"""Contrastive losses: where their expectation is least, enumerated, and torch's cross-entropy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import losses

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("size", [2, 3])
def test_the_expectation_over_all_batches_is_least_at_the_pointwise_mutual_information(size):
    """Of 3 images and 2 texts: every batch of independent pairs with its probability."""
    joint = RNG.dirichlet(np.ones(6)).reshape(3, 2)
    pairs = list(itertools.product(range(3), range(2)))
    batches = np.array(list(itertools.product(pairs, repeat=size)))  # [6^size, size, 2]
    probability = joint[batches[..., 0], batches[..., 1]].prod(axis=1)
    np.testing.assert_allclose(probability.sum(), 1)
    information = np.log(joint / joint.sum(axis=1, keepdims=True) / joint.sum(axis=0))

    with jax.enable_x64(True):

        def expectation(table):
            """The dot product of image i's row of the table and text t's unit vector is [i, t]."""

            def of_batch(batch):
                image, text = table[batch[:, 0]], jnp.eye(2, dtype=table.dtype)[batch[:, 1]]
                return losses.clip_loss(image, text, 1.0).mean()

            return probability @ jax.vmap(of_batch)(batches)

        value_and_gradient = jax.jit(jax.value_and_grad(expectation))
        least, gradient = value_and_gradient(jnp.asarray(information))
        assert np.abs(gradient).max() < 1e-10
        less, elsewhere = value_and_gradient(jnp.asarray(0.9 * information))
        assert np.abs(elsewhere).max() > 1e-4
        assert less > least
        # What depends on neither: a constant over all.
        _, shifted = value_and_gradient(jnp.asarray(information + 3))
        assert np.abs(shifted).max() < 1e-10


def test_torchs_cross_entropy_both_ways():
    torch = pytest.importorskip("torch")
    image, text = RNG.standard_normal((2, 7, 5)).astype(np.float32)
    logits = torch.from_numpy(3.0 * image @ text.T)
    right = torch.arange(7)
    cross_entropy = torch.nn.functional.cross_entropy
    expected = [cross_entropy(rows, right, reduction="none").numpy() for rows in (logits, logits.T)]
    found = losses.clip_loss(image, text, 3.0)
    np.testing.assert_allclose(found, (expected[0] + expected[1]) / 2, rtol=1e-5)


def test_torchs_triplet_loss_of_squared_distances():
    torch = pytest.importorskip("torch")
    rows = RNG.standard_normal((3, 9, 4)).astype(np.float32)
    expected = torch.nn.functional.triplet_margin_with_distance_loss(
        *map(torch.from_numpy, rows),
        distance_function=lambda a, b: ((a - b) ** 2).sum(-1),
        margin=0.5,
        reduction="none",
    )
    found = losses.triplet(*rows, margin=0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert (found == 0).any()
    assert (found > 0).any()


def test_the_hardest_negative_is_the_nearest_text_of_another():
    image, text = RNG.standard_normal((2, 8, 3))
    distances = np.linalg.norm(image[:, None] - text[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    np.testing.assert_array_equal(losses.hardest(image, text), distances.argmin(axis=1))


def test_beyond_the_limit_descent_leads_back_alone():
    def slope(value, sign):
        return jax.grad(lambda s: sign * losses.at_most(s, 100.0))(jnp.float32(value))

    assert losses.at_most(jnp.float32(130.0), 100.0) == 100
    assert losses.at_most(jnp.float32(30.0)) == 30
    assert [slope(99.0, 1), slope(99.0, -1)] == [1, -1]
    assert [slope(130.0, 1), slope(130.0, -1)] == [1, 0]


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"one shape, got \(3, 2\) and \(2, 2\)"):
        losses.clip_loss(jnp.ones((3, 2)), jnp.ones((2, 2)), 1.0)
    with pytest.raises(ValueError, match="need margin >= 0, got -1"):
        losses.triplet(*jnp.ones((3, 2, 2)), margin=-1)
    with pytest.raises(ValueError, match="a row alone has no negative"):
        losses.hardest(jnp.ones((1, 2)), jnp.ones((1, 2)))
