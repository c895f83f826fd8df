"""Vector quantisation beside scikit-learn's k-means and diffusers' quantiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import VectorQuantizer
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_argmin

from ddpm_jax.diffusion import quantisation

CODES, CHANNELS = 9, 3


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return rng.standard_normal((CODES, CHANNELS)), rng.standard_normal((4, 5, 6, CHANNELS))


def test_the_nearest_code_is_scikit_learns(arrays):
    codebook, vectors = arrays
    found = quantisation.nearest(jnp.asarray(codebook), jnp.asarray(vectors))
    want = pairwise_distances_argmin(vectors.reshape(-1, CHANNELS), codebook)
    np.testing.assert_array_equal(found, want.reshape(vectors.shape[:-1]))


def test_a_step_without_memory_is_one_of_lloyds(arrays):
    codebook, vectors = arrays
    flat = vectors.reshape(-1, CHANNELS)
    lloyd = KMeans(CODES, init=codebook, n_init=1, max_iter=1, algorithm="lloyd", tol=0).fit(flat)
    codes = jnp.asarray(codebook)
    indices = quantisation.nearest(codes, jnp.asarray(vectors))
    averages = quantisation.first_averages(codes)
    after, moved = quantisation.averaged(
        averages, codes, jnp.asarray(vectors), indices, decay=0.0, smoothing=0.0
    )
    np.testing.assert_allclose(moved, lloyd.cluster_centers_, atol=1e-12)
    np.testing.assert_array_equal(after.counts, np.bincount(indices.ravel(), minlength=CODES))


def test_a_code_that_nothing_becomes_stays_without_memory_and_smoothing():
    codes = jnp.array([[0.0], [10.0]])
    vectors = jnp.array([[0.5], [-0.3]])
    indices = quantisation.nearest(codes, vectors)
    averages = quantisation.first_averages(codes)
    _, moved = quantisation.averaged(averages, codes, vectors, indices, decay=0.0, smoothing=0.0)
    np.testing.assert_allclose(moved, [[0.1], [10.0]], atol=1e-15)


def test_averages_converge_to_the_means_of_what_becomes_a_code():
    rng = np.random.default_rng(1)
    codes = jnp.array([[-2.0], [2.0]])
    averages = quantisation.first_averages(codes)
    for _ in range(300):
        vectors = jnp.asarray(np.where(rng.random((64, 1)) < 0.3, -1.0, 1.5))
        indices = quantisation.nearest(codes, vectors)
        averages, codes = quantisation.averaged(averages, codes, vectors, indices, decay=0.95)
    np.testing.assert_allclose(codes, [[-1.0], [1.5]], atol=1e-5)
    assert averages.counts.sum() == pytest.approx(64, rel=1e-5)


@pytest.mark.parametrize("legacy", [True, False])
def test_vectors_loss_and_both_gradients_are_diffusers(arrays, legacy):
    codebook, vectors = arrays
    weight = np.random.default_rng(2).standard_normal(vectors.shape)

    theirs = VectorQuantizer(CODES, CHANNELS, beta=0.25, legacy=legacy).double()
    theirs.embedding.weight.data = torch.tensor(codebook)
    z = torch.tensor(vectors.transpose(0, 3, 1, 2), requires_grad=True)
    out, loss, (_, _, indices) = theirs(z)
    (loss + (out * torch.tensor(weight.transpose(0, 3, 1, 2))).sum()).backward()

    def ours(codes, x):
        found = quantisation.quantise(codes, x, commitment=0.25, legacy=legacy)
        return found.loss.mean() + (found.vectors * weight).sum(), found

    both = jax.grad(ours, argnums=(0, 1), has_aux=True)
    (of_codes, of_vectors), found = both(jnp.asarray(codebook), jnp.asarray(vectors))
    np.testing.assert_allclose(found.vectors, out.detach().permute(0, 2, 3, 1), atol=1e-12)
    np.testing.assert_array_equal(found.indices.ravel(), indices)
    np.testing.assert_allclose(found.loss.mean(), loss.detach(), atol=1e-12)
    np.testing.assert_allclose(of_codes, theirs.embedding.weight.grad, atol=1e-12)
    np.testing.assert_allclose(of_vectors, z.grad.permute(0, 2, 3, 1), atol=1e-12)


def test_codes_that_are_averages_are_moved_by_no_gradient(arrays):
    codebook, vectors = (jnp.asarray(one) for one in arrays)

    def loss(codes):
        return quantisation.quantise(codes, vectors, moves_codes=False, legacy=False).loss.sum()

    np.testing.assert_array_equal(jax.grad(loss)(codebook), 0)


def test_perplexity_counts_codes_that_are_used_alike():
    assert quantisation.perplexity(jnp.full(8, 3.0)) == pytest.approx(8)
    assert quantisation.perplexity(jnp.array([0.0, 5.0, 0.0])) == pytest.approx(1)
    assert quantisation.perplexity(jnp.array([2.0, 2.0, 0.0])) == pytest.approx(2)


@pytest.mark.parametrize("options", [{"decay": 1.0}, {"decay": -0.1}, {"smoothing": -1e-5}])
def test_averages_out_of_range_are_refused(options):
    codes = jnp.zeros((2, 1))
    averages = quantisation.first_averages(codes)
    with pytest.raises(ValueError, match=r"need decay in \[0, 1\) and smoothing >= 0"):
        quantisation.averaged(averages, codes, codes, jnp.zeros(2, jnp.int32), **options)
