"""Guidance against gradients of log densities, its two ends, and the identity of the path."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion import guidance, prediction, schedules
from ddpm_jax.diffusion.prediction import Denoised

SCHEDULE = schedules.linear(100)
CLASSES = oracles.Mixture([0.4, 0.6], [[-1.0, 0.5], [1.0, 0.0]], [0.3, 0.1])
CLASS = CLASSES.component(1)
TIMES = jnp.array([0.01, 0.3, 0.7, 1.0])


def noised(dtype=jnp.float32):
    return jax.random.normal(jax.random.key(0), (4, 2), dtype)


def assert_same(actual: Denoised, expected: Denoised):
    np.testing.assert_array_equal(actual.x0, expected.x0)
    np.testing.assert_array_equal(actual.eps, expected.eps)


def test_the_ends_are_the_unguided_denoisers_bit_for_bit():
    conditional, unconditional = CLASS.denoiser(SCHEDULE), CLASSES.denoiser(SCHEDULE)

    def fails(xt, t):
        raise AssertionError("the branch that does not count was called")

    xt = noised()
    for one, zero in ((1, 0), (1.0, 0.0)):
        guided = guidance.classifier_free(conditional, fails, one)
        assert_same(guided(xt, TIMES), conditional(xt, TIMES))
        guided = guidance.classifier_free(fails, unconditional, zero)
        assert_same(guided(xt, TIMES), unconditional(xt, TIMES))


@pytest.mark.parametrize("scale", [-0.5, 0.0, 0.3, 1.0, 2.0, 7.5])
@pytest.mark.wide(4)
def test_the_guided_score_mixes_the_gradients_of_the_log_densities(scale):
    with jax.enable_x64(True):
        xt, t = noised(jnp.float64), TIMES.astype(jnp.float64)
        of_all, of_class = (
            jax.grad(lambda x, data=data: data.log_density(SCHEDULE, x, t).sum())(xt)
            for data in (CLASSES, CLASS)
        )
        guided = guidance.classifier_free(
            CLASS.denoiser(SCHEDULE), CLASSES.denoiser(SCHEDULE), scale
        )(xt, t)
        alpha, sigma = SCHEDULE.alpha(t)[:, None], SCHEDULE.sigma(t)[:, None]
        expected = (1 - scale) * of_all + scale * of_class
        np.testing.assert_allclose(-guided.eps / sigma, expected, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(alpha * guided.x0 + sigma * guided.eps, xt, rtol=1e-9)


def test_a_scale_above_1_pushes_towards_the_class():
    # Bayes: the guided density is p(x) p(c | x)^w up to a factor; its score points to the class.
    xt = jnp.zeros((1, 2))
    x0 = [
        guidance.classifier_free(CLASS.denoiser(SCHEDULE), CLASSES.denoiser(SCHEDULE), w)(
            xt, jnp.array([0.5])
        ).x0[0, 0]
        for w in (0, 0.5, 1, 2, 4)
    ]
    assert np.all(np.diff(x0) > 0)  # class 1 lies at +1, class 0 at -1


def network(variables, xt, time, conditions):
    shift = variables["params"][conditions["label"]]
    return jnp.sin(xt + shift) * conditions["gain"] + time[:, None] / 100


PARAMS = jnp.array([[0.0, 0.1], [1.0, -1.0], [2.0, 0.5]])
GIVEN = {"label": jnp.array([1, 2, 1, 2]), "gain": jnp.linspace(0.5, 2, 4)[:, None]}
NULL = {"label": jnp.zeros(4, jnp.int32), "gain": jnp.ones((4, 1))}


@pytest.mark.parametrize("form", ["eps", "x0", "v"])
@pytest.mark.parametrize("scale", [0, 1, 0.5, 3.0])
def test_one_call_of_twice_the_batch_equals_two_calls(form, scale):
    given, null = (
        prediction.denoiser(network, PARAMS, SCHEDULE, prediction=form, conditions=conditions)
        for conditions in (GIVEN, NULL)
    )
    sizes = []

    def counted(variables, xt, time, conditions):
        sizes.append(len(xt))
        return network(variables, xt, time, conditions)

    once = guidance.classifier_free_network(
        counted, PARAMS, SCHEDULE, GIVEN, NULL, scale, prediction_name=form
    )(noised(), TIMES)
    twice = guidance.classifier_free(given, null, scale)(noised(), TIMES)
    assert sizes == [4 if scale in (0, 1) else 8]
    np.testing.assert_allclose(once.x0, twice.x0, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(once.eps, twice.eps, rtol=1e-5, atol=1e-5)


def test_clipping_x0_derives_eps_anew():
    schedule, xt = SCHEDULE, noised()
    fraction = jnp.full_like(xt, 0.25)

    def wild(xt, t):
        return prediction.from_x0(schedule, xt, t, 3 * xt)._replace(variance_fraction=fraction)

    out = guidance.clip_x0(wild, schedule)(xt, TIMES)
    np.testing.assert_array_equal(out.x0, np.clip(3 * np.asarray(xt), -1, 1))
    alpha, sigma = schedule.alpha(TIMES)[:, None], schedule.sigma(TIMES)[:, None]
    np.testing.assert_allclose(alpha * out.x0 + sigma * out.eps, xt, rtol=1e-5, atol=1e-6)
    assert np.abs(out.eps - wild(xt, TIMES).eps).max() > 1  # an eps left as it was would show
    assert out.variance_fraction is fraction
    low = guidance.clip_x0(wild, schedule, low=0.0, high=0.5)(xt, TIMES)
    assert low.x0.min() == 0
    assert low.x0.max() == 0.5


def test_clipping_leaves_what_is_within_the_bounds():
    tame = oracles.point_mass([0.9, -0.9]).denoiser(SCHEDULE)
    clipped = guidance.clip_x0(tame, SCHEDULE)(noised(), TIMES)
    np.testing.assert_array_equal(clipped.x0, tame(noised(), TIMES).x0)
    np.testing.assert_allclose(clipped.eps, tame(noised(), TIMES).eps, rtol=1e-5, atol=1e-6)


def test_guidance_composes():
    guided = guidance.classifier_free(CLASS.denoiser(SCHEDULE), CLASSES.denoiser(SCHEDULE), 5.0)
    changed = guidance.map_x0(guidance.clip_x0(guided, SCHEDULE), SCHEDULE, lambda x0: x0 / 2)
    out = changed(noised(), TIMES)
    assert np.abs(out.x0).max() == 0.5
    alpha, sigma = SCHEDULE.alpha(TIMES)[:, None], SCHEDULE.sigma(TIMES)[:, None]
    np.testing.assert_allclose(alpha * out.x0 + sigma * out.eps, noised(), rtol=1e-5, atol=1e-6)


def test_empty_bounds_are_refused():
    with pytest.raises(ValueError, match=r"low < high.*low=1.*high=1"):
        guidance.clip_x0(CLASS.denoiser(SCHEDULE), SCHEDULE, low=1.0, high=1.0)
