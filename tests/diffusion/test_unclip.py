"""The better of two, ways on a sphere, components as tokens; and the joint of both models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.transform import Rotation, Slerp

from ddpm_jax import samplers
from ddpm_jax.diffusion import components, prediction, schedules, unclip


def test_the_better_of_two_has_the_law_of_the_larger_of_two_products():
    rng = np.random.default_rng(0)
    text = unclip.unit(jnp.asarray(rng.standard_normal((1, 5))))
    num = 4000
    drawn = rng.standard_normal((num, 2, 5))
    chosen = unclip.best(jnp.asarray(drawn), jnp.broadcast_to(text, (num, 5)))
    products = np.asarray(chosen @ text[0])
    # Of standard normal vectors a product with a unit vector is standard normal.
    assert stats.kstest(products, lambda z: stats.norm.cdf(z) ** 2).pvalue > 0.01
    assert stats.kstest(products, stats.norm.cdf).pvalue < 1e-6
    # What is across the text is chosen by nothing.
    across = (
        np.asarray(chosen - products[:, None] * text)
        @ np.linalg.qr(np.concatenate([text, np.eye(5)[:4]]).T)[0][:, 1:]
    )
    assert stats.kstest(across.ravel(), stats.norm.cdf).pvalue > 0.01


def test_a_single_candidate_is_the_best():
    one = jnp.arange(6.0).reshape(2, 1, 3)
    np.testing.assert_array_equal(unclip.best(one, -jnp.ones((2, 3))), one[:, 0])


def test_slerp_is_scipys_on_a_plane_of_rotations():
    angles = (0.3, 2.1)
    of_scipy = Slerp([0, 1], Rotation.from_euler("z", np.array(angles)[:, None]))(
        np.linspace(0, 1, 7)
    )
    start, end = (jnp.array([np.cos(a), np.sin(a), 0.0]) for a in angles)
    ways = unclip.slerp(start[None], end[None], jnp.linspace(0, 1, 7))
    np.testing.assert_allclose(ways, of_scipy.apply([1.0, 0, 0]), atol=1e-6)
    # Of one point to itself, and to its neighbour: no 0 / 0, no lost digits.
    np.testing.assert_allclose(unclip.slerp(start, start, jnp.float32(0.3)), start, atol=1e-7)
    near = unclip.unit(start + jnp.array([0.0, 0, 1e-6]))
    np.testing.assert_allclose(unclip.slerp(start, near, jnp.float32(0.5))[2], 5e-7, rtol=1e-3)


def test_a_text_diff_turns_towards_the_difference_and_by_its_share_alone():
    rng = np.random.default_rng(1)
    image, before, after = (unclip.unit(jnp.asarray(rng.standard_normal((1, 8)))) for _ in range(3))
    way = unclip.text_diff(image, before, after, jnp.array([0.0, 0.25, 1.0]))
    towards = (after - before) / np.linalg.norm(after - before)
    np.testing.assert_allclose(way[0], image[0], atol=1e-6)
    np.testing.assert_allclose(way[2], towards[0], atol=1e-6)
    angle = np.arccos(np.sum(image * towards))
    assert np.arccos(way[1] @ image[0]) == pytest.approx(angle / 4, rel=1e-4)
    np.testing.assert_allclose(np.linalg.norm(way, axis=-1), 1, rtol=1e-6)


def test_standardised_embeddings_have_unit_mean_square():
    vectors = unclip.unit(jax.random.normal(jax.random.key(0), (2000, 12)))
    assert np.square(unclip.standardised(vectors)).mean() == pytest.approx(1, rel=1e-5)
    np.testing.assert_array_equal(unclip.unit(jnp.zeros((1, 3))), np.zeros((1, 3)))


@pytest.fixture(scope="module")
def vectors():
    """Of a known covariance, the directions turned."""
    rng = np.random.default_rng(2)
    turn = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    return (rng.standard_normal((5000, 6)) * [5, 3, 2, 1, 0.5, 0.1] + 1) @ turn


def test_components_are_those_of_the_singular_values_in_descending_order(vectors):
    fitted = components.fit(vectors, 6, 50)
    _, sizes, of_svd = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    overlap = np.abs(np.sum(of_svd * fitted.directions, axis=1))
    np.testing.assert_allclose(overlap, 1, atol=1e-6)
    scores = (vectors - fitted.mean) @ fitted.directions.T
    np.testing.assert_allclose(scores.std(axis=0), sizes / 5000**0.5, rtol=1e-4)
    again = components.fit(vectors, 6, 50)
    assert all((one == other).all() for one, other in zip(fitted, again, strict=True))


def test_tokens_tell_a_vector_up_to_its_bins_and_what_is_left_out(vectors):
    fitted = components.fit(vectors, 6, 200)
    tokens = components.tokens_of(fitted, jnp.asarray(vectors, jnp.float32))
    assert tokens.dtype == jnp.int32
    # Every bin holds as many.
    counts = np.stack([np.bincount(one, minlength=200) for one in tokens.T])
    assert counts.min() >= 24
    assert counts.max() <= 26
    back = components.vectors_of(fitted, tokens)
    assert np.square(back - vectors).mean() < 0.003 * np.var(vectors, axis=0).mean()
    np.testing.assert_array_equal(components.tokens_of(fitted, back), tokens)
    # Of the first two components: the variance of the others is lost, and no more.
    few = components.fit(vectors, 2, 200)
    back = components.vectors_of(few, components.tokens_of(few, jnp.asarray(vectors)))
    lost = np.square(back - vectors).sum(axis=1).mean()
    assert lost == pytest.approx(4 + 1 + 0.25 + 0.01, rel=0.05)


@pytest.mark.parametrize(("num", "num_values"), [(7, 10), (0, 10), (2, 1), (2, 5001)])
def test_what_cannot_be_fitted_is_refused(vectors, num, num_values):
    with pytest.raises(ValueError, match=r"^need "):
        components.fit(vectors, num, num_values)


def drawn(mean, covariance, key):
    """By the sampler, through the hub, from the exact denoiser alone."""
    schedule = schedules.cosine_continuous()
    times = samplers.grids.log_snr_uniform(schedule, 60)

    def run(mean, key):
        def denoise(xt, t):
            alpha, sigma = schedule.alpha(t)[:, None, None], schedule.sigma(t)[:, None, None]
            seen = jnp.linalg.inv(alpha**2 * covariance[None] + sigma**2 * jnp.eye(2)[None])
            weights = alpha * covariance[None] @ seen
            x0 = mean + jnp.einsum("bij,bj->bi", weights, xt - alpha[..., 0] * mean)
            return prediction.from_x0(schedule, xt, t, x0)

        start = samplers.initial_noise(key, schedule, times, mean.shape)
        return samplers.dpm_solver_pp(denoise, schedule, times, key, start, order=3)

    return jax.jit(run)(mean, key)


def test_prior_then_decoder_gives_the_joint_of_embedding_and_image():
    """Normal z of two dimensions, and an image x = A z + noise: what unCLIP's two halves share."""
    num, key = 20_000, jax.random.key(3)
    covariance_z = jnp.array([[1.0, 0.6], [0.6, 0.8]])
    mean_z, to_image = jnp.array([0.5, -1.0]), jnp.array([[1.2, -0.4], [0.3, 0.7]])
    noise = jnp.array([[0.3, 0.1], [0.1, 0.2]])
    of_prior, of_decoder = jax.random.split(key)
    z = drawn(jnp.broadcast_to(mean_z, (num, 2)), covariance_z, of_prior)
    x = drawn(z @ to_image.T, noise, of_decoder)
    joint = np.concatenate([z, x], axis=1).astype(np.float64)
    mean = np.concatenate([mean_z, to_image @ mean_z])
    cross = covariance_z @ to_image.T
    image = to_image @ covariance_z @ to_image.T + noise
    covariance = np.block([[covariance_z, cross], [cross.T, image]])
    error = np.sqrt(np.diag(covariance) / num)
    assert np.abs((joint.mean(axis=0) - mean) / error).max() < 4
    # The variance of a covariance of normal numbers: Isserlis' theorem.
    spread = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / num)
    assert np.abs((np.cov(joint.T) - covariance) / spread).max() < 4
